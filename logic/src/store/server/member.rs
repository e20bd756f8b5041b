//! What a database does as one of several: messages and inbox entries are two transactions, of two sessions. `../databases.rs` knows the
//! order of both over all databases.
//!
//! ```text
//! writer   messages with what belongs to conversations, under the fence of their partitions; and a row of `pending_inbox`
//! inboxes  counters, locked from the load on; then the entries. Whoever adds to an inbox has its counter locked
//! ```
//! The two write different tables, so a writer never waits for a transaction of inboxes.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::super::{InboxRow, StoredMessage, UserRow};
use super::commit::{number, statements};
use super::driver::{Statement, Value};
use super::load::{COUNTERS, name};
use super::read::{count, message, position};
use super::statement::{Conflict, Table, look_up};
use super::{BoxFuture, Name, Result, ServerStore, Shared, StoreError, Writes};
use Value::{Bytes, Number, Text};

/// Layout of `pending_inbox.entries`; a reader of a later version still reads this one.
const VERSION: u8 = 1;

static PENDING: Table = Table::new("pending_inbox (id, entries)", Conflict::Refuse);
const PLACES: &str = "SELECT app_id, owner, inbox_seq, conversation, seq FROM inbox WHERE (app_id, owner, inbox_seq) IN";
const SINCE: &str = "SELECT inbox_seq FROM inbox WHERE app_id = ? AND owner = ? AND inbox_seq >= ? \
    AND conversation = ? AND seq = ?";
const ENTRIES: &str = "SELECT inbox_seq, conversation, seq FROM inbox WHERE app_id = ? AND owner = ? AND inbox_seq > ? \
    ORDER BY inbox_seq LIMIT ?";
const MESSAGES: &str = "SELECT conversation, seq, message_id, sender, client_msg_id, kind, server_time_ms, body \
    FROM messages WHERE (app_id, conversation, seq) IN";

/// An inbox entry that follows its message, and whose it is: the message repeats the place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::store) struct Entry {
    pub(in crate::store) row: InboxRow,
    /// The first place that its owner's inbox had left when the numbers were made: the entry is nowhere before.
    pub(in crate::store) first: u64,
    pub(in crate::store) is_sender: bool,
    pub(in crate::store) is_peer: bool,
}

/// Entries that follow the messages of one commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::store) struct Pending {
    pub(in crate::store) id: i64,
    pub(in crate::store) entries: Vec<Entry>,
}

/// Of a conversation, in an inbox.
pub(in crate::store) type Place = (u64, Name, u64);

fn encode(entries: &[Entry]) -> Result<Vec<u8>> {
    let encoded = postcard::to_extend(entries, vec![VERSION]);
    encoded.map_err(|e| StoreError::Refused(format!("inbox entries cannot be written: {e}")))
}

fn decode(bytes: &[u8]) -> std::result::Result<Vec<Entry>, String> {
    match bytes.split_first() {
        Some((&VERSION, rest)) => postcard::from_bytes(rest).map_err(|e| e.to_string()),
        Some((version, _)) => Err(format!("version {version} of a newer Roost")),
        None => Err("empty".to_owned()),
    }
}

/// The calls of `../databases.rs`.
impl ServerStore {
    /// Messages with what belongs to conversations. Adds `pending`, removes `done`. `is_fenced`: a batch was begun, and its partitions must
    /// still be owned.
    pub(in crate::store) fn write_conversations<'a>(
        &'a self,
        writes: &'a Writes,
        pending: &'a Pending,
        done: &'a [i64],
        is_fenced: bool,
    ) -> BoxFuture<'a, Result<()>> {
        self.entered(self.shared.write_conversations(writes, pending, done, is_fenced))
    }
    /// Makes counters that are absent: what does not exist cannot be locked.
    pub(in crate::store) fn make_counters<'a>(
        &'a self,
        owners: &'a [(Name, Name)],
    ) -> BoxFuture<'a, Result<()>> {
        self.entered(self.shared.make_counters(owners))
    }
    /// Counters, locked until [`Self::write_owners`] or [`Self::release`].
    pub(in crate::store) fn lock_owners<'a>(
        &'a self,
        owners: &'a [(Name, Name)],
    ) -> BoxFuture<'a, Result<Vec<UserRow>>> {
        self.entered(self.shared.lock_owners(owners))
    }
    /// Where entries are, in the order asked, while their counters are locked.
    pub(in crate::store) fn places<'a>(
        &'a self,
        entries: &'a [&'a Entry],
    ) -> BoxFuture<'a, Result<Vec<Option<u64>>>> {
        self.entered(self.shared.places(entries))
    }
    /// Entries, counters and cursors of devices. `is_locked`: the numbers were made under the lock, and are void without it.
    pub(in crate::store) fn write_owners<'a>(
        &'a self,
        writes: &'a Writes,
        is_locked: bool,
    ) -> BoxFuture<'a, Result<()>> {
        self.entered(self.shared.write_owners(writes, is_locked))
    }
    /// Gives locks back.
    pub(in crate::store) fn release(&self) -> BoxFuture<'_, ()> {
        self.entered(self.shared.release())
    }
    /// Entries that may be missing in inboxes.
    pub(in crate::store) fn pending(&self) -> BoxFuture<'_, Result<Vec<Pending>>> {
        self.entered(self.shared.pending())
    }
    /// All entries of a row are there; those of `moved` at these places.
    pub(in crate::store) fn settle<'a>(
        &'a self,
        id: i64,
        moved: &'a [(&'a Entry, u64)],
    ) -> BoxFuture<'a, Result<()>> {
        self.entered(self.shared.settle(id, moved))
    }
    /// Up to `limit` entries after `after`, ascending, without their messages.
    pub(in crate::store) fn entries<'a>(
        &'a self,
        app: &'a str,
        owner: &'a str,
        after: u64,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<Place>>> {
        self.entered(self.shared.entries(app, owner, after, limit))
    }
    /// Those of these messages that there are.
    pub(in crate::store) fn messages<'a>(
        &'a self,
        app: &'a str,
        places: &'a [&'a Place],
    ) -> BoxFuture<'a, Result<Vec<StoredMessage>>> {
        self.entered(self.shared.messages(app, places))
    }
    /// Whether it has this login.
    pub(in crate::store) fn has_family(&self, family: [u8; 16]) -> BoxFuture<'_, Result<bool>> {
        self.entered(self.shared.has_family(family))
    }
    /// Whether anything of users or conversations is stored.
    pub(in crate::store) fn is_used(&self) -> BoxFuture<'_, Result<bool>> {
        self.entered(self.shared.is_used())
    }
}

impl Shared {
    async fn write_conversations(
        &self,
        writes: &Writes,
        pending: &Pending,
        done: &[i64],
        is_fenced: bool,
    ) -> Result<()> {
        if is_fenced && !self.writer.lock().await.has_batch() {
            return Err(StoreError::Again(format!("the batch was ended in {}", self.place)));
        }
        let encoded = encode(&pending.entries)?;
        let rows = [(pending.id, encoded)];
        let rows = if pending.entries.is_empty() { &[][..] } else { &rows[..] };
        let mut all = statements(self.dialect, writes);
        PENDING.write(self.dialect, rows, |(id, entries)| [Number(*id), Bytes(entries)], &mut all);
        for id in done {
            all.push(Statement::new("DELETE FROM pending_inbox WHERE id = ?", &[Number(*id)]));
        }
        self.write(&all).await
    }

    async fn make_counters(&self, owners: &[(Name, Name)]) -> Result<()> {
        let mut owners: Vec<&(Name, Name)> = owners.iter().collect();
        owners.sort_unstable();
        owners.dedup();
        let mut out = Vec::new();
        COUNTERS.write(self.dialect, &owners, |(a, o)| [Text(a), Text(o), Number(0)], &mut out);
        self.transact(&out).await.map(|_| ())
    }

    async fn lock_owners(&self, owners: &[(Name, Name)]) -> Result<Vec<UserRow>> {
        let mut inboxes = self.inboxes.lock().await;
        let mut session = match inboxes.take() {
            Some(session) => session,
            None => self.connect().await?,
        };
        let work = async {
            if std::mem::take(&mut inboxes.is_open) {
                // Of a batch that was given up.
                self.timed(session.link().plain("ROLLBACK")).await?;
            }
            self.lock_inboxes(&mut session, &mut inboxes, owners).await
        };
        let done = work.await;
        self.conclude(&mut inboxes, session, done).await
    }

    async fn places(&self, entries: &[&Entry]) -> Result<Vec<Option<u64>>> {
        let mut inboxes = self.inboxes.lock().await;
        let mut session = self.locked(inboxes.take())?;
        let work = async {
            let asked = look_up(self.dialect, PLACES, entries, |Entry { row, .. }| {
                [Text(&row.app), Text(&row.owner), number(row.inbox_seq)]
            });
            let read = |row: &super::Row| {
                Ok(InboxRow {
                    app: name(row, 0)?,
                    owner: name(row, 1)?,
                    inbox_seq: row.number(2)?,
                    conversation: name(row, 3)?,
                    seq: row.number(4)?,
                })
            };
            let there = self.rows(&mut session, &asked, read).await?;
            let there: HashMap<_, _> =
                there.iter().map(|row| ((&row.app, &row.owner, row.inbox_seq), row)).collect();
            let mut places = Vec::with_capacity(entries.len());
            for Entry { row, first, .. } in entries {
                if there.get(&(&row.app, &row.owner, row.inbox_seq)) == Some(&row) {
                    places.push(Some(row.inbox_seq));
                    continue;
                }
                let (app, owner) = (Text(&row.app), Text(&row.owner));
                let key = [app, owner, number(*first), Text(&row.conversation), number(row.seq)];
                let since = [Statement::new(SINCE, &key)];
                let found = self.rows(&mut session, &since, |row| row.number(0)).await?;
                places.push(found.first().copied());
            }
            Ok(places)
        };
        let done = work.await;
        self.conclude(&mut inboxes, session, done).await
    }

    /// The session whose locks are still held.
    fn locked(&self, session: Option<super::driver::Session>) -> Result<super::driver::Session> {
        let lost =
            || StoreError::Again(format!("the locks of inboxes in {} were lost", self.place));
        session.ok_or_else(lost)
    }

    async fn write_owners(&self, writes: &Writes, is_locked: bool) -> Result<()> {
        let statements = statements(self.dialect, writes);
        let mut inboxes = self.inboxes.lock().await;
        let session = inboxes.take();
        if is_locked && !inboxes.is_open {
            inboxes.keep(session);
            return self.locked(None).map(|_| ());
        }
        let mut session = match session {
            Some(session) => session,
            None => self.connect().await?,
        };
        let work = async {
            self.open(&mut session, &mut inboxes, &[]).await?;
            self.write_all(&mut session, &statements).await
        };
        let done = work.await;
        inboxes.is_open = false;
        self.conclude(&mut inboxes, session, done).await
    }

    async fn release(&self) {
        let mut inboxes = self.inboxes.lock().await;
        if inboxes.is_open
            && let Some(mut session) = inboxes.take()
        {
            inboxes.is_open = false;
            let done = self.timed(session.link().plain("ROLLBACK")).await;
            // A session that is lost now is noticed by the next batch.
            _ = self.conclude(&mut inboxes, session, done).await;
        }
    }

    async fn pending(&self) -> Result<Vec<Pending>> {
        let rows = self.fetch(Statement::new("SELECT id, entries FROM pending_inbox", &[])).await?;
        let rows = self.read(&rows, |row| Ok((row.signed(0)?, row.bytes(1)?)))?;
        let read = |(id, bytes): (i64, Vec<u8>)| match decode(&bytes) {
            Ok(entries) => Ok(Pending { id, entries }),
            Err(what) => Err(StoreError::Damaged(format!(
                "row {id} of the table pending_inbox in {} cannot be read ({what}): start the version of Roost that wrote it",
                self.place
            ))),
        };
        rows.into_iter().map(read).collect()
    }

    async fn settle(&self, id: i64, moved: &[(&Entry, u64)]) -> Result<()> {
        let mut all = Vec::new();
        for (Entry { row, is_sender, is_peer, .. }, place) in moved {
            for (is_theirs, column) in
                [(is_sender, "sender_inbox_seq"), (is_peer, "peer_inbox_seq")]
            {
                let text = format!(
                    "UPDATE messages SET {column} = ? WHERE app_id = ? AND conversation = ? AND seq = ?"
                );
                let key = [Text(&row.app), Text(&row.conversation), number(row.seq)];
                let [app, conversation, seq] = key;
                if *is_theirs {
                    all.push(Statement::new(&text, &[number(*place), app, conversation, seq]));
                }
            }
        }
        all.push(Statement::new("DELETE FROM pending_inbox WHERE id = ?", &[Number(id)]));
        self.transact(&all).await.map(|_| ())
    }

    async fn entries(
        &self,
        app: &str,
        owner: &str,
        after: u64,
        limit: usize,
    ) -> Result<Vec<Place>> {
        let values = [Text(app), Text(owner), position(after), count(limit)];
        let rows = self.fetch(Statement::new(ENTRIES, &values)).await?;
        self.read(&rows, |row| Ok((row.number(0)?, name(row, 1)?, row.number(2)?)))
    }

    async fn messages(&self, app: &str, places: &[&Place]) -> Result<Vec<StoredMessage>> {
        let mut found = Vec::with_capacity(places.len());
        for statement in look_up(self.dialect, MESSAGES, places, |(_, conversation, seq)| {
            [Text(app), Text(conversation), number(*seq)]
        }) {
            let rows = self.fetch(statement).await?;
            found.extend(self.read(&rows, message)?);
        }
        Ok(found)
    }

    async fn has_family(&self, family: [u8; 16]) -> Result<bool> {
        let ask = "SELECT created_ms FROM refresh_families WHERE family = ?";
        let rows = self.fetch(Statement::new(ask, &[Bytes(&family)])).await?;
        Ok(!rows.is_empty())
    }

    async fn is_used(&self) -> Result<bool> {
        for table in ["users", "conversations"] {
            let ask = format!("SELECT app_id FROM {table} LIMIT 1");
            if !self.fetch(Statement::new(&ask, &[])).await?.is_empty() {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_written_and_read() {
        let row = InboxRow {
            app: "demo".into(),
            owner: "bob".into(),
            inbox_seq: 7,
            conversation: "s:alice:bob".into(),
            seq: 3,
        };
        let entries = vec![Entry { row, first: 7, is_sender: false, is_peer: true }];
        let bytes = encode(&entries).unwrap();
        assert_eq!(decode(&bytes).unwrap(), entries);
        assert!(decode(&bytes[..bytes.len() - 1]).is_err());
        assert!(decode(&[9, 0]).unwrap_err().contains("newer Roost"));
        assert!(decode(&[]).is_err());
    }
}
