//! The embedded store: two SQLite files in WAL mode. A batch is committed as one row of the *journal*, and written into the *tables* later:
//! see `commit.rs`.
//!
//! Each file has one connection that writes, in a pool of one so that workers and the HTTP server queue fairly; a few others read the
//! tables. So a commit never waits for the tables: their rows, their checkpoints and their syncs are somebody else's work.

mod accounts;
mod bulk;
mod commit;
mod database;
mod journal;
mod load;
mod pending;
mod read;
mod refresh;
mod tables;

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::runtime::Handle;

use super::StoredMessage;
use super::{Account, HistoryRows, RefreshFamily, RefreshToken, Rotation, Store, StoreError};
use super::{BoxFuture, HistoryRange, InboxMessage, LoadKeys, Loaded, Name, Quarantined, Result};
use super::{WatermarkRow, Writes};
use crate::background;
use commit::Progress;
use database::Database;
use journal::Journal;
use pending::Pending;

/// What is written into the tables between two checkpoints, in rows. A share of a layer writes each page once, so waiting longer would
/// save little.
const CHECKPOINT_ROWS: u64 = 40_000;

static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("./migrations/sqlite");

/// The SQLite adapter.
#[derive(Debug)]
pub struct SqliteStore {
    tables: Database,
    rows_since_checkpoint: AtomicU64,
    journal: Journal,
    /// In the journal, and not yet in the tables.
    pending: Pending,
    progress: Mutex<Progress>,
}

impl SqliteStore {
    /// Opens or creates the database `file`, with its journal beside it (`NAME-journal.db`), and brings their schemas up to date.
    pub async fn open(file: &Path) -> Result<Self> {
        let tables = {
            // SQLite works on a thread that inherits the priority of this one: shares and checkpoints make way for commits.
            let (file, runtime) = (file.to_path_buf(), Handle::current());
            let open = move || runtime.block_on(Database::open(&file, &MIGRATIONS, None));
            let opened = background::run("roost-open", open).await;
            opened.map_err(|e| StoreError::Unavailable(e.to_string()))??
        };
        tables.warm_readers().await?;
        let mut name = file.file_stem().unwrap_or_default().to_owned();
        name.push("-journal.db");
        let applied = commit::applied(&tables).await?;
        let journal = Journal::open(&file.with_file_name(name), file, applied).await?;
        let store = Self {
            tables,
            rows_since_checkpoint: AtomicU64::new(0),
            journal,
            pending: Pending::default(),
            progress: Mutex::default(),
        };
        store.be_sure().await?;
        Ok(store)
    }

    /// Waits until every connection is back in its pool. A connection goes back in a task of the runtime it was used on: one that
    /// is not driven any more would keep it, and the only writer with it.
    pub(crate) async fn settle(&self) {
        self.tables.settle().await;
        self.journal.database.settle().await;
    }

    fn error(&self, error: sqlx::Error) -> StoreError {
        self.tables.error(error)
    }

    /// Counts rows written into the tables towards the next checkpoint.
    fn count_rows(&self, rows: usize) {
        self.rows_since_checkpoint.fetch_add(rows as u64, Ordering::Relaxed);
    }

    fn is_checkpoint_due(&self) -> bool {
        self.rows_since_checkpoint.load(Ordering::Relaxed) >= CHECKPOINT_ROWS
    }

    async fn tend(&self) -> Result<()> {
        self.journal.tend().await?;
        let share = self.share_due();
        if share > 0 {
            self.apply(share).await?;
        }
        if self.is_checkpoint_due() {
            self.rows_since_checkpoint.store(0, Ordering::Relaxed);
            self.tables.checkpoint().await?;
        }
        Ok(())
    }

    /// Writes everything into the tables and closes all connections, after a last checkpoint.
    pub async fn close(&self) {
        if let Err(error) = self.apply_all().await {
            tracing::warn!(%error, "the next start reads the journal");
        }
        self.journal.close().await;
        self.tables.close().await;
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
        Box::pin(self.journal.worker_mark(worker_id))
    }
    fn is_tending_due(&self) -> bool {
        self.journal.is_tending_due() || self.share_due() > 0 || self.is_checkpoint_due()
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
