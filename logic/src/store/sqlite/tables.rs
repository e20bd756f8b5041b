//! Rows into their tables: the share of a sealed layer that is written at a time.
//!
//! After a crash a share may be written again: counters are absolute values, watermarks merge by maximum, messages and inbox entries
//! that exist stay as they are.

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

/// Writes all rows of a share. Messages come before the inbox entries that name them.
pub(super) async fn write(connection: &mut SqliteConnection, share: &Writes) -> sqlx::Result<()> {
    CONVERSATIONS.run(connection, &share.conversations).await?;
    INBOX_COUNTERS.run(connection, &share.inboxes).await?;
    MESSAGES.run(connection, &share.messages).await?;
    INBOX.run(connection, &share.inbox).await?;
    CURSORS.run(connection, &share.cursors).await?;
    WATERMARKS.run(connection, &share.watermarks).await?;
    DEVICE_CURSORS.run(connection, &share.device_cursors).await?;
    Ok(())
}
