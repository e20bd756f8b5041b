-- Several databases: inbox entries whose message is committed here and that follow in the databases of their owners. A row is written
-- with the messages, and goes when its entries are there; what a crash leaves is completed before the messages are acknowledged.
CREATE TABLE pending_inbox (
  id BIGINT NOT NULL PRIMARY KEY,
  entries BYTEA NOT NULL
);
