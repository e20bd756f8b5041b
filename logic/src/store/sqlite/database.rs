//! One SQLite file: its connections, its health, its schema, and its errors in words that say what to do.

use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::migrate::{MigrateError, Migrator};
use sqlx::pool::PoolConnection;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{AssertSqlSafe, ConnectOptions, Executor, Sqlite};

use super::{Result, StoreError};

/// Connections that read.
const READERS: u32 = 3;
/// How long a statement waits for another process's lock.
const BUSY_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a caller waits for a connection.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);
/// Page cache of the writer.
const WRITER_CACHE_KIB: u32 = 128 * 1024;
/// Page cache of each reader.
const READER_CACHE_KIB: u32 = 16 * 1024;
/// A share dirties a page of each conversation and inbox it touches, and the WAL takes whole pages: not larger than needed.
const PAGE_BYTES: u32 = 4096;
/// The WAL file is cut to this when it starts over: writing over blocks that exist is cheaper than growing a file.
const WAL_BYTES_KEPT: u32 = 256 * 1024 * 1024;
/// Files up to this size are checked completely at start.
const CHECKED_BYTES_MAX: u64 = 32 * 1024 * 1024;

#[derive(Debug)]
pub(super) struct Database {
    file: PathBuf,
    /// One connection, synced at every commit unless a transaction says otherwise.
    pub(super) writer: SqlitePool,
    pub(super) readers: SqlitePool,
}

/// The writer's connection. One that goes back while a transaction may be open on it is replaced, which rolls back for certain: after an
/// error, or when the caller went away in the middle, SQLite may or may not have committed, and the driver's own idea of it may be wrong.
pub(super) struct Lent {
    pub(super) connection: PoolConnection<Sqlite>,
    pub(super) is_open: bool,
}

impl Drop for Lent {
    fn drop(&mut self) {
        if self.is_open {
            self.connection.close_on_drop();
        }
    }
}

impl Database {
    /// Opens or creates `file`. `attached`: another file, whose tables the writer may read.
    pub(super) async fn open(
        file: &Path,
        migrations: &Migrator,
        attached: Option<&Path>,
    ) -> Result<Self> {
        let options = SqliteConnectOptions::new()
            .filename(file)
            .create_if_missing(true)
            .page_size(PAGE_BYTES)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(BUSY_TIMEOUT)
            .foreign_keys(false)
            .pragma("wal_autocheckpoint", "0")
            .pragma("temp_store", "memory")
            .pragma("journal_size_limit", WAL_BYTES_KEPT.to_string())
            .statement_cache_capacity(1024)
            .disable_statement_logging();
        let pool = |connections, cache_kib: u32| {
            let options = options.clone().pragma("cache_size", format!("-{cache_kib}"));
            (pool_options(connections), options)
        };
        let (mut writer, options) = pool(1, WRITER_CACHE_KIB);
        if let Some(attached) = attached {
            let path = attached.display().to_string().replace('\'', "''");
            let cache = WRITER_CACHE_KIB;
            let attach =
                format!("ATTACH DATABASE '{path}' AS tables; PRAGMA tables.cache_size = -{cache}");
            writer = writer.after_connect(move |connection, _| {
                let attach = AssertSqlSafe(attach.clone());
                Box::pin(async move { connection.execute(attach).await.map(|_| ()) })
            });
        }
        let writer = writer.connect_lazy_with(options);
        let (readers, options) = pool(READERS, READER_CACHE_KIB);
        let readers = readers.connect_lazy_with(options);
        let database = Self { file: file.to_path_buf(), writer, readers };
        database.check_health().await?;
        database.migrate(migrations).await?;
        Ok(database)
    }

    /// Opens all readers: the first questions after the start need not wait for it.
    pub(super) async fn warm_readers(&self) -> Result<()> {
        let mut open = Vec::new();
        for _ in 0..READERS {
            open.push(self.readers.acquire().await.map_err(|e| self.error(e))?);
        }
        Ok(())
    }

    pub(super) async fn settle(&self) {
        let is_out = |pool: &SqlitePool| pool.num_idle() < pool.size() as usize;
        while is_out(&self.writer) || is_out(&self.readers) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Moves what is in the log into the file, as far as no reader needs it, so that the log can start over.
    pub(super) async fn checkpoint(&self) -> Result<()> {
        let statement = sqlx::query("PRAGMA main.wal_checkpoint(PASSIVE)");
        statement.execute(&self.writer).await.map(|_| ()).map_err(|e| self.error(e))
    }

    /// The writer's connection.
    pub(super) async fn lend(&self) -> Result<Lent> {
        let connection = self.writer.acquire().await.map_err(|e| self.error(e))?;
        Ok(Lent { connection, is_open: false })
    }

    pub(super) async fn close(&self) {
        self.readers.close().await;
        let _ = sqlx::query("PRAGMA main.wal_checkpoint(TRUNCATE)").execute(&self.writer).await;
        self.writer.close().await;
    }

    async fn check_health(&self) -> Result<()> {
        let bytes = std::fs::metadata(&self.file).map_or(0, |m| m.len());
        let mut connection = match self.writer.acquire().await {
            Ok(connection) => connection,
            Err(sqlx::Error::PoolTimedOut) => {
                return Err(StoreError::Unavailable(format!(
                    "{} is locked by another process: stop the other Roost that uses this data folder, or choose another",
                    self.file.display()
                )));
            }
            Err(error) => return Err(self.error(error)),
        };
        // A large file would take longer than a start may: there only the header and the schema are read, and damage elsewhere
        // shows when it is met.
        let statement = if bytes <= CHECKED_BYTES_MAX {
            "PRAGMA main.quick_check(1)"
        } else {
            "SELECT 'ok' FROM sqlite_schema UNION SELECT 'ok'"
        };
        let (verdict,): (String,) = sqlx::query_as(statement)
            .fetch_one(&mut *connection)
            .await
            .map_err(|e| self.error(e))?;
        if verdict == "ok" { Ok(()) } else { Err(self.damaged(&verdict)) }
    }

    async fn migrate(&self, migrations: &Migrator) -> Result<()> {
        match migrations.run(&self.writer).await {
            Ok(()) => Ok(()),
            Err(MigrateError::VersionMissing(version)) => Err(StoreError::Damaged(format!(
                "{} was written by a newer Roost (schema {version}): start that version, or choose another data folder",
                self.file.display()
            ))),
            Err(MigrateError::VersionMismatch(version)) => Err(StoreError::Damaged(format!(
                "{} has another schema {version} than this Roost: choose another data folder, or restore a backup made by this version",
                self.file.display()
            ))),
            Err(MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _)) => {
                Err(self.error(error))
            }
            Err(error) => Err(StoreError::Refused(error.to_string())),
        }
    }

    pub(super) fn damaged(&self, what: &str) -> StoreError {
        StoreError::Damaged(format!(
            "the database {} is damaged ({what}). Stop Roost, keep a copy of the file with its -wal and -shm files, then restore a \
             backup or rescue what is readable with: sqlite3 '{}' .recover | sqlite3 rescued.db",
            self.file.display(),
            self.file.display()
        ))
    }

    /// Sorts SQLite's result codes (<https://sqlite.org/rescode.html>) into what a caller can do about them.
    pub(super) fn error(&self, error: sqlx::Error) -> StoreError {
        let Some(database) = error.as_database_error() else {
            let text = format!("{}: {error}", self.file.display());
            let is_ours =
                matches!(error, sqlx::Error::ColumnDecode { .. } | sqlx::Error::Encode(_));
            return if is_ours { StoreError::Refused(text) } else { StoreError::Unavailable(text) };
        };
        let code: i32 = database.code().and_then(|c| c.parse().ok()).unwrap_or(1);
        let message = database.message().to_owned();
        match code & 0xff {
            13 => StoreError::Unavailable(format!(
                "{}: {message} ({code}): make room there",
                self.file.display()
            )),
            // BUSY, LOCKED, NOMEM, READONLY, INTERRUPT, IOERR, CANTOPEN, PROTOCOL
            5 | 6 | 7 | 8 | 9 | 10 | 14 | 15 => {
                StoreError::Unavailable(format!("{}: {message} ({code})", self.file.display()))
            }
            11 | 26 => self.damaged(&message),
            19 if code == 1555 || code == 2067 => StoreError::Duplicate(message),
            _ => StoreError::Refused(format!("{message} ({code})")),
        }
    }
}

fn pool_options(connections: u32) -> SqlitePoolOptions {
    SqlitePoolOptions::new()
        .max_connections(connections)
        .test_before_acquire(false)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .idle_timeout(None)
        .max_lifetime(None)
}
