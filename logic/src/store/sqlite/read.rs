//! Pages, from the reader connections.

use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use super::load::{client_msg_id, number, watermark};
use super::pending::raise;
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
        self.be_sure().await?;
        let pending = self.pending.inbox(app, owner, after, limit);
        let rows = sqlx::query(INBOX)
            .bind(app)
            .bind(owner)
            .bind(position(after))
            .bind(count(limit))
            .fetch_all(&self.tables.readers)
            .await
            .map_err(|e| self.error(e))?;
        let page: sqlx::Result<Vec<InboxMessage>> = rows
            .iter()
            .map(|row| Ok(InboxMessage { inbox_seq: number(row, 8)?, message: message(row)? }))
            .collect();
        let mut page = page.map_err(|e| self.error(e))?;
        let stored = page.last().map_or(after, |last| last.inbox_seq);
        let rest = pending.into_iter().filter(|(inbox_seq, _)| *inbox_seq > stored);
        let room = limit - page.len();
        page.extend(
            rest.take(room).map(|(inbox_seq, row)| InboxMessage { inbox_seq, message: row.into() }),
        );
        Ok(page)
    }

    pub(super) async fn history(
        &self,
        app: &str,
        conversation: &str,
        range: HistoryRange,
    ) -> Result<Option<HistoryRows>> {
        self.be_sure().await?;
        let before = if range.before == 0 { u64::MAX } else { range.before };
        let pending = self.pending.history(
            (app, conversation),
            (range.after, before),
            range.limit,
            range.newest_first,
        );
        let last_seq = match self.pending.last_seq(app, conversation) {
            Some(last_seq) => last_seq,
            None => match self.last_seq(app, conversation).await? {
                Some(last_seq) => last_seq,
                None => return Ok(None),
            },
        };
        let statement = if range.newest_first { NEWEST_FIRST } else { OLDEST_FIRST };
        let rows = sqlx::query(statement)
            .bind(app)
            .bind(conversation)
            .bind(position(range.after))
            .bind(position(before))
            .bind(count(range.limit))
            .fetch_all(&self.tables.readers)
            .await
            .map_err(|e| self.error(e))?;
        let stored: sqlx::Result<Vec<StoredMessage>> = rows.iter().map(message).collect();
        let stored = stored.map_err(|e| self.error(e))?;
        let pending: Vec<StoredMessage> = pending.into_iter().map(StoredMessage::from).collect();
        // The older ones are in the tables; some may be seen in both.
        let mut page = if range.newest_first {
            let oldest = pending.last().map_or(u64::MAX, |m| m.seq);
            pending.into_iter().chain(stored.into_iter().filter(|m| m.seq < oldest)).collect()
        } else {
            let newest = stored.last().map_or(0, |m| m.seq);
            let rest = pending.into_iter().filter(|m| m.seq > newest);
            stored.into_iter().chain(rest).collect::<Vec<_>>()
        };
        page.truncate(range.limit);
        Ok(Some((last_seq, page)))
    }

    async fn last_seq(&self, app: &str, conversation: &str) -> Result<Option<u64>> {
        let row: Option<(i64,)> = sqlx::query_as(
            "SELECT last_seq FROM conversations WHERE app_id = ? AND conversation = ?",
        )
        .bind(app)
        .bind(conversation)
        .fetch_optional(&self.tables.readers)
        .await
        .map_err(|e| self.error(e))?;
        Ok(row.map(|(last_seq,)| last_seq.cast_unsigned()))
    }

    pub(super) async fn watermarks(
        &self,
        app: &str,
        conversation: &str,
    ) -> Result<Vec<WatermarkRow>> {
        self.be_sure().await?;
        let pending = self.pending.watermarks(app, conversation);
        let rows = sqlx::query(
            "SELECT app_id, conversation, user, delivered_seq, read_seq FROM watermarks \
             WHERE app_id = ? AND conversation = ?",
        )
        .bind(app)
        .bind(conversation)
        .fetch_all(&self.tables.readers)
        .await
        .map_err(|e| self.error(e))?;
        let stored: sqlx::Result<Vec<_>> = rows.iter().map(watermark).collect();
        let mut merged = stored.map_err(|e| self.error(e))?;
        pending.into_iter().for_each(|row| raise(&mut merged, row));
        merged.sort_unstable();
        Ok(merged)
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
