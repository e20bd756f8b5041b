//! One batch, one transaction.
//!
//! A small batch is a single text with all its statements, from BEGIN to COMMIT: the driver runs a connection on a thread of its
//! own, and every statement that is asked for alone costs two wake-ups, which on a busy machine is most of the latency. There is one
//! text per size class; rows that a class has and the batch has not are empty and filtered out. A large batch is a handful of
//! multi-row statements.

use std::sync::{Arc, OnceLock};

use sqlx::pool::PoolConnection;
use sqlx::sqlite::SqliteConnection;
use sqlx::{Connection, Sqlite};

use super::super::{
    ConversationRow, CursorRow, DeviceCursorRow, InboxRow, NewMessage, UserRow, WatermarkRow,
};
use super::bulk::{self, Bound, Bulk};
use super::{Quarantined, Result, SqliteStore, Writes};

static MESSAGES: Bulk<NewMessage> = Bulk::new(
    "messages (app_id, conversation, seq, message_id, sender, client_msg_id, kind, payload_hash, \
     server_time_ms, sender_inbox_seq, peer_inbox_seq, body)",
    12,
    "",
    |query, row| {
        query
            .bind(Arc::clone(&row.app))
            .bind(Arc::clone(&row.conversation))
            .bind(row.placed.seq.cast_signed())
            .bind(row.placed.message_id.cast_signed())
            .bind(Arc::clone(&row.sender))
            .bind(row.client_msg_id.to_vec())
            .bind(row.kind)
            .bind(row.placed.payload_hash)
            .bind(row.placed.server_time_ms.cast_signed())
            .bind(row.placed.sender_inbox_seq.cast_signed())
            .bind(row.placed.peer_inbox_seq.cast_signed())
            .bind(row.body.to_vec())
    },
);
static INBOX: Bulk<InboxRow> =
    Bulk::new("inbox (app_id, owner, inbox_seq, conversation, seq)", 5, "", |query, row| {
        query
            .bind(Arc::clone(&row.app))
            .bind(Arc::clone(&row.owner))
            .bind(row.inbox_seq.cast_signed())
            .bind(Arc::clone(&row.conversation))
            .bind(row.seq.cast_signed())
    });
static CONVERSATIONS: Bulk<ConversationRow> = Bulk::new(
    "conversations (app_id, conversation, last_seq)",
    3,
    "ON CONFLICT DO UPDATE SET last_seq = excluded.last_seq",
    |query, row| {
        query
            .bind(Arc::clone(&row.app))
            .bind(Arc::clone(&row.conversation))
            .bind(row.last_seq.cast_signed())
    },
);
static INBOX_COUNTERS: Bulk<UserRow> = Bulk::new(
    "inbox_counters (app_id, owner, last_inbox_seq)",
    3,
    "ON CONFLICT DO UPDATE SET last_inbox_seq = excluded.last_inbox_seq",
    |query, row| {
        query
            .bind(Arc::clone(&row.app))
            .bind(Arc::clone(&row.user))
            .bind(row.last_inbox_seq.cast_signed())
    },
);
static CURSORS: Bulk<CursorRow> = Bulk::new(
    "send_cursors (app_id, conversation, sender, device, session_epoch, client_seq)",
    6,
    "ON CONFLICT DO UPDATE SET session_epoch = excluded.session_epoch, client_seq = excluded.client_seq",
    |query, row| {
        query
            .bind(Arc::clone(&row.app))
            .bind(Arc::clone(&row.conversation))
            .bind(Arc::clone(&row.sender))
            .bind(Arc::clone(&row.device))
            .bind(row.session_epoch.cast_signed())
            .bind(row.client_seq)
    },
);
static WATERMARKS: Bulk<WatermarkRow> = Bulk::new(
    "watermarks (app_id, conversation, user, delivered_seq, read_seq)",
    5,
    "ON CONFLICT DO UPDATE SET delivered_seq = max(delivered_seq, excluded.delivered_seq), \
     read_seq = max(read_seq, excluded.read_seq)",
    |query, row| {
        query
            .bind(Arc::clone(&row.app))
            .bind(Arc::clone(&row.conversation))
            .bind(Arc::clone(&row.user))
            .bind(row.delivered_seq.cast_signed())
            .bind(row.read_seq.cast_signed())
    },
);
static DEVICE_CURSORS: Bulk<DeviceCursorRow> = Bulk::new(
    "device_cursors (app_id, user, device, inbox_seq)",
    4,
    "ON CONFLICT DO UPDATE SET inbox_seq = max(inbox_seq, excluded.inbox_seq)",
    |query, row| {
        query
            .bind(Arc::clone(&row.app))
            .bind(Arc::clone(&row.user))
            .bind(Arc::clone(&row.device))
            .bind(row.inbox_seq.cast_signed())
    },
);

/// Size classes of small batches: a class `c` has room for `2^c` messages.
const CLASSES: usize = 6;
static TEXTS: [OnceLock<Arc<str>>; CLASSES] = [const { OnceLock::new() }; CLASSES];

/// The smallest class with room for everything; `None`: a large batch.
fn class(writes: &Writes) -> Option<usize> {
    let rows = [
        writes.messages.len(),
        writes.inbox.len().div_ceil(2),
        writes.conversations.len(),
        writes.inboxes.len().div_ceil(2),
        writes.cursors.len(),
        writes.watermarks.len(),
        writes.device_cursors.len(),
    ];
    let most = rows.into_iter().max().unwrap_or(0).max(1);
    let class = usize::try_from(most.next_power_of_two().trailing_zeros()).ok()?;
    // The mark comes every few seconds only.
    (class < CLASSES && writes.worker_mark.is_none()).then_some(class)
}

/// The single text of a class, and all its values.
fn whole(writes: &Writes, class: usize) -> Bound {
    let rows = 1 << class;
    let text = TEXTS[class].get_or_init(|| {
        let mut text = "BEGIN IMMEDIATE;\n".to_owned();
        CONVERSATIONS.append_to(&mut text, rows);
        INBOX_COUNTERS.append_to(&mut text, 2 * rows);
        MESSAGES.append_to(&mut text, rows);
        INBOX.append_to(&mut text, 2 * rows);
        CURSORS.append_to(&mut text, rows);
        WATERMARKS.append_to(&mut text, rows);
        DEVICE_CURSORS.append_to(&mut text, rows);
        text.push_str("COMMIT;");
        text.into()
    });
    let query = CONVERSATIONS.bind_padded(bulk::query(text), &writes.conversations, rows);
    let query = INBOX_COUNTERS.bind_padded(query, &writes.inboxes, 2 * rows);
    let query = MESSAGES.bind_padded(query, &writes.messages, rows);
    let query = INBOX.bind_padded(query, &writes.inbox, 2 * rows);
    let query = CURSORS.bind_padded(query, &writes.cursors, rows);
    let query = WATERMARKS.bind_padded(query, &writes.watermarks, rows);
    DEVICE_CURSORS.bind_padded(query, &writes.device_cursors, rows)
}

/// The writer's connection while a transaction may be open on it. After an error, or when the caller goes away in the middle, SQLite
/// may or may not have rolled back, and the driver's own idea of it may be wrong: the connection is then replaced, which rolls
/// back for certain.
struct Open(Option<PoolConnection<Sqlite>>);

impl Drop for Open {
    fn drop(&mut self) {
        if let Some(connection) = &mut self.0 {
            connection.close_on_drop();
        }
    }
}

impl SqliteStore {
    pub(super) async fn commit(&self, writes: &Writes) -> Result<()> {
        let connection = self.writer.acquire().await.map_err(|e| self.error(e))?;
        let mut open = Open(Some(connection));
        let Some(connection) = &mut open.0 else { return Ok(()) };
        let written = match class(writes) {
            Some(class) => whole(writes, class).execute(&mut **connection).await.map(|_| ()),
            None => write_large(connection, writes).await,
        };
        written.map_err(|e| self.error(e))?;
        open.0 = None;
        let counters = writes.conversations.len() + writes.inboxes.len();
        let marks = writes.cursors.len() + writes.watermarks.len();
        self.count_rows(writes.messages.len() + writes.inbox.len() + counters + marks);
        Ok(())
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

async fn write_large(connection: &mut SqliteConnection, writes: &Writes) -> sqlx::Result<()> {
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
    CONVERSATIONS.run(&mut transaction, &writes.conversations).await?;
    INBOX_COUNTERS.run(&mut transaction, &writes.inboxes).await?;
    MESSAGES.run(&mut transaction, &writes.messages).await?;
    INBOX.run(&mut transaction, &writes.inbox).await?;
    CURSORS.run(&mut transaction, &writes.cursors).await?;
    WATERMARKS.run(&mut transaction, &writes.watermarks).await?;
    DEVICE_CURSORS.run(&mut transaction, &writes.device_cursors).await?;
    if let Some((worker_id, until_ms)) = writes.worker_mark {
        sqlx::query(
            "INSERT INTO worker_marks (worker_id, until_ms) VALUES (?, ?) \
             ON CONFLICT DO UPDATE SET until_ms = max(until_ms, excluded.until_ms)",
        )
        .bind(worker_id)
        .bind(until_ms.cast_signed())
        .execute(&mut *transaction)
        .await?;
    }
    transaction.commit().await
}
