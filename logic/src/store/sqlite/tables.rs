//! Rows into their tables: the share of a sealed layer that is written at a time.
//!
//! After a crash a share may be written again: counters are absolute values, watermarks merge by maximum, messages and inbox entries
//! that exist stay as they are.

use std::ops::Range;
use std::sync::Arc;

use sqlx::sqlite::SqliteConnection;

use super::super::{
    ConversationRow, CursorRow, DeviceCursorRow, InboxRow, NewMessage, UserRow, WatermarkRow,
    Writes,
};
use super::bulk::Bulk;

static MESSAGES: Bulk<NewMessage> = Bulk::new(
    "messages (app_id, conversation, seq, message_id, sender, client_msg_id, kind, payload_hash, \
     server_time_ms, sender_inbox_seq, peer_inbox_seq, body)",
    12,
    "ON CONFLICT DO NOTHING",
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
static INBOX: Bulk<InboxRow> = Bulk::new(
    "inbox (app_id, owner, inbox_seq, conversation, seq)",
    5,
    "ON CONFLICT DO NOTHING",
    |query, row| {
        query
            .bind(Arc::clone(&row.app))
            .bind(Arc::clone(&row.owner))
            .bind(row.inbox_seq.cast_signed())
            .bind(Arc::clone(&row.conversation))
            .bind(row.seq.cast_signed())
    },
);
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

/// What a message costs to write, in rows of other tables: it is the longest row, and has an index.
const MESSAGE_COST: usize = 4;

/// What it costs to write everything.
pub(super) fn cost(writes: &Writes) -> usize {
    writes.rows() + writes.messages.len() * (MESSAGE_COST - 1)
}

/// Writes what lies in `share` of the [`cost`], counted over all tables in the order of this function. Messages come before the inbox
/// entries that name them.
pub(super) async fn write(
    connection: &mut SqliteConnection,
    writes: &Writes,
    share: Range<usize>,
) -> sqlx::Result<()> {
    let mut rest = share;
    CONVERSATIONS.run(connection, cut(&mut rest, &writes.conversations, 1)).await?;
    INBOX_COUNTERS.run(connection, cut(&mut rest, &writes.inboxes, 1)).await?;
    MESSAGES.run(connection, cut(&mut rest, &writes.messages, MESSAGE_COST)).await?;
    INBOX.run(connection, cut(&mut rest, &writes.inbox, 1)).await?;
    CURSORS.run(connection, cut(&mut rest, &writes.cursors, 1)).await?;
    WATERMARKS.run(connection, cut(&mut rest, &writes.watermarks, 1)).await?;
    DEVICE_CURSORS.run(connection, cut(&mut rest, &writes.device_cursors, 1)).await?;
    Ok(())
}

/// The part of `rows`, of this cost each, that lies in `rest`, which then counts from the end of `rows`.
fn cut<'a, T>(rest: &mut Range<usize>, rows: &'a [T], cost: usize) -> &'a [T] {
    let row = |at: usize| (at / cost).min(rows.len());
    let part = &rows[row(rest.start)..row(rest.end)];
    let all = rows.len() * cost;
    *rest = rest.start.saturating_sub(all)..rest.end.saturating_sub(all);
    part
}
