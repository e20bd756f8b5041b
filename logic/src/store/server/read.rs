//! Pages, from the pool.

use super::super::StoredMessage;
use super::driver::{Row, Statement, Value};
use super::load::name;
use super::{HistoryRange, HistoryRows, InboxMessage, Result, Shared, WatermarkRow};
use Value::{Number, Text};

const INBOX: &str = "SELECT m.conversation, m.seq, m.message_id, m.sender, m.client_msg_id, m.kind, m.server_time_ms, \
    m.body, i.inbox_seq FROM inbox i \
    JOIN messages m ON m.app_id = i.app_id AND m.conversation = i.conversation AND m.seq = i.seq \
    WHERE i.app_id = ? AND i.owner = ? AND i.inbox_seq > ? ORDER BY i.inbox_seq LIMIT ?";
const OLDEST_FIRST: &str = "SELECT conversation, seq, message_id, sender, client_msg_id, kind, server_time_ms, body \
    FROM messages WHERE app_id = ? AND conversation = ? AND seq > ? AND seq < ? ORDER BY seq LIMIT ?";
const NEWEST_FIRST: &str = "SELECT conversation, seq, message_id, sender, client_msg_id, kind, server_time_ms, body \
    FROM messages WHERE app_id = ? AND conversation = ? AND seq > ? AND seq < ? ORDER BY seq DESC LIMIT ?";

impl Shared {
    pub(super) async fn inbox_page(
        &self,
        app: &str,
        owner: &str,
        after: u64,
        limit: usize,
    ) -> Result<Vec<InboxMessage>> {
        let values = [Text(app), Text(owner), position(after), count(limit)];
        let rows = self.fetch(Statement::new(INBOX, &values)).await?;
        self.read(&rows, |row| {
            Ok(InboxMessage { inbox_seq: row.number(8)?, message: message(row)? })
        })
    }

    pub(super) async fn history(
        &self,
        app: &str,
        conversation: &str,
        range: HistoryRange,
    ) -> Result<Option<HistoryRows>> {
        let ask = "SELECT last_seq FROM conversations WHERE app_id = ? AND conversation = ?";
        let rows = self.fetch(Statement::new(ask, &[Text(app), Text(conversation)])).await?;
        let Some(last_seq) = self.read(&rows, |row| row.number(0))?.first().copied() else {
            return Ok(None);
        };
        let before = if range.before == 0 { u64::MAX } else { range.before };
        let text = if range.newest_first { NEWEST_FIRST } else { OLDEST_FIRST };
        let (app, conversation) = (Text(app), Text(conversation));
        let values =
            [app, conversation, position(range.after), position(before), count(range.limit)];
        let rows = self.fetch(Statement::new(text, &values)).await?;
        let page = self.read(&rows, message)?;
        // A batch may have been committed between the two.
        let newest = page.iter().map(|message| message.seq).max().unwrap_or_default();
        Ok(Some((last_seq.max(newest), page)))
    }

    pub(super) async fn watermarks(
        &self,
        app: &str,
        conversation: &str,
    ) -> Result<Vec<WatermarkRow>> {
        let ask = "SELECT app_id, conversation, user_id, delivered_seq, read_seq FROM watermarks \
                   WHERE app_id = ? AND conversation = ? ORDER BY user_id";
        let rows = self.fetch(Statement::new(ask, &[Text(app), Text(conversation)])).await?;
        self.read(&rows, watermark)
    }
}

/// A position of a peer as a column value: what is beyond `i64` is beyond every row.
pub(super) fn position(value: u64) -> Value<'static> {
    Number(i64::try_from(value).unwrap_or(i64::MAX))
}

pub(super) fn count(value: usize) -> Value<'static> {
    Number(i64::try_from(value).unwrap_or(i64::MAX))
}

pub(super) fn id_bytes(row: &Row, index: usize) -> sqlx::Result<[u8; 16]> {
    let bytes = row.bytes(index)?;
    bytes[..].try_into().map_err(|e| sqlx::Error::Decode(Box::new(e)))
}

pub(super) fn watermark(row: &Row) -> sqlx::Result<WatermarkRow> {
    Ok(WatermarkRow {
        app: name(row, 0)?,
        conversation: name(row, 1)?,
        user: name(row, 2)?,
        delivered_seq: row.number(3)?,
        read_seq: row.number(4)?,
    })
}

pub(super) fn message(row: &Row) -> sqlx::Result<StoredMessage> {
    Ok(StoredMessage {
        conversation: row.text(0)?.to_owned(),
        seq: row.number(1)?,
        message_id: row.number(2)?,
        sender: row.text(3)?.to_owned(),
        client_msg_id: id_bytes(row, 4)?,
        kind: u8::try_from(row.small(5)?).map_err(|e| sqlx::Error::Decode(Box::new(e)))?,
        server_time_ms: row.number(6)?,
        body: row.bytes(7)?,
    })
}
