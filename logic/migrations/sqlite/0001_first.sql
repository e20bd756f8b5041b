-- The first schema. `app_id` (tenant) leads every key. Two families of tables, so that a database can be split later:
--   by conversation: conversations, messages, send_cursors, watermarks
--   by owner (user): inbox, inbox_counters, device_cursors, users, refresh_families, refresh_tokens
-- No foreign key crosses the families, and none is declared: the worker writes both sides in one transaction.

-- The counter of a conversation: locked until commit, so that commit order is sequence order.
CREATE TABLE conversations (
  app_id       TEXT    NOT NULL,
  conversation TEXT    NOT NULL,
  last_seq     INTEGER NOT NULL,
  PRIMARY KEY (app_id, conversation)
) STRICT, WITHOUT ROWID;

-- The log of every conversation.
CREATE TABLE messages (
  app_id           TEXT    NOT NULL,
  conversation     TEXT    NOT NULL,
  seq              INTEGER NOT NULL,
  message_id       INTEGER NOT NULL,
  sender           TEXT    NOT NULL,
  client_msg_id    BLOB    NOT NULL,
  kind             INTEGER NOT NULL,
  -- Of kind and body as sent; survives the removal of the body.
  payload_hash     INTEGER NOT NULL,
  server_time_ms   INTEGER NOT NULL,
  -- Places in the two inboxes of a single chat: a repeated acknowledgement and a repeated push are identical.
  sender_inbox_seq INTEGER NOT NULL,
  peer_inbox_seq   INTEGER NOT NULL,
  body             BLOB    NOT NULL,
  PRIMARY KEY (app_id, conversation, seq)
) STRICT, WITHOUT ROWID;

-- Identity: one client_msg_id, one place, for ever.
CREATE UNIQUE INDEX messages_identity ON messages (app_id, conversation, sender, client_msg_id);

-- Write diffusion: what a user has to fetch, in one dense sequence.
CREATE TABLE inbox (
  app_id       TEXT    NOT NULL,
  owner        TEXT    NOT NULL,
  inbox_seq    INTEGER NOT NULL,
  conversation TEXT    NOT NULL,
  seq          INTEGER NOT NULL,
  PRIMARY KEY (app_id, owner, inbox_seq)
) STRICT, WITHOUT ROWID;

CREATE TABLE inbox_counters (
  app_id         TEXT    NOT NULL,
  owner          TEXT    NOT NULL,
  last_inbox_seq INTEGER NOT NULL,
  PRIMARY KEY (app_id, owner)
) STRICT, WITHOUT ROWID;

-- How far each device's sends were taken.
CREATE TABLE send_cursors (
  app_id        TEXT    NOT NULL,
  conversation  TEXT    NOT NULL,
  sender        TEXT    NOT NULL,
  device        TEXT    NOT NULL,
  session_epoch INTEGER NOT NULL,
  client_seq    INTEGER NOT NULL,
  PRIMARY KEY (app_id, conversation, sender, device)
) STRICT, WITHOUT ROWID;

-- Merged by maximum.
CREATE TABLE watermarks (
  app_id        TEXT    NOT NULL,
  conversation  TEXT    NOT NULL,
  user          TEXT    NOT NULL,
  delivered_seq INTEGER NOT NULL,
  read_seq      INTEGER NOT NULL,
  PRIMARY KEY (app_id, conversation, user)
) STRICT, WITHOUT ROWID;

CREATE TABLE device_cursors (
  app_id    TEXT    NOT NULL,
  user      TEXT    NOT NULL,
  device    TEXT    NOT NULL,
  inbox_seq INTEGER NOT NULL,
  PRIMARY KEY (app_id, user, device)
) STRICT, WITHOUT ROWID;

CREATE TABLE users (
  app_id        TEXT    NOT NULL,
  user          TEXT    NOT NULL,
  -- NULL: logs in with tokens of the integrator only.
  password_hash TEXT,
  display_name  TEXT    NOT NULL DEFAULT '',
  created_ms    INTEGER NOT NULL,
  PRIMARY KEY (app_id, user)
) STRICT, WITHOUT ROWID;

-- One login; every refresh token descended from it is revoked with it.
CREATE TABLE refresh_families (
  family     BLOB    NOT NULL PRIMARY KEY,
  app_id     TEXT    NOT NULL,
  user       TEXT    NOT NULL,
  created_ms INTEGER NOT NULL,
  revoked_ms INTEGER
) STRICT, WITHOUT ROWID;

-- Only the SHA-256 of a token is kept. A successor is derived from its predecessor with the server's key.
CREATE TABLE refresh_tokens (
  token_hash BLOB    NOT NULL PRIMARY KEY,
  family     BLOB    NOT NULL,
  expires_ms INTEGER NOT NULL,
  used_ms    INTEGER
) STRICT, WITHOUT ROWID;
CREATE INDEX refresh_tokens_family ON refresh_tokens (family);

-- What made a handler fail, for the operator.
CREATE TABLE quarantine (
  id             INTEGER PRIMARY KEY,
  app_id         TEXT    NOT NULL,
  user           TEXT    NOT NULL,
  device         TEXT    NOT NULL,
  frame_kind     TEXT    NOT NULL,
  payload        BLOB    NOT NULL,
  reason         TEXT    NOT NULL,
  server_time_ms INTEGER NOT NULL
) STRICT;

-- The last batch of the journal, a file beside this one, that is in the tables above with everything before it. Later ones may be
-- there in part, and are written again after a crash.
CREATE TABLE applied (
  one   INTEGER NOT NULL PRIMARY KEY CHECK (one = 1),
  batch INTEGER NOT NULL
) STRICT;
