//! The embedded store: one SQLite file in WAL mode with `synchronous=FULL`.
//!
//! A batch is committed as one row of a journal and written into its tables later: see `commit.rs`.
//!
//! One connection writes, in a pool of one so that workers and the HTTP server queue fairly; a few others read. The WAL is
//! not checkpointed inside a commit: a background connection moves most of it, and [`SqliteStore::tend`] finishes the small
//! rest between two batches, so that the log starts over and no commit waits for it.

mod accounts;
mod bulk;
mod commit;
mod load;
mod pending;
mod read;
mod refresh;
mod tables;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use sqlx::ConnectOptions;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};

use super::StoredMessage;
use super::{Account, HistoryRows, RefreshFamily, RefreshToken, Rotation, Store, StoreError};
use super::{BoxFuture, HistoryRange, InboxMessage, LoadKeys, Loaded, Name, Quarantined, Result};
use super::{WatermarkRow, Writes};
use commit::Applying;
use pending::Pending;

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
/// What is written between two checkpoints, in rows. A share of a layer writes each page once, so waiting longer would save little,
/// and a long sync of the database file holds up the short ones of the log.
const CHECKPOINT_ROWS: u64 = 20_000;
/// The WAL file is cut to this when it starts over: writing over blocks that exist is cheaper than growing a file.
const WAL_BYTES_KEPT: u32 = 256 * 1024 * 1024;
/// Files up to this size are checked completely at start.
const CHECKED_BYTES_MAX: u64 = 32 * 1024 * 1024;

static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("./migrations/sqlite");

/// Checkpoint progress: nothing to do, background copy running, copy done and the rest waits for [`SqliteStore::tend`].
const IDLE: u8 = 0;
const COPYING: u8 = 1;
const COPIED: u8 = 2;

/// The SQLite adapter.
#[derive(Debug)]
pub struct SqliteStore {
    writer: SqlitePool,
    readers: SqlitePool,
    file: PathBuf,
    rows_since_checkpoint: AtomicU64,
    checkpoint: Arc<AtomicU8>,
    /// The database file, to sync it: open as long as the store, because closing it would drop SQLite's locks on the file.
    synced: Arc<File>,
    /// Committed, and not yet in the tables.
    pending: Pending,
    applying: Mutex<Option<Applying>>,
    /// The newest row of the journal that `pending` has.
    last_id: AtomicI64,
    /// A commit failed in a way that leaves open whether it happened.
    is_unsure: AtomicBool,
}

impl SqliteStore {
    /// Opens or creates the database `file` and brings its schema up to date.
    pub async fn open(file: &Path) -> Result<Self> {
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
            SqlitePoolOptions::new()
                .max_connections(connections)
                .test_before_acquire(false)
                .acquire_timeout(ACQUIRE_TIMEOUT)
                .idle_timeout(None)
                .max_lifetime(None)
                .connect_lazy_with(options.clone().pragma("cache_size", format!("-{cache_kib}")))
        };
        // Also makes the file, which SQLite takes for an empty database.
        let synced = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(file)
            .map_err(|e| StoreError::Unavailable(format!("{}: {e}", file.display())))?;
        let store = Self {
            synced: Arc::new(synced),
            writer: pool(1, WRITER_CACHE_KIB),
            readers: pool(READERS, READER_CACHE_KIB),
            file: file.to_path_buf(),
            rows_since_checkpoint: AtomicU64::new(0),
            checkpoint: Arc::new(AtomicU8::new(IDLE)),
            pending: Pending::default(),
            applying: Mutex::new(None),
            last_id: AtomicI64::new(0),
            is_unsure: AtomicBool::new(false),
        };
        store.check_health().await?;
        store.migrate().await?;
        store.recover().await?;
        Ok(store)
    }

    /// Waits until every connection is back in its pool. A connection goes back in a task of the runtime it was used on: one that
    /// is not driven any more would keep it, and the only writer with it.
    pub(crate) async fn settle(&self) {
        let is_out = |pool: &SqlitePool| pool.num_idle() < pool.size() as usize;
        while is_out(&self.writer) || is_out(&self.readers) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
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
            "PRAGMA quick_check(1)"
        } else {
            "SELECT 'ok' FROM sqlite_schema UNION SELECT 'ok'"
        };
        let (verdict,): (String,) = sqlx::query_as(statement)
            .fetch_one(&mut *connection)
            .await
            .map_err(|e| self.error(e))?;
        if verdict == "ok" { Ok(()) } else { Err(self.damaged(&verdict)) }
    }

    async fn migrate(&self) -> Result<()> {
        use sqlx::migrate::MigrateError;
        match MIGRATIONS.run(&self.writer).await {
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

    fn damaged(&self, what: &str) -> StoreError {
        StoreError::Damaged(format!(
            "the database {} is damaged ({what}). Stop Roost, keep a copy of the file with its -wal and -shm files, then restore a \
             backup or rescue what is readable with: sqlite3 '{}' .recover | sqlite3 rescued.db",
            self.file.display(),
            self.file.display()
        ))
    }

    /// Sorts SQLite's result codes (<https://sqlite.org/rescode.html>) into what a caller can do about them.
    fn error(&self, error: sqlx::Error) -> StoreError {
        let Some(database) = error.as_database_error() else {
            let text = format!("{}: {error}", self.file.display());
            let is_ours =
                matches!(error, sqlx::Error::ColumnDecode { .. } | sqlx::Error::Encode(_));
            return if is_ours { StoreError::Refused(text) } else { StoreError::Unavailable(text) };
        };
        let code: i32 = database.code().and_then(|c| c.parse().ok()).unwrap_or(1);
        let message = database.message().to_owned();
        match code & 0xff {
            // BUSY, LOCKED, NOMEM, READONLY, INTERRUPT, IOERR, FULL, CANTOPEN, PROTOCOL
            5 | 6 | 7 | 8 | 9 | 10 | 13 | 14 | 15 => {
                StoreError::Unavailable(format!("{}: {message} ({code})", self.file.display()))
            }
            11 | 26 => self.damaged(&message),
            19 if code == 1555 || code == 2067 => StoreError::Duplicate(message),
            _ => StoreError::Refused(format!("{message} ({code})")),
        }
    }

    /// Counts what was written, in rows, towards the next checkpoint.
    fn count_rows(&self, rows: usize) {
        self.rows_since_checkpoint.fetch_add(rows as u64, Ordering::Relaxed);
    }

    async fn tend(&self) -> Result<()> {
        self.keep_up().await?;
        match self.checkpoint.load(Ordering::Acquire) {
            IDLE if self.rows_since_checkpoint.load(Ordering::Relaxed) >= CHECKPOINT_ROWS => {
                self.rows_since_checkpoint.store(0, Ordering::Relaxed);
                self.checkpoint.store(COPYING, Ordering::Release);
                let (pool, progress) = (self.readers.clone(), Arc::clone(&self.checkpoint));
                let synced = Arc::clone(&self.synced);
                tokio::spawn(async move {
                    // A failed checkpoint only leaves the WAL longer; the next one tries again.
                    let _ = sqlx::query("PRAGMA wal_checkpoint(PASSIVE)").execute(&pool).await;
                    // SQLite leaves this to whoever finishes, which is the writer.
                    let _ = tokio::task::spawn_blocking(move || synced.sync_data()).await;
                    progress.store(COPIED, Ordering::Release);
                });
                Ok(())
            }
            COPIED => {
                self.checkpoint.store(IDLE, Ordering::Release);
                sqlx::query("PRAGMA wal_checkpoint(PASSIVE)")
                    .execute(&self.writer)
                    .await
                    .map(|_| ())
                    .map_err(|e| self.error(e))
            }
            _ => Ok(()),
        }
    }

    /// Writes everything into the tables and closes all connections, after a last checkpoint.
    pub async fn close(&self) {
        if let Err(error) = self.apply_all().await {
            tracing::warn!(%error, "the next start reads the journal");
        }
        self.readers.close().await;
        let _ = sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)").execute(&self.writer).await;
        self.writer.close().await;
    }
}

impl Store for SqliteStore {
    fn load<'a>(&'a self, keys: &'a LoadKeys) -> BoxFuture<'a, Result<Loaded>> {
        Box::pin(self.load(keys))
    }
    fn commit(&self, writes: Writes) -> BoxFuture<'_, Result<()>> {
        Box::pin(self.commit(writes))
    }
    fn quarantine<'a>(&'a self, entry: &'a Quarantined) -> BoxFuture<'a, Result<()>> {
        Box::pin(self.quarantine(entry))
    }
    fn worker_mark(&self, worker_id: u16) -> BoxFuture<'_, Result<u64>> {
        Box::pin(self.worker_mark(worker_id))
    }
    fn tend(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(self.tend())
    }
    fn inbox_positions<'a>(
        &'a self,
        owners: &'a [(Name, Name)],
    ) -> BoxFuture<'a, Result<Vec<u64>>> {
        Box::pin(self.inbox_positions(owners))
    }
    fn inbox_page<'a>(
        &'a self,
        app: &'a str,
        owner: &'a str,
        after: u64,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<InboxMessage>>> {
        Box::pin(self.inbox_page(app, owner, after, limit))
    }
    fn history<'a>(
        &'a self,
        app: &'a str,
        conversation: &'a str,
        range: HistoryRange,
    ) -> BoxFuture<'a, Result<Option<HistoryRows>>> {
        Box::pin(self.history(app, conversation, range))
    }
    fn watermarks<'a>(
        &'a self,
        app: &'a str,
        conversation: &'a str,
    ) -> BoxFuture<'a, Result<Vec<WatermarkRow>>> {
        Box::pin(self.watermarks(app, conversation))
    }
    fn add_users<'a>(
        &'a self,
        app: &'a str,
        users: &'a [Name],
        now_ms: u64,
    ) -> BoxFuture<'a, Result<u64>> {
        Box::pin(self.add_users(app, users, now_ms))
    }
    fn register<'a>(&'a self, app: &'a str, account: &'a Account) -> BoxFuture<'a, Result<()>> {
        Box::pin(self.register(app, account))
    }
    fn account<'a>(
        &'a self,
        app: &'a str,
        user: &'a str,
    ) -> BoxFuture<'a, Result<Option<Account>>> {
        Box::pin(self.account(app, user))
    }
    fn set_display_name<'a>(
        &'a self,
        app: &'a str,
        user: &'a str,
        display_name: &'a str,
    ) -> BoxFuture<'a, Result<bool>> {
        Box::pin(self.set_display_name(app, user, display_name))
    }
    fn open_family<'a>(&'a self, family: &'a RefreshFamily) -> BoxFuture<'a, Result<()>> {
        Box::pin(self.open_family(family))
    }
    fn refresh_token(&self, token_hash: [u8; 32]) -> BoxFuture<'_, Result<Option<RefreshToken>>> {
        Box::pin(self.refresh_token(token_hash))
    }
    fn rotate<'a>(&'a self, rotation: &'a Rotation) -> BoxFuture<'a, Result<()>> {
        Box::pin(self.rotate(rotation))
    }
    fn revoke_family(&self, family: [u8; 16], now_ms: u64) -> BoxFuture<'_, Result<()>> {
        Box::pin(self.revoke_family(family, now_ms))
    }
}

#[cfg(test)]
mod tests;
