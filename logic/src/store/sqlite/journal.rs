//! The journal's file: one row a batch, on its own connection, beside the tables that it reads.
//!
//! It stays small: rows go when they are in the tables. Its log is copied into the file by another connection, which also syncs the
//! file, and the writer only finishes the little rest between two commits, so that the log starts over.

use std::fs::File;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use sqlx::Connection;
use sqlx::sqlite::SqliteConnection;

use super::super::NewMessage;
use super::bulk;
use super::database::{Database, Lent};
use super::{Name, Result, StoreError, Writes};

/// Layout of a row; a reader of a later version still reads this one.
const VERSION: u8 = 1;
/// Rows that are deleted at a time: a commit may wait for it.
const DELETED_AT_ONCE: i64 = 100;
/// Bytes written between two checkpoints.
const CHECKPOINT_BYTES: usize = 16 << 20;

static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("./migrations/sqlite_journal");

/// Checkpoint progress: nothing to do, copy and sync running, done and the rest waits for [`Journal::tend`].
const IDLE: u8 = 0;
const COPYING: u8 = 1;
const COPIED: u8 = 2;

#[derive(Debug)]
pub(super) struct Journal {
    pub(super) database: Database,
    /// The newest row that was handed out.
    last_id: AtomicI64,
    /// A commit failed in a way that leaves open whether it happened.
    is_unsure: AtomicBool,
    bytes_since_checkpoint: AtomicUsize,
    checkpoint: Arc<AtomicU8>,
    /// The file, to sync it: open as long as the journal, because closing it would drop SQLite's locks on the file.
    synced: Arc<File>,
}

/// One commit's turn. When it ends in the middle, or with an error, nobody knows whether the commit happened: the journal is read again.
pub(super) struct Turn<'a> {
    journal: &'a Journal,
    lent: Lent,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if self.lent.is_open {
            self.journal.is_unsure.store(true, Ordering::Release);
        }
    }
}

/// A row: its number, its size in bytes, and what is in it.
pub(super) type Batch = (i64, usize, Writes);

impl Journal {
    /// Opens or creates `file`, beside the tables in `tables`, which have all batches up to `applied`.
    pub(super) async fn open(file: &Path, tables: &Path, applied: i64) -> Result<Self> {
        // Also makes the file, which SQLite takes for an empty database.
        let synced = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(file)
            .map_err(|e| StoreError::Unavailable(format!("{}: {e}", file.display())))?;
        Ok(Self {
            database: Database::open(file, &MIGRATIONS, Some(tables)).await?,
            last_id: AtomicI64::new(applied),
            is_unsure: AtomicBool::new(true),
            bytes_since_checkpoint: AtomicUsize::new(0),
            checkpoint: Arc::new(AtomicU8::new(IDLE)),
            synced: Arc::new(synced),
        })
    }

    /// Whether [`Journal::unread`] may have something to say.
    pub(super) fn is_unsure(&self) -> bool {
        self.is_unsure.load(Ordering::Acquire)
    }

    /// Hands out rows that were not handed out, at the start and after a commit with an unknown outcome, to `take`.
    pub(super) async fn unread(&self, mut take: impl FnMut(Batch)) -> Result<()> {
        let mut lent = self.database.lend().await?;
        if self.is_unsure() {
            let rows: Vec<(i64, Vec<u8>)> =
                sqlx::query_as("SELECT id, batch FROM journal WHERE id > ? ORDER BY id")
                    .bind(self.last_id.load(Ordering::Relaxed))
                    .fetch_all(&mut *lent.connection)
                    .await
                    .map_err(|e| self.database.error(e))?;
            for (id, batch) in rows {
                let writes = decode(&batch).map_err(|what| self.database.damaged(&what))?;
                self.last_id.store(id, Ordering::Relaxed);
                take((id, batch.len(), writes));
            }
            self.is_unsure.store(false, Ordering::Release);
        }
        Ok(())
    }

    /// Waits for it.
    pub(super) async fn turn(&self) -> Result<Turn<'_>> {
        Ok(Turn { journal: self, lent: self.database.lend().await? })
    }

    /// Deletes rows up to `last_id`: they are in the tables, durably.
    pub(super) async fn delete(&self, last_id: i64) -> Result<()> {
        loop {
            // The first row is the smallest key: found at once.
            let deleted = sqlx::query(
                "DELETE FROM journal WHERE id <= min(?, (SELECT min(id) FROM journal) + ?)",
            )
            .bind(last_id)
            .bind(DELETED_AT_ONCE)
            .execute(&self.database.writer)
            .await
            .map_err(|e| self.database.error(e))?;
            if deleted.rows_affected() == 0 {
                return Ok(());
            }
        }
    }

    pub(super) async fn worker_mark(&self, worker_id: u16) -> Result<u64> {
        let row: Option<(i64,)> =
            sqlx::query_as("SELECT until_ms FROM worker_marks WHERE worker_id = ?")
                .bind(worker_id)
                .fetch_optional(&self.database.readers)
                .await
                .map_err(|e| self.database.error(e))?;
        Ok(row.map_or(0, |(until_ms,)| until_ms.cast_unsigned()))
    }

    fn is_long(&self) -> bool {
        self.bytes_since_checkpoint.load(Ordering::Relaxed) >= CHECKPOINT_BYTES
    }

    pub(super) fn is_tending_due(&self) -> bool {
        match self.checkpoint.load(Ordering::Acquire) {
            IDLE => self.is_long(),
            progress => progress == COPIED,
        }
    }

    /// Keeps the log short.
    pub(super) async fn tend(&self) -> Result<()> {
        match self.checkpoint.load(Ordering::Acquire) {
            IDLE if self.is_long() => {
                self.bytes_since_checkpoint.store(0, Ordering::Relaxed);
                self.checkpoint.store(COPYING, Ordering::Release);
                let (pool, progress) =
                    (self.database.readers.clone(), Arc::clone(&self.checkpoint));
                let synced = Arc::clone(&self.synced);
                tokio::spawn(async move {
                    // A failed checkpoint only leaves the log longer; the next one tries again.
                    let _ = sqlx::query("PRAGMA wal_checkpoint(PASSIVE)").execute(&pool).await;
                    // SQLite leaves this to whoever finishes, which is the writer.
                    let _ = tokio::task::spawn_blocking(move || synced.sync_data()).await;
                    progress.store(COPIED, Ordering::Release);
                });
                Ok(())
            }
            COPIED => {
                self.checkpoint.store(IDLE, Ordering::Release);
                self.database.checkpoint().await
            }
            _ => Ok(()),
        }
    }

    pub(super) async fn close(&self) {
        self.database.close().await;
    }
}

impl Turn<'_> {
    /// Adds a batch; returns its number and size. `None`: something in it exists, and nothing was written.
    pub(super) async fn insert(
        &mut self,
        writes: &Writes,
        unseen: &Unseen<'_>,
    ) -> Result<Option<(i64, usize)>> {
        let encoded = encode(writes)?;
        let id = self.journal.last_id.load(Ordering::Relaxed) + 1;
        let bytes = encoded.len();
        self.lent.is_open = true;
        let connection = &mut self.lent.connection;
        let inserted =
            insert(connection, id, encoded, unseen, writes.worker_marks.first().copied()).await;
        let is_new = inserted.map_err(|e| self.journal.database.error(e))?;
        self.lent.is_open = false;
        if !is_new {
            return Ok(None);
        }
        self.journal.last_id.store(id, Ordering::Relaxed);
        self.journal.bytes_since_checkpoint.fetch_add(bytes, Ordering::Relaxed);
        Ok(Some((id, bytes)))
    }
}

/// What a commit asks the tables for: none of it may exist.
#[derive(Debug, Default)]
pub(super) struct Unseen<'a> {
    pub(super) identities: Vec<&'a NewMessage>,
    pub(super) places: Vec<(&'a Name, &'a Name, u64)>,
    pub(super) entries: Vec<(&'a Name, &'a Name, u64)>,
}

/// Adds a batch; `false`: something in it exists, and nothing was written.
///
/// It runs to its end, as a query for what it returns would not: SQLite commits after the last row, and a driver that has the rows it
/// wants drops the error of that.
///
/// It is one statement: the driver runs a connection on a thread of its own, and everything that is asked for alone costs two
/// wake-ups, which on a busy machine is most of the latency. There is one text per size class; keys that a class has room for and the
/// batch has not are empty, and match nothing.
async fn insert(
    connection: &mut SqliteConnection,
    id: i64,
    batch: Vec<u8>,
    unseen: &Unseen<'_>,
    worker_mark: Option<(u16, u64)>,
) -> sqlx::Result<bool> {
    static TEXTS: [OnceLock<Arc<str>>; 16] = [const { OnceLock::new() }; 16];
    let most = unseen.identities.len().max(unseen.places.len()).max(unseen.entries.len() / 2);
    let class = most.max(1).next_power_of_two().trailing_zeros();
    let room = 1 << class;
    let text = match TEXTS.get(class as usize) {
        Some(text) => Arc::clone(text.get_or_init(|| text_of(room))),
        None => text_of(room),
    };
    let mut query = bulk::query(&text).bind(id).bind(batch);
    for row in &unseen.identities {
        query = query
            .bind(Arc::clone(&row.app))
            .bind(Arc::clone(&row.conversation))
            .bind(Arc::clone(&row.sender))
            .bind(row.client_msg_id.to_vec());
    }
    query = (4 * unseen.identities.len()..4 * room).fold(query, |query, _| query.bind(None::<i64>));
    for (keys, room) in [(&unseen.places, room), (&unseen.entries, 2 * room)] {
        for (app, name, number) in keys {
            query = query.bind(Arc::clone(app)).bind(Arc::clone(name)).bind(number.cast_signed());
        }
        query = (3 * keys.len()..3 * room).fold(query, |query, _| query.bind(None::<i64>));
    }
    let Some((worker_id, until_ms)) = worker_mark else {
        return query.execute(connection).await.map(|done| done.rows_affected() == 1);
    };
    // Every few seconds.
    let mut transaction = connection.begin().await?;
    sqlx::query(
        "INSERT INTO worker_marks (worker_id, until_ms) VALUES (?, ?) \
         ON CONFLICT DO UPDATE SET until_ms = max(until_ms, excluded.until_ms)",
    )
    .bind(worker_id)
    .bind(until_ms.cast_signed())
    .execute(&mut *transaction)
    .await?;
    let is_new = query.execute(&mut *transaction).await?.rows_affected() == 1;
    transaction.commit().await?;
    Ok(is_new)
}

fn text_of(room: usize) -> Arc<str> {
    format!(
        "INSERT INTO journal (id, batch) SELECT ?, ? WHERE \
         NOT EXISTS (SELECT 1 FROM (VALUES {}) k CROSS JOIN tables.messages m INDEXED BY messages_identity \
         WHERE m.app_id = k.column1 AND m.conversation = k.column2 AND m.sender = k.column3 AND m.client_msg_id = k.column4) \
         AND NOT EXISTS (SELECT 1 FROM (VALUES {}) k CROSS JOIN tables.messages m \
         WHERE m.app_id = k.column1 AND m.conversation = k.column2 AND m.seq = k.column3) \
         AND NOT EXISTS (SELECT 1 FROM (VALUES {}) k CROSS JOIN tables.inbox i \
         WHERE i.app_id = k.column1 AND i.owner = k.column2 AND i.inbox_seq = k.column3)",
        bulk::values(4, room),
        bulk::values(3, room),
        bulk::values(3, 2 * room),
    )
    .into()
}

fn encode(writes: &Writes) -> Result<Vec<u8>> {
    let encoded = postcard::to_extend(writes, vec![VERSION]);
    encoded.map_err(|e| StoreError::Refused(format!("a batch cannot be written: {e}")))
}

fn decode(batch: &[u8]) -> std::result::Result<Writes, String> {
    match batch.split_first() {
        Some((&VERSION, rest)) => postcard::from_bytes(rest).map_err(|e| format!("journal: {e}")),
        Some((version, _)) => {
            Err(format!("journal of version {version}, written by a newer Roost"))
        }
        None => Err("journal: an empty batch".to_owned()),
    }
}
