//! Pages, from the reader connections.

use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use super::load::{client_msg_id, number, watermark};
use super::{
    HistoryRange, HistoryRows, InboxMessage, Result, SqliteStore, StoredMessage, WatermarkRow,
};

const INBOX: &str = "SELECT m.conversation, m.seq, m.message_id, m.sender, m.client_msg_id, m.kind, m.server_time_ms, \
    m.body, i.inbox_seq FROM inbox i CROSS JOIN messages m \
    WHERE i.app_id = ?1 AND i.owner = ?2 AND i.inbox_seq > ?3 \
    AND m.app_id = i.app_id AND m.conversation = i.conversation AND m.seq = i.seq \
    ORDER BY i.inbox_seq LIMIT ?4";
const OLDEST_FIRST: &str = "SELECT conversation, seq, message_id, sender, client_msg_id, kind, server_time_ms, body \
    FROM messages WHERE app_id = ?1 AND conversation = ?2 AND seq > ?3 AND seq < ?4 ORDER BY seq LIMIT ?5";
const NEWEST_FIRST: &str = "SELECT conversation, seq, message_id, sender, client_msg_id, kind, server_time_ms, body \
    FROM messages WHERE app_id = ?1 AND conversation = ?2 AND seq > ?3 AND seq < ?4 ORDER BY seq DESC LIMIT ?5";

impl SqliteStore {
    pub(super) async fn inbox_page(
        &self,
        app: &str,
        owner: &str,
        after: u64,
        limit: usize,
    ) -> Result<Vec<InboxMessage>> {
        let rows = sqlx::query(INBOX)
            .bind(app)
            .bind(owner)
            .bind(position(after))
            .bind(count(limit))
            .fetch_all(&self.readers)
            .await
            .map_err(|e| self.error(e))?;
        rows.iter()
            .map(|row| Ok(InboxMessage { inbox_seq: number(row, 8)?, message: message(row)? }))
            .collect::<sqlx::Result<_>>()
            .map_err(|e| self.error(e))
    }

    pub(super) async fn history(
        &self,
        app: &str,
        conversation: &str,
        range: HistoryRange,
    ) -> Result<Option<HistoryRows>> {
        let counter =
            sqlx::query("SELECT last_seq FROM conversations WHERE app_id = ? AND conversation = ?")
                .bind(app)
                .bind(conversation)
                .fetch_optional(&self.readers)
                .await
                .map_err(|e| self.error(e))?;
        let Some(counter) = counter else { return Ok(None) };
        let statement = if range.newest_first { NEWEST_FIRST } else { OLDEST_FIRST };
        let before = if range.before == 0 { i64::MAX } else { position(range.before) };
        let rows = sqlx::query(statement)
            .bind(app)
            .bind(conversation)
            .bind(position(range.after))
            .bind(before)
            .bind(count(range.limit))
            .fetch_all(&self.readers)
            .await
            .map_err(|e| self.error(e))?;
        let messages: sqlx::Result<Vec<_>> = rows.iter().map(message).collect();
        let last_seq = number(&counter, 0).map_err(|e| self.error(e))?;
        Ok(Some((last_seq, messages.map_err(|e| self.error(e))?)))
    }

    pub(super) async fn watermarks(
        &self,
        app: &str,
        conversation: &str,
    ) -> Result<Vec<WatermarkRow>> {
        let rows = sqlx::query(
            "SELECT app_id, conversation, user, delivered_seq, read_seq FROM watermarks \
             WHERE app_id = ? AND conversation = ? ORDER BY user",
        )
        .bind(app)
        .bind(conversation)
        .fetch_all(&self.readers)
        .await
        .map_err(|e| self.error(e))?;
        rows.iter().map(watermark).collect::<sqlx::Result<_>>().map_err(|e| self.error(e))
    }
}

/// A position of a peer as a column value: what is beyond `i64` is beyond every row.
fn position(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn count(value: usize) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn message(row: &SqliteRow) -> sqlx::Result<StoredMessage> {
    Ok(StoredMessage {
        conversation: row.try_get(0)?,
        seq: number(row, 1)?,
        message_id: number(row, 2)?,
        sender: row.try_get(3)?,
        client_msg_id: client_msg_id(row, 4)?,
        kind: row.try_get(5)?,
        server_time_ms: number(row, 6)?,
        body: row.try_get(7)?,
    })
}
