-- The first schema, for PostgreSQL; the same tables as in the other dialects. `app_id` (tenant) leads every key.
-- Names compare byte by byte (COLLATE "C"), whatever the locale of the database.

-- The counter of a conversation.
CREATE TABLE conversations (
  app_id TEXT COLLATE "C" NOT NULL,
  conversation TEXT COLLATE "C" NOT NULL,
  last_seq BIGINT NOT NULL,
  PRIMARY KEY (app_id, conversation)
);

-- The log of every conversation. `messages_identity`: one client_msg_id, one place, for ever.
CREATE TABLE messages (
  app_id TEXT COLLATE "C" NOT NULL,
  conversation TEXT COLLATE "C" NOT NULL,
  seq BIGINT NOT NULL,
  message_id BIGINT NOT NULL,
  sender TEXT COLLATE "C" NOT NULL,
  client_msg_id BYTEA NOT NULL,
  kind SMALLINT NOT NULL,
  -- Of kind and body as sent; survives the removal of the body.
  payload_hash BIGINT NOT NULL,
  server_time_ms BIGINT NOT NULL,
  -- Places in the two inboxes of a single chat: a repeated acknowledgement and a repeated push are identical.
  sender_inbox_seq BIGINT NOT NULL,
  peer_inbox_seq BIGINT NOT NULL,
  body BYTEA NOT NULL,
  PRIMARY KEY (app_id, conversation, seq),
  CONSTRAINT messages_identity UNIQUE (app_id, conversation, sender, client_msg_id)
);

-- Write diffusion: what a user has to fetch, in one dense sequence.
CREATE TABLE inbox (
  app_id TEXT COLLATE "C" NOT NULL,
  owner TEXT COLLATE "C" NOT NULL,
  inbox_seq BIGINT NOT NULL,
  conversation TEXT COLLATE "C" NOT NULL,
  seq BIGINT NOT NULL,
  PRIMARY KEY (app_id, owner, inbox_seq)
);

CREATE TABLE inbox_counters (
  app_id TEXT COLLATE "C" NOT NULL,
  owner TEXT COLLATE "C" NOT NULL,
  last_inbox_seq BIGINT NOT NULL,
  PRIMARY KEY (app_id, owner)
);

-- How far each device's sends were taken.
CREATE TABLE send_cursors (
  app_id TEXT COLLATE "C" NOT NULL,
  conversation TEXT COLLATE "C" NOT NULL,
  sender TEXT COLLATE "C" NOT NULL,
  device TEXT COLLATE "C" NOT NULL,
  session_epoch BIGINT NOT NULL,
  client_seq BIGINT NOT NULL,
  PRIMARY KEY (app_id, conversation, sender, device)
);

-- Merged by maximum.
CREATE TABLE watermarks (
  app_id TEXT COLLATE "C" NOT NULL,
  conversation TEXT COLLATE "C" NOT NULL,
  user_id TEXT COLLATE "C" NOT NULL,
  delivered_seq BIGINT NOT NULL,
  read_seq BIGINT NOT NULL,
  PRIMARY KEY (app_id, conversation, user_id)
);

CREATE TABLE device_cursors (
  app_id TEXT COLLATE "C" NOT NULL,
  user_id TEXT COLLATE "C" NOT NULL,
  device TEXT COLLATE "C" NOT NULL,
  inbox_seq BIGINT NOT NULL,
  PRIMARY KEY (app_id, user_id, device)
);

CREATE TABLE users (
  app_id TEXT COLLATE "C" NOT NULL,
  user_id TEXT COLLATE "C" NOT NULL,
  -- NULL: logs in with tokens of the integrator only.
  password_hash TEXT,
  display_name TEXT NOT NULL DEFAULT '',
  created_ms BIGINT NOT NULL,
  PRIMARY KEY (app_id, user_id)
);

-- One login; every refresh token descended from it is revoked with it.
CREATE TABLE refresh_families (
  family BYTEA NOT NULL PRIMARY KEY,
  app_id TEXT COLLATE "C" NOT NULL,
  user_id TEXT COLLATE "C" NOT NULL,
  created_ms BIGINT NOT NULL,
  revoked_ms BIGINT
);

-- Only the SHA-256 of a token is kept. A successor is derived from its predecessor with the server's key.
CREATE TABLE refresh_tokens (
  token_hash BYTEA NOT NULL PRIMARY KEY,
  family BYTEA NOT NULL,
  expires_ms BIGINT NOT NULL,
  used_ms BIGINT
);
CREATE INDEX refresh_tokens_family ON refresh_tokens (family);

-- What made a handler fail, for the operator.
CREATE TABLE quarantine (
  id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  app_id TEXT COLLATE "C" NOT NULL,
  user_id TEXT COLLATE "C" NOT NULL,
  device TEXT COLLATE "C" NOT NULL,
  frame_kind TEXT COLLATE "C" NOT NULL,
  payload BYTEA NOT NULL,
  reason TEXT NOT NULL,
  server_time_ms BIGINT NOT NULL
);

-- No message_id of this worker was or will be made beyond this time without raising it first.
CREATE TABLE worker_marks (
  worker_id BIGINT NOT NULL PRIMARY KEY,
  until_ms BIGINT NOT NULL
);
