-- The first schema, for MariaDB and MySQL; the same tables as in the other dialects. `app_id` (tenant) leads every key.
-- Names are VARBINARY: they compare byte by byte, and no collation can make two of them equal. Their lengths are those of ids
-- (64 bytes) and conversation ids (131 bytes), far below InnoDB's limit of a key.
-- DDL is not transactional here: IF NOT EXISTS lets an interrupted migration be run again.

-- The counter of a conversation.
CREATE TABLE IF NOT EXISTS conversations (
  app_id       VARBINARY(64)  NOT NULL,
  conversation VARBINARY(131) NOT NULL,
  last_seq     BIGINT         NOT NULL,
  PRIMARY KEY (app_id, conversation)
) ENGINE = InnoDB;

-- The log of every conversation. `messages_identity`: one client_msg_id, one place, for ever.
CREATE TABLE IF NOT EXISTS messages (
  app_id           VARBINARY(64)  NOT NULL,
  conversation     VARBINARY(131) NOT NULL,
  seq              BIGINT         NOT NULL,
  message_id       BIGINT         NOT NULL,
  sender           VARBINARY(64)  NOT NULL,
  client_msg_id    BINARY(16)     NOT NULL,
  kind             SMALLINT       NOT NULL,
  -- Of kind and body as sent; survives the removal of the body.
  payload_hash     BIGINT         NOT NULL,
  server_time_ms   BIGINT         NOT NULL,
  -- Places in the two inboxes of a single chat: a repeated acknowledgement and a repeated push are identical.
  sender_inbox_seq BIGINT         NOT NULL,
  peer_inbox_seq   BIGINT         NOT NULL,
  body             MEDIUMBLOB     NOT NULL,
  PRIMARY KEY (app_id, conversation, seq),
  UNIQUE KEY messages_identity (app_id, conversation, sender, client_msg_id)
) ENGINE = InnoDB;

-- Write diffusion: what a user has to fetch, in one dense sequence.
CREATE TABLE IF NOT EXISTS inbox (
  app_id       VARBINARY(64)  NOT NULL,
  owner        VARBINARY(64)  NOT NULL,
  inbox_seq    BIGINT         NOT NULL,
  conversation VARBINARY(131) NOT NULL,
  seq          BIGINT         NOT NULL,
  PRIMARY KEY (app_id, owner, inbox_seq)
) ENGINE = InnoDB;

CREATE TABLE IF NOT EXISTS inbox_counters (
  app_id         VARBINARY(64) NOT NULL,
  owner          VARBINARY(64) NOT NULL,
  last_inbox_seq BIGINT        NOT NULL,
  PRIMARY KEY (app_id, owner)
) ENGINE = InnoDB;

-- How far each device's sends were taken.
CREATE TABLE IF NOT EXISTS send_cursors (
  app_id        VARBINARY(64)  NOT NULL,
  conversation  VARBINARY(131) NOT NULL,
  sender        VARBINARY(64)  NOT NULL,
  device        VARBINARY(64)  NOT NULL,
  session_epoch BIGINT         NOT NULL,
  client_seq    BIGINT         NOT NULL,
  PRIMARY KEY (app_id, conversation, sender, device)
) ENGINE = InnoDB;

-- Merged by maximum.
CREATE TABLE IF NOT EXISTS watermarks (
  app_id        VARBINARY(64)  NOT NULL,
  conversation  VARBINARY(131) NOT NULL,
  user_id       VARBINARY(64)  NOT NULL,
  delivered_seq BIGINT         NOT NULL,
  read_seq      BIGINT         NOT NULL,
  PRIMARY KEY (app_id, conversation, user_id)
) ENGINE = InnoDB;

CREATE TABLE IF NOT EXISTS device_cursors (
  app_id    VARBINARY(64) NOT NULL,
  user_id   VARBINARY(64) NOT NULL,
  device    VARBINARY(64) NOT NULL,
  inbox_seq BIGINT        NOT NULL,
  PRIMARY KEY (app_id, user_id, device)
) ENGINE = InnoDB;

CREATE TABLE IF NOT EXISTS users (
  app_id        VARBINARY(64)   NOT NULL,
  user_id       VARBINARY(64)   NOT NULL,
  -- NULL: logs in with tokens of the integrator only.
  password_hash VARBINARY(1024),
  display_name  VARBINARY(4096) NOT NULL DEFAULT '',
  created_ms    BIGINT          NOT NULL,
  PRIMARY KEY (app_id, user_id)
) ENGINE = InnoDB;

-- One login; every refresh token descended from it is revoked with it.
CREATE TABLE IF NOT EXISTS refresh_families (
  family     BINARY(16)    NOT NULL PRIMARY KEY,
  app_id     VARBINARY(64) NOT NULL,
  user_id    VARBINARY(64) NOT NULL,
  created_ms BIGINT        NOT NULL,
  revoked_ms BIGINT
) ENGINE = InnoDB;

-- Only the SHA-256 of a token is kept. A successor is derived from its predecessor with the server's key.
CREATE TABLE IF NOT EXISTS refresh_tokens (
  token_hash BINARY(32) NOT NULL PRIMARY KEY,
  family     BINARY(16) NOT NULL,
  expires_ms BIGINT     NOT NULL,
  used_ms    BIGINT,
  KEY refresh_tokens_family (family)
) ENGINE = InnoDB;

-- What made a handler fail, for the operator.
CREATE TABLE IF NOT EXISTS quarantine (
  id             BIGINT        NOT NULL AUTO_INCREMENT PRIMARY KEY,
  app_id         VARBINARY(64) NOT NULL,
  user_id        VARBINARY(64) NOT NULL,
  device         VARBINARY(64) NOT NULL,
  frame_kind     VARBINARY(64) NOT NULL,
  payload        MEDIUMBLOB    NOT NULL,
  reason         MEDIUMBLOB    NOT NULL,
  server_time_ms BIGINT        NOT NULL
) ENGINE = InnoDB;

-- No message_id of this worker was or will be made beyond this time without raising it first.
CREATE TABLE IF NOT EXISTS worker_marks (
  worker_id BIGINT NOT NULL PRIMARY KEY,
  until_ms  BIGINT NOT NULL
) ENGINE = InnoDB;
