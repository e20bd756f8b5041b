//! A commit is one row of the journal, whatever the batch holds: pages that are written one after the other and synced once.
//!
//! Writing a batch into its tables at once would touch a page of its own for every conversation and inbox in it, several for each
//! message. Batches therefore wait in the journal, and in memory as [`Pending`](super::pending::Pending); [`SqliteStore::tend`] writes
//! them into the tables between two commits, a share at a time, when thousands of rows have come together: rows of one conversation
//! then share their pages. These transactions are not synced: until a later commit's sync has made them durable, a crash leaves
//! journal and tables as they were.

use std::fmt::Write;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};

use sqlx::pool::PoolConnection;
use sqlx::sqlite::SqliteConnection;
use sqlx::{Executor, Row, Sqlite};

use super::super::{IdentityKey, NewMessage};
use super::bulk;
use super::{Name, Quarantined, Result, SqliteStore, StoreError, Writes, tables};

/// A layer of this weight is sealed: about fifteen thousand messages, which a start after a crash writes in a fraction of a second.
const LAYER_WEIGHT: usize = 128_000;
/// Beyond this many layers nothing more is committed until the tables have caught up.
const LAYERS_WAITING_MAX: usize = 4;
/// What a share costs at least, in rows: that of its transaction is small beside it.
const SHARE_COST_MIN: usize = 512;
/// Layout of a row of the journal; a reader of a later version still reads this one.
const JOURNAL_VERSION: u8 = 1;

/// A sealed layer on its way into the tables.
#[derive(Debug)]
pub(super) struct Applying {
    writes: Arc<Writes>,
    /// Where it is in the journal: deleted when everything is written, from the first on.
    first_id: i64,
    batches: usize,
    /// What of its cost is done.
    done: usize,
    /// Weight of the open layer when a share was last written.
    weight_then: usize,
}

impl Applying {
    /// What is left to do when all rows are in their tables counts as well.
    fn cost(&self) -> usize {
        tables::cost(&self.writes) + self.batches
    }
}

/// The writer's connection while a transaction may be open on it. After an error, or when the caller goes away in the middle, SQLite
/// may or may not have committed, and the driver's own idea of it may be wrong: the connection is then replaced, which rolls back
/// for certain, and the journal is asked.
struct Open<'a> {
    store: &'a SqliteStore,
    connection: PoolConnection<Sqlite>,
    is_done: bool,
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        if !self.is_done {
            self.connection.close_on_drop();
            self.store.is_unsure.store(true, Ordering::Release);
        }
    }
}

impl SqliteStore {
    pub(super) async fn commit(&self, writes: Writes) -> Result<()> {
        self.be_sure().await?;
        if self.pending.weight() > LAYERS_WAITING_MAX * LAYER_WEIGHT {
            self.apply_all().await?;
        }
        let encoded = encode(&writes)?;
        let connection = self.writer.acquire().await.map_err(|e| self.error(e))?;
        let mut open = Open { store: self, connection, is_done: false };
        let unseen = match self.unseen(&writes) {
            Ok(unseen) => unseen,
            Err(error) => {
                open.is_done = true;
                return Err(error);
            }
        };
        let id = self.last_id.load(Ordering::Relaxed) + 1;
        let bytes = encoded.len();
        let is_new = insert(&mut open.connection, id, encoded, &unseen, writes.worker_mark)
            .await
            .map_err(|e| self.error(e))?;
        open.is_done = true;
        if !is_new {
            return Err(StoreError::Duplicate("a message or a place of this batch".to_owned()));
        }
        self.last_id.store(id, Ordering::Relaxed);
        self.count_rows(bytes / 1024);
        self.pending.add(id, bytes, writes);
        Ok(())
    }

    /// Refuses identities and places that are pending; returns those that the tables must be asked for.
    fn unseen<'a>(&self, writes: &'a Writes) -> Result<Unseen<'a>> {
        let taken = |what: String| Err(StoreError::Duplicate(what));
        let mut unseen = Unseen::default();
        for message in &writes.messages {
            let identity = IdentityKey {
                app: Arc::clone(&message.app),
                conversation: Arc::clone(&message.conversation),
                sender: Arc::clone(&message.sender),
                client_msg_id: message.client_msg_id,
            };
            let seq = message.placed.seq;
            if self.pending.identity(&identity).is_some() {
                return taken(format!("a message of {}", message.sender));
            }
            unseen.identities.push(message);
            match self.pending.newest_message(&message.app, &message.conversation) {
                Some(newest) if seq <= newest => {
                    return taken(format!("{} {seq}", message.conversation));
                }
                Some(_) => {}
                None => unseen.places.push((&message.app, &message.conversation, seq)),
            }
        }
        for entry in &writes.inbox {
            match self.pending.newest_entry(&entry.app, &entry.owner) {
                Some(newest) if entry.inbox_seq <= newest => {
                    return taken(format!("inbox {} {}", entry.owner, entry.inbox_seq));
                }
                Some(_) => {}
                None => unseen.entries.push((&entry.app, &entry.owner, entry.inbox_seq)),
            }
        }
        // Rows of one conversation and of one inbox are neighbours, and dense: the first stands for all.
        unseen.places.dedup_by_key(|(app, conversation, _)| (*app, *conversation));
        unseen.entries.dedup_by_key(|(app, owner, _)| (*app, *owner));
        Ok(unseen)
    }

    /// After a commit with an unknown outcome: what the journal has and the layers have not is taken in.
    pub(super) async fn be_sure(&self) -> Result<()> {
        if !self.is_unsure.load(Ordering::Acquire) {
            return Ok(());
        }
        let mut connection = self.writer.acquire().await.map_err(|e| self.error(e))?;
        if self.is_unsure.load(Ordering::Acquire) {
            self.read_journal(&mut connection).await?;
            self.is_unsure.store(false, Ordering::Release);
        }
        Ok(())
    }

    async fn read_journal(&self, connection: &mut SqliteConnection) -> Result<()> {
        let rows: Vec<(i64, Vec<u8>)> =
            sqlx::query_as("SELECT id, batch FROM journal WHERE id > ? ORDER BY id")
                .bind(self.last_id.load(Ordering::Relaxed))
                .fetch_all(connection)
                .await
                .map_err(|e| self.error(e))?;
        for (id, batch) in rows {
            let writes = decode(&batch).map_err(|what| self.damaged(&what))?;
            self.last_id.store(id, Ordering::Relaxed);
            self.pending.add(id, batch.len(), writes);
        }
        Ok(())
    }

    /// At the start: what the journal holds goes into the tables. A disk without room for it is no reason not to serve what is there:
    /// it stays in memory, and is tried again.
    pub(super) async fn recover(&self) -> Result<()> {
        let mut connection = self.writer.acquire().await.map_err(|e| self.error(e))?;
        self.read_journal(&mut connection).await?;
        drop(connection);
        match self.apply_all().await {
            Err(StoreError::Unavailable(cause)) => {
                tracing::warn!(cause, "the journal cannot be written into the tables yet");
                Ok(())
            }
            done => done,
        }
    }

    /// Writes everything that is pending into the tables.
    pub(super) async fn apply_all(&self) -> Result<()> {
        while self.apply(usize::MAX).await? {}
        Ok(())
    }

    /// Writes as large a share into the tables that they keep up with the commits since the last one. The share of a batch is in
    /// proportion to its size, so no commit waits for the work of many others.
    pub(super) async fn keep_up(&self) -> Result<()> {
        let weight = self.pending.weight();
        let cost = match &*self.applying.lock() {
            Some(applying) => {
                let since = weight.saturating_sub(applying.weight_then);
                // A quarter more than was added: a layer is in the tables before the next one is full.
                (applying.cost() * since).div_ceil(LAYER_WEIGHT) * 5 / 4
            }
            None if weight >= LAYER_WEIGHT => SHARE_COST_MIN,
            None => 0,
        };
        if cost >= SHARE_COST_MIN {
            self.apply(cost).await?;
        }
        Ok(())
    }

    /// Writes rows of up to this cost of the sealed layer, or of the open one, which is then sealed, into the tables; `false`: there are
    /// none.
    pub(super) async fn apply(&self, cost: usize) -> Result<bool> {
        self.be_sure().await?;
        let connection = self.writer.acquire().await.map_err(|e| self.error(e))?;
        let (writes, first_id, share, total) = {
            let mut applying = self.applying.lock();
            if applying.is_none() {
                *applying = self.pending.seal().map(|(writes, ids)| Applying {
                    writes: Arc::new(writes),
                    first_id: *ids.start(),
                    batches: ids.count(),
                    done: 0,
                    weight_then: 0,
                });
            }
            let Some(applying) = &*applying else { return Ok(false) };
            let (done, total) = (applying.done, applying.cost());
            let end = done.saturating_add(cost).min(total);
            (Arc::clone(&applying.writes), applying.first_id, done..end, total)
        };
        let mut open = Open { store: self, connection, is_done: false };
        let written = async {
            let connection = &mut *open.connection;
            connection.execute("PRAGMA synchronous = NORMAL; BEGIN IMMEDIATE").await?;
            tables::write(connection, &writes, share.clone()).await?;
            let batches = share.end.saturating_sub(tables::cost(&writes));
            if batches > 0 {
                sqlx::query("DELETE FROM journal WHERE id < ?")
                    .bind(first_id.saturating_add_unsigned(batches as u64))
                    .execute(&mut *connection)
                    .await?;
            }
            connection.execute("COMMIT; PRAGMA synchronous = FULL").await
        };
        written.await.map_err(|e| self.error(e))?;
        open.is_done = true;
        self.count_rows(share.len());
        let mut applying = self.applying.lock();
        if share.end == total {
            *applying = None;
            self.pending.drop_sealed();
        } else if let Some(applying) = &mut *applying {
            applying.done = share.end;
            applying.weight_then = self.pending.weight();
        }
        Ok(true)
    }

    pub(super) async fn quarantine(&self, entry: &Quarantined) -> Result<()> {
        sqlx::query(
            "INSERT INTO quarantine (app_id, user, device, frame_kind, payload, reason, server_time_ms) \
             VALUES (?, ?, ?, ?, ?, ?, ?)",
        )
        .bind(&entry.app)
        .bind(&entry.user)
        .bind(&entry.device)
        .bind(entry.frame_kind)
        .bind(&entry.payload)
        .bind(&entry.reason)
        .bind(entry.server_time_ms.cast_signed())
        .execute(&self.writer)
        .await
        .map(|_| ())
        .map_err(|e| self.error(e))
    }

    pub(super) async fn worker_mark(&self, worker_id: u16) -> Result<u64> {
        let row: Option<(i64,)> =
            sqlx::query_as("SELECT until_ms FROM worker_marks WHERE worker_id = ?")
                .bind(worker_id)
                .fetch_optional(&self.readers)
                .await
                .map_err(|e| self.error(e))?;
        Ok(row.map_or(0, |(until_ms,)| until_ms.cast_unsigned()))
    }
}

/// What a commit asks the tables for: none of it may exist.
#[derive(Debug, Default)]
struct Unseen<'a> {
    identities: Vec<&'a NewMessage>,
    places: Vec<(&'a Name, &'a Name, u64)>,
    entries: Vec<(&'a Name, &'a Name, u64)>,
}

/// Adds a batch to the journal in a transaction of its own; `false`: something in it exists, and nothing was written.
///
/// It is one text with all its statements, from BEGIN to COMMIT: the driver runs a connection on a thread of its own, and every
/// statement that is asked for alone costs two wake-ups, which on a busy machine is most of the latency. There is one text per size
/// class; keys that a class has room for and the batch has not are empty, and match nothing.
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
    let (worker_id, until_ms) = worker_mark.unzip();
    let mut query = bulk::query(&text)
        .bind(worker_id)
        .bind(until_ms.map(u64::cast_signed))
        .bind(id)
        .bind(batch);
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
    let inserted = query.fetch_all(connection).await?;
    debug_assert!(inserted.iter().all(|row| row.get::<i64, _>(0) == id), "our own row");
    Ok(!inserted.is_empty())
}

fn text_of(room: usize) -> Arc<str> {
    let mut text = "BEGIN IMMEDIATE;\n\
        INSERT OR ROLLBACK INTO worker_marks (worker_id, until_ms) \
        SELECT * FROM (VALUES (?, ?)) WHERE column1 IS NOT NULL \
        ON CONFLICT DO UPDATE SET until_ms = max(until_ms, excluded.until_ms);\n\
        INSERT OR ROLLBACK INTO journal (id, batch) SELECT ?, ? WHERE"
        .to_owned();
    // Writing to a string does not fail.
    let _ = write!(
        text,
        " NOT EXISTS (SELECT 1 FROM (VALUES {}) k CROSS JOIN messages m INDEXED BY messages_identity \
         WHERE m.app_id = k.column1 AND m.conversation = k.column2 AND m.sender = k.column3 AND m.client_msg_id = k.column4) \
         AND NOT EXISTS (SELECT 1 FROM (VALUES {}) k CROSS JOIN messages m \
         WHERE m.app_id = k.column1 AND m.conversation = k.column2 AND m.seq = k.column3) \
         AND NOT EXISTS (SELECT 1 FROM (VALUES {}) k CROSS JOIN inbox i \
         WHERE i.app_id = k.column1 AND i.owner = k.column2 AND i.inbox_seq = k.column3) \
         RETURNING id;\nCOMMIT;",
        bulk::values(4, room),
        bulk::values(3, room),
        bulk::values(3, 2 * room),
    );
    text.into()
}

fn encode(writes: &Writes) -> Result<Vec<u8>> {
    let encoded = postcard::to_extend(writes, vec![JOURNAL_VERSION]);
    encoded.map_err(|e| StoreError::Refused(format!("a batch cannot be written: {e}")))
}

fn decode(batch: &[u8]) -> std::result::Result<Writes, String> {
    match batch.split_first() {
        Some((&JOURNAL_VERSION, rest)) => {
            postcard::from_bytes(rest).map_err(|e| format!("journal: {e}"))
        }
        Some((version, _)) => {
            Err(format!("journal of version {version}, written by a newer Roost"))
        }
        None => Err("journal: an empty batch".to_owned()),
    }
}
