-- Several logic processes on one database.

-- Who handles a partition of the bus. Taking it over raises the epoch under an exclusive lock; each commit reads its partitions under a
-- shared one, so a former owner never commits.
CREATE TABLE IF NOT EXISTS partition_owner (
  partition_id BIGINT        NOT NULL PRIMARY KEY,
  epoch        BIGINT        NOT NULL,
  owner        VARBINARY(64) NOT NULL
) ENGINE = InnoDB;

-- What all processes of an installation share: "signing_key" is the Ed25519 seed that signs access tokens.
CREATE TABLE IF NOT EXISTS installation (
  name  VARBINARY(64)   NOT NULL PRIMARY KEY,
  value VARBINARY(1024) NOT NULL
) ENGINE = InnoDB;
