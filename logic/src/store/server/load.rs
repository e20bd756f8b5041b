//! What a batch needs: one statement per table and a few dozen keys. Most batches load little: the worker remembers.

use std::collections::HashMap;

use super::super::{ConversationRow, CursorRow, IdentityKey, Placed, UserRow};
use super::driver::{Row, Session, Statement, Value};
use super::read::{id_bytes, watermark};
use super::statement::{Conflict, Table, look_up};
use super::writer::{Failed, Writer};
use super::{LoadKeys, Loaded, Name, Result, Shared};
use Value::{Bytes, Text};

const CONVERSATIONS: &str =
    "SELECT app_id, conversation, last_seq FROM conversations WHERE (app_id, conversation) IN";
/// A user without a counter has -1.
const USERS: &str = "SELECT u.app_id, u.user_id, COALESCE(c.last_inbox_seq, -1) \
    FROM users u LEFT JOIN inbox_counters c ON c.app_id = u.app_id AND c.owner = u.user_id \
    WHERE (u.app_id, u.user_id) IN";
const CURSORS: &str = "SELECT app_id, conversation, sender, device, session_epoch, client_seq FROM send_cursors \
    WHERE (app_id, conversation, sender, device) IN";
const WATERMARKS: &str = "SELECT app_id, conversation, user_id, delivered_seq, read_seq FROM watermarks \
    WHERE (app_id, conversation, user_id) IN";
const IDENTITIES: &str = "SELECT app_id, conversation, sender, client_msg_id, seq, message_id, server_time_ms, payload_hash, \
    sender_inbox_seq, peer_inbox_seq FROM messages WHERE (app_id, conversation, sender, client_msg_id) IN";
const POSITIONS: &str =
    "SELECT app_id, owner, last_inbox_seq FROM inbox_counters WHERE (app_id, owner) IN";

/// A counter that can be locked.
pub(super) static COUNTERS: Table =
    Table::new("inbox_counters (app_id, owner, last_inbox_seq)", Conflict::Keep);

impl Shared {
    /// On the writer's session. Rows are read as committed; only counters of inboxes are locked.
    pub(super) async fn load_on(
        &self,
        session: &mut Session,
        writer: &mut Writer,
        keys: &LoadKeys,
    ) -> std::result::Result<Loaded, Failed> {
        let conversations =
            look_up(self.dialect, CONVERSATIONS, &keys.conversations, |(a, c)| [Text(a), Text(c)]);
        let cursors = look_up(self.dialect, CURSORS, &keys.cursors, |(a, c, s, d)| {
            [Text(a), Text(c), Text(s), Text(d)]
        });
        let watermarks = look_up(self.dialect, WATERMARKS, &keys.watermarks, |(a, c, u)| {
            [Text(a), Text(c), Text(u)]
        });
        let identities = look_up(self.dialect, IDENTITIES, &keys.identities, |key| {
            let (app, conversation) = (Text(&key.app), Text(&key.conversation));
            [app, conversation, Text(&key.sender), Bytes(&key.client_msg_id)]
        });
        let users = look_up(self.dialect, USERS, &keys.users, |(a, u)| [Text(a), Text(u)]);
        let all = [&conversations, &users, &cursors, &watermarks, &identities];
        let mut found = self.results(session, all.into_iter().flatten()).await?.into_iter();
        let mut of = |asked: &[_]| found.by_ref().take(asked.len()).flatten().collect::<Vec<_>>();
        let conversations = read(&of(&conversations), conversation)?;
        let users = read(&of(&users), user)?;
        let cursors = read(&of(&cursors), cursor)?;
        let watermarks = read(&of(&watermarks), watermark)?;
        let identities = read(&of(&identities), identity)?;
        if keys.locks_inboxes {
            self.make_absent_counters(session, &users).await?;
        }
        Ok(Loaded {
            conversations,
            users: users.into_iter().map(|(row, _)| row).collect(),
            cursors,
            watermarks,
            identities,
            inboxes: self.lock_inboxes(session, writer, &keys.inboxes).await?,
        })
    }

    /// What does not exist yet cannot be locked.
    async fn make_absent_counters(
        &self,
        session: &mut Session,
        users: &[(UserRow, bool)],
    ) -> std::result::Result<(), Failed> {
        let is_absent = |(_, has_counter): &&(_, bool)| !has_counter;
        let mut absent: Vec<&UserRow> =
            users.iter().filter(is_absent).map(|(row, _)| row).collect();
        // In one order, so that two processes do not wait for each other.
        absent.sort_unstable();
        let mut out = Vec::new();
        COUNTERS.write(
            self.dialect,
            &absent,
            |row| [Text(&row.app), Text(&row.user), Value::Number(0)],
            &mut out,
        );
        for statement in &out {
            self.timed(session.link().execute(statement)).await?;
        }
        Ok(())
    }

    /// Counters of the inboxes that the batch may add to: theirs until it ends.
    pub(super) async fn lock_inboxes(
        &self,
        session: &mut Session,
        writer: &mut Writer,
        inboxes: &[(Name, Name)],
    ) -> std::result::Result<Vec<UserRow>, Failed> {
        let mut owners: Vec<&(Name, Name)> = inboxes.iter().collect();
        if owners.is_empty() {
            return Ok(Vec::new());
        }
        owners.sort_unstable();
        owners.dedup();
        let mut locks = look_up(self.dialect, POSITIONS, &owners, |(a, o)| [Text(a), Text(o)]);
        for lock in &mut locks {
            lock.text.push_str(" ORDER BY app_id, owner FOR UPDATE");
        }
        Ok(read(&self.open(session, writer, &locks).await?, counter)?)
    }

    pub(super) async fn worker_mark(&self, worker_id: u16) -> Result<u64> {
        let ask = "SELECT until_ms FROM worker_marks WHERE worker_id = ?";
        let rows = self.fetch(Statement::new(ask, &[Value::Number(worker_id.into())])).await?;
        Ok(self.read(&rows, |row| row.number(0))?.first().copied().unwrap_or_default())
    }

    pub(super) async fn inbox_positions(&self, owners: &[(Name, Name)]) -> Result<Vec<u64>> {
        let mut positions = HashMap::new();
        for statement in
            look_up(self.dialect, POSITIONS, owners, |(app, owner)| [Text(app), Text(owner)])
        {
            let rows = self.fetch(statement).await?;
            let found =
                self.read(&rows, |row| Ok(((name(row, 0)?, name(row, 1)?), row.number(2)?)))?;
            positions.extend(found);
        }
        Ok(owners.iter().map(|owner| positions.get(owner).copied().unwrap_or_default()).collect())
    }
}

fn read<T>(rows: &[Row], read: fn(&Row) -> sqlx::Result<T>) -> sqlx::Result<Vec<T>> {
    rows.iter().map(read).collect()
}

pub(super) fn name(row: &Row, index: usize) -> sqlx::Result<Name> {
    row.text(index).map(Name::from)
}

fn conversation(row: &Row) -> sqlx::Result<ConversationRow> {
    Ok(ConversationRow {
        app: name(row, 0)?,
        conversation: name(row, 1)?,
        last_seq: row.number(2)?,
    })
}

/// And whether it has a counter.
fn user(row: &Row) -> sqlx::Result<(UserRow, bool)> {
    let last = u64::try_from(row.signed(2)?).ok();
    let last_inbox_seq = last.unwrap_or_default();
    let user = UserRow { app: name(row, 0)?, user: name(row, 1)?, last_inbox_seq };
    Ok((user, last.is_some()))
}

fn counter(row: &Row) -> sqlx::Result<UserRow> {
    Ok(UserRow { app: name(row, 0)?, user: name(row, 1)?, last_inbox_seq: row.number(2)? })
}

fn cursor(row: &Row) -> sqlx::Result<CursorRow> {
    let client_seq = u32::try_from(row.number(5)?);
    Ok(CursorRow {
        app: name(row, 0)?,
        conversation: name(row, 1)?,
        sender: name(row, 2)?,
        device: name(row, 3)?,
        session_epoch: row.number(4)?,
        client_seq: client_seq.map_err(|e| sqlx::Error::Decode(Box::new(e)))?,
    })
}

fn identity(row: &Row) -> sqlx::Result<(IdentityKey, Placed)> {
    let key = IdentityKey {
        app: name(row, 0)?,
        conversation: name(row, 1)?,
        sender: name(row, 2)?,
        client_msg_id: id_bytes(row, 3)?,
    };
    let placed = Placed {
        seq: row.number(4)?,
        message_id: row.number(5)?,
        server_time_ms: row.number(6)?,
        payload_hash: row.signed(7)?,
        sender_inbox_seq: row.number(8)?,
        peer_inbox_seq: row.number(9)?,
    };
    Ok((key, placed))
}
