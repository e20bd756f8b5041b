-- Batches that are committed and not yet written into the tables of the database beside this one, oldest first; each is complete in
-- itself. Empty after an orderly stop; read back at the start after a crash.
CREATE TABLE journal (
  id    INTEGER NOT NULL PRIMARY KEY,
  batch BLOB    NOT NULL
) STRICT;

-- No message_id of this worker was or will be made beyond this time without raising it first.
CREATE TABLE worker_marks (
  worker_id INTEGER NOT NULL PRIMARY KEY,
  until_ms  INTEGER NOT NULL
) STRICT;
