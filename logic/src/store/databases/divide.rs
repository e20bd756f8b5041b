//! Which part of a batch belongs to which database.

use super::*;

/// What a batch writes in one database.
#[derive(Debug)]
pub(super) struct Share {
    pub(super) conversations: Writes,
    pub(super) pending: Pending,
    pub(super) owners: Writes,
}

impl Databases {
    /// What each database is asked, and the counters that are locked there.
    pub(super) fn divide_keys(&self, keys: &LoadKeys) -> (Vec<LoadKeys>, Vec<Vec<(Name, Name)>>) {
        let none = || LoadKeys { locks_inboxes: keys.locks_inboxes, ..LoadKeys::default() };
        let mut shares: Vec<LoadKeys> = self.members.iter().map(|_| none()).collect();
        let mut inboxes = vec![Vec::new(); self.members.len()];
        for key in &keys.conversations {
            shares[self.of_conversation(&key.0, &key.1)].conversations.push(key.clone());
        }
        for key in &keys.users {
            shares[self.of_user(&key.0, &key.1)].users.push(key.clone());
        }
        for key in &keys.cursors {
            shares[self.of_conversation(&key.0, &key.1)].cursors.push(key.clone());
        }
        for key in &keys.watermarks {
            shares[self.of_conversation(&key.0, &key.1)].watermarks.push(key.clone());
        }
        for key in &keys.identities {
            shares[self.of_conversation(&key.app, &key.conversation)].identities.push(key.clone());
        }
        for key in &keys.inboxes {
            inboxes[self.of_user(&key.0, &key.1)].push(key.clone());
        }
        (shares, inboxes)
    }

    pub(super) fn divide(&self, writes: Writes) -> Result<Vec<Share>> {
        let mut shares = Vec::with_capacity(self.members.len());
        for _ in &self.members {
            shares.push(Share {
                conversations: Writes::default(),
                pending: Pending { id: random_id()?, entries: Vec::new() },
                owners: Writes::default(),
            });
        }
        let mut first: HashMap<(&str, &str), u64> = HashMap::new();
        let mut members: HashMap<(&str, &str, u64), usize> = HashMap::new();
        for row in &writes.inbox {
            let first = first.entry((&row.app, &row.owner)).or_insert(row.inbox_seq);
            *first = row.inbox_seq.min(*first);
            *members.entry((&row.app, &row.conversation, row.seq)).or_default() += 1;
        }
        let senders: HashMap<_, _> = writes
            .messages
            .iter()
            .map(|row| ((&*row.app, &*row.conversation, row.placed.seq), &*row.sender))
            .collect();
        for row in &writes.inbox {
            let message = (&*row.app, &*row.conversation, row.seq);
            let is_sender = senders.get(&message).is_some_and(|sender| **sender == *row.owner);
            let entry = Entry {
                row: row.clone(),
                first: first[&(&*row.app, &*row.owner)],
                is_sender,
                // In a chat with oneself, both.
                is_peer: !is_sender || members[&message] == 1,
            };
            shares[self.of_conversation(&row.app, &row.conversation)].pending.entries.push(entry);
        }
        for row in writes.inbox {
            shares[self.of_user(&row.app, &row.owner)].owners.inbox.push(row);
        }
        for row in writes.inboxes {
            shares[self.of_user(&row.app, &row.user)].owners.inboxes.push(row);
        }
        for row in writes.device_cursors {
            shares[self.of_user(&row.app, &row.user)].owners.device_cursors.push(row);
        }
        for row in writes.messages {
            let index = self.of_conversation(&row.app, &row.conversation);
            shares[index].conversations.messages.push(row);
        }
        for row in writes.conversations {
            let index = self.of_conversation(&row.app, &row.conversation);
            shares[index].conversations.conversations.push(row);
        }
        for row in writes.cursors {
            let index = self.of_conversation(&row.app, &row.conversation);
            shares[index].conversations.cursors.push(row);
        }
        for row in writes.watermarks {
            let index = self.of_conversation(&row.app, &row.conversation);
            shares[index].conversations.watermarks.push(row);
        }
        for mark in writes.worker_marks {
            shares[self.of_worker(mark.0)].conversations.worker_marks.push(mark);
        }
        for share in &mut shares {
            share.conversations.sort();
            share.owners.sort();
        }
        Ok(shares)
    }
}
