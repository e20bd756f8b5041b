//! What a batch needs: one statement per table, keys as one JSON array. Most batches load little: the worker remembers.

use std::sync::Arc;

use serde::Serialize;
use sqlx::sqlite::{SqlitePool, SqliteRow};
use sqlx::{FromRow, Row};

use super::super::{ConversationRow, CursorRow, IdentityKey, Placed, UserRow, WatermarkRow};
use super::{LoadKeys, Loaded, Name, Result, SqliteStore, StoreError};

const CONVERSATIONS: &str = "SELECT t.app_id, t.conversation, t.last_seq \
    FROM json_each(?1) k CROSS JOIN conversations t \
    WHERE t.app_id = k.value ->> 0 AND t.conversation = k.value ->> 1";
const USERS: &str = "SELECT k.key, t.app_id, t.user, coalesce(c.last_inbox_seq, 0) \
    FROM json_each(?1) k CROSS JOIN users t \
    LEFT JOIN inbox_counters c ON c.app_id = t.app_id AND c.owner = t.user \
    WHERE t.app_id = k.value ->> 0 AND t.user = k.value ->> 1";
const CURSORS: &str = "SELECT t.app_id, t.conversation, t.sender, t.device, t.session_epoch, t.client_seq \
    FROM json_each(?1) k CROSS JOIN send_cursors t \
    WHERE t.app_id = k.value ->> 0 AND t.conversation = k.value ->> 1 AND t.sender = k.value ->> 2 \
    AND t.device = k.value ->> 3";
const WATERMARKS: &str = "SELECT t.app_id, t.conversation, t.user, t.delivered_seq, t.read_seq \
    FROM json_each(?1) k CROSS JOIN watermarks t \
    WHERE t.app_id = k.value ->> 0 AND t.conversation = k.value ->> 1 AND t.user = k.value ->> 2";
const IDENTITIES: &str = "SELECT t.app_id, t.conversation, t.sender, t.client_msg_id, t.seq, t.message_id, \
    t.server_time_ms, t.payload_hash, t.sender_inbox_seq, t.peer_inbox_seq \
    FROM json_each(?1) k CROSS JOIN messages t INDEXED BY messages_identity \
    WHERE t.app_id = k.value ->> 0 AND t.conversation = k.value ->> 1 AND t.sender = k.value ->> 2 \
    AND t.client_msg_id = unhex(k.value ->> 3)";

impl SqliteStore {
    pub(super) async fn load(&self, keys: &LoadKeys) -> Result<Loaded> {
        self.be_sure().await?;
        let (conversations, users, cursors, watermarks, identities) = tokio::try_join!(
            self.load_conversations(keys),
            self.load_users(keys),
            self.load_cursors(keys),
            self.load_watermarks(keys),
            self.load_identities(keys),
        )?;
        Ok(Loaded { conversations, users, cursors, watermarks, identities, ..Loaded::default() })
    }

    async fn load_conversations(&self, keys: &LoadKeys) -> Result<Vec<ConversationRow>> {
        let (mut found, mut asked) = (Vec::new(), Vec::new());
        for (app, conversation) in &keys.conversations {
            match self.pending.last_seq(app, conversation) {
                Some(last_seq) => found.push(ConversationRow {
                    app: Arc::clone(app),
                    conversation: Arc::clone(conversation),
                    last_seq,
                }),
                None => asked.push([app, conversation]),
            }
        }
        found.extend(self.rows(CONVERSATIONS, asked, conversation).await?);
        Ok(found)
    }

    /// Users are in their table only; where their inboxes are may be newer in memory.
    async fn load_users(&self, keys: &LoadKeys) -> Result<Vec<UserRow>> {
        let counters: Vec<_> =
            keys.users.iter().map(|(app, user)| self.pending.last_inbox_seq(app, user)).collect();
        let asked = keys.users.iter().map(|(a, b)| [a, b]).collect();
        let rows = self.rows(USERS, asked, user).await?.into_iter();
        let found = rows.map(|(index, mut row)| {
            if let Some(last_inbox_seq) = counters.get(index).copied().flatten() {
                row.last_inbox_seq = last_inbox_seq;
            }
            row
        });
        Ok(found.collect())
    }

    async fn load_cursors(&self, keys: &LoadKeys) -> Result<Vec<CursorRow>> {
        let (mut found, mut asked) = (Vec::new(), Vec::new());
        for (app, conversation, sender, device) in &keys.cursors {
            match self.pending.cursor(app, conversation, sender, device) {
                Some(cursor) => found.push(cursor),
                None => asked.push([app, conversation, sender, device]),
            }
        }
        found.extend(self.rows(CURSORS, asked, cursor).await?);
        Ok(found)
    }

    /// Merged by maximum: part of them may be in the tables.
    async fn load_watermarks(&self, keys: &LoadKeys) -> Result<Vec<WatermarkRow>> {
        let asked = keys.watermarks.iter().map(|(a, b, c)| [a, b, c]).collect();
        let pending = keys.watermarks.iter().filter_map(|(app, conversation, user)| {
            let rows = self.pending.watermarks(app, conversation);
            rows.into_iter().find(|row| row.user == *user)
        });
        let pending: Vec<_> = pending.collect();
        let mut found = self.rows(WATERMARKS, asked, watermark).await?;
        for row in pending {
            let is_it = |w: &&mut WatermarkRow| {
                (&w.app, &w.conversation, &w.user) == (&row.app, &row.conversation, &row.user)
            };
            match found.iter_mut().find(is_it) {
                Some(known) => known.raise(&row),
                None => found.push(row),
            }
        }
        Ok(found)
    }

    async fn load_identities(&self, keys: &LoadKeys) -> Result<Vec<(IdentityKey, Placed)>> {
        let (mut found, mut asked) = (Vec::new(), Vec::new());
        for key in &keys.identities {
            match self.pending.identity(key) {
                Some(placed) => found.push((key.clone(), placed)),
                None => asked.push([
                    Arc::clone(&key.app),
                    Arc::clone(&key.conversation),
                    Arc::clone(&key.sender),
                    format!("{:032x}", u128::from_be_bytes(key.client_msg_id)).into(),
                ]),
            }
        }
        found.extend(self.rows(IDENTITIES, asked, identity).await?);
        Ok(found)
    }

    async fn rows<T, const N: usize, K: AsRef<str>>(
        &self,
        statement: &'static str,
        keys: Vec<[K; N]>,
        read: fn(&SqliteRow) -> sqlx::Result<T>,
    ) -> Result<Vec<T>> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let keys: Vec<Key<K, N>> = keys.into_iter().map(Key).collect();
        let json = serde_json::to_string(&keys).map_err(|e| StoreError::Refused(e.to_string()))?;
        let rows = fetch(&self.tables.readers, statement, json).await.map_err(|e| self.error(e))?;
        rows.iter().map(read).collect::<sqlx::Result<_>>().map_err(|e| self.error(e))
    }

    pub(super) async fn inbox_positions(&self, owners: &[(Name, Name)]) -> Result<Vec<u64>> {
        const POSITIONS: &str = "SELECT k.key, c.last_inbox_seq \
            FROM json_each(?1) k CROSS JOIN inbox_counters c \
            WHERE c.app_id = k.value ->> 0 AND c.owner = k.value ->> 1";
        self.be_sure().await?;
        let pending = owners.iter().map(|(app, owner)| self.pending.last_inbox_seq(app, owner));
        let mut positions: Vec<Option<u64>> = pending.collect();
        let rows = owners.iter().map(|(a, b)| [a, b]).collect();
        let found: Vec<(i64, i64)> =
            self.rows(POSITIONS, rows, |row| <(i64, i64)>::from_row(row)).await?;
        for (key, position) in found {
            if let Some(slot) = positions.get_mut(index(key)) {
                slot.get_or_insert(position.cast_unsigned());
            }
        }
        Ok(positions.into_iter().map(Option::unwrap_or_default).collect())
    }
}

async fn fetch(
    readers: &SqlitePool,
    statement: &'static str,
    json: String,
) -> sqlx::Result<Vec<SqliteRow>> {
    sqlx::query(statement).bind(json).fetch_all(readers).await
}

/// One key as a JSON array of texts.
struct Key<K, const N: usize>([K; N]);

impl<K: AsRef<str>, const N: usize> Serialize for Key<K, N> {
    fn serialize<S: serde::Serializer>(
        &self,
        serializer: S,
    ) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(AsRef::as_ref))
    }
}

pub(super) fn name(row: &SqliteRow, index: usize) -> sqlx::Result<Name> {
    row.try_get::<&str, _>(index).map(Name::from)
}

pub(super) fn number(row: &SqliteRow, index: usize) -> sqlx::Result<u64> {
    row.try_get::<i64, _>(index).map(i64::cast_unsigned)
}

pub(super) fn client_msg_id(row: &SqliteRow, index: usize) -> sqlx::Result<[u8; 16]> {
    let bytes: &[u8] = row.try_get(index)?;
    bytes.try_into().map_err(|e| sqlx::Error::ColumnDecode {
        index: "client_msg_id".to_owned(),
        source: Box::new(e),
    })
}

fn conversation(row: &SqliteRow) -> sqlx::Result<ConversationRow> {
    Ok(ConversationRow {
        app: name(row, 0)?,
        conversation: name(row, 1)?,
        last_seq: number(row, 2)?,
    })
}

/// With the index of its key.
fn user(row: &SqliteRow) -> sqlx::Result<(usize, UserRow)> {
    let user = UserRow { app: name(row, 1)?, user: name(row, 2)?, last_inbox_seq: number(row, 3)? };
    Ok((index(row.try_get(0)?), user))
}

/// Of a key in the array that was asked.
fn index(key: i64) -> usize {
    usize::try_from(key).unwrap_or(usize::MAX)
}

fn cursor(row: &SqliteRow) -> sqlx::Result<CursorRow> {
    Ok(CursorRow {
        app: name(row, 0)?,
        conversation: name(row, 1)?,
        sender: name(row, 2)?,
        device: name(row, 3)?,
        session_epoch: number(row, 4)?,
        client_seq: row.try_get(5)?,
    })
}

pub(super) fn watermark(row: &SqliteRow) -> sqlx::Result<WatermarkRow> {
    Ok(WatermarkRow {
        app: name(row, 0)?,
        conversation: name(row, 1)?,
        user: name(row, 2)?,
        delivered_seq: number(row, 3)?,
        read_seq: number(row, 4)?,
    })
}

fn identity(row: &SqliteRow) -> sqlx::Result<(IdentityKey, Placed)> {
    let key = IdentityKey {
        app: name(row, 0)?,
        conversation: name(row, 1)?,
        sender: name(row, 2)?,
        client_msg_id: client_msg_id(row, 3)?,
    };
    let placed = Placed {
        seq: number(row, 4)?,
        message_id: number(row, 5)?,
        server_time_ms: number(row, 6)?,
        payload_hash: row.try_get(7)?,
        sender_inbox_seq: number(row, 8)?,
        peer_inbox_seq: number(row, 9)?,
    };
    Ok((key, placed))
}
