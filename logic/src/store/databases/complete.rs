//! Completes what stopped between the two commits of a batch: entries that are missing get the next places of their inboxes.
//!
//! ```text
//! read     rows of `pending_inbox`; those of batches under way elsewhere are among them
//! lock     the counters of a row's owners, in the order of the databases: waits for the batch that is still at work on them
//! look     for each entry, from the first place on that it could have got
//! add      what is not there, and commit in each database
//! settle   the message is told its places, and the row goes
//! ```
//! Every step may be done twice, by several processes at the same time, and after any of them may crash.

use super::*;

impl Databases {
    /// In all databases that the batch may use.
    pub(super) async fn complete(&self) -> Result<()> {
        for index in 0..self.members.len() {
            let is_due = {
                let batch = self.batch.lock();
                let is_begun = batch.begun.as_ref().is_some_and(|begun| begun[index]);
                is_begun
                    && match &batch.leftovers[index] {
                        Leftovers::None => false,
                        Leftovers::Unknown => true,
                        Leftovers::Waiting { missing, .. } => {
                            missing.iter().any(|index| !self.members[*index].is_away())
                        }
                    }
            };
            if !is_due {
                continue;
            }
            match self.complete_of(index).await {
                Ok(left) => self.batch.lock().leftovers[index] = left,
                Err(StoreError::Unavailable(_)) if self.members[index].is_away() => {
                    if let Some(begun) = &mut self.batch.lock().begun {
                        begun[index] = false;
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn complete_of(&self, index: usize) -> Result<Leftovers> {
        let (mut missing, mut messages) = (HashSet::new(), HashSet::new());
        for pending in self.there(index)?.pending().await? {
            let done = self.complete_row(index, &pending).await;
            if done.is_err() {
                self.release().await;
            }
            let away = || {
                let owners = pending.entries.iter().map(|e| self.of_user(&e.row.app, &e.row.owner));
                owners.filter(|owner| self.members[*owner].is_away()).collect::<HashSet<_>>()
            };
            match done {
                Ok(()) => {}
                Err(StoreError::Unavailable(_)) if !away().is_empty() => {
                    missing.extend(away());
                    messages.extend(
                        pending
                            .entries
                            .into_iter()
                            .map(|Entry { row, .. }| (row.app, row.conversation, row.seq)),
                    );
                }
                Err(error) => return Err(error),
            }
        }
        if messages.is_empty() {
            return Ok(Leftovers::None);
        }
        tracing::warn!(
            messages = messages.len(),
            "messages wait for a database that is away, to be added to inboxes"
        );
        Ok(Leftovers::Waiting { missing, messages })
    }

    async fn complete_row(&self, index: usize, pending: &Pending) -> Result<()> {
        let mut shares: Vec<Vec<&Entry>> = vec![Vec::new(); self.members.len()];
        for entry in &pending.entries {
            shares[self.of_user(&entry.row.app, &entry.row.owner)].push(entry);
        }
        // Before the first lock: whoever has locks waits for nobody who makes counters.
        let owners: Vec<Vec<(Name, Name)>> = shares
            .iter()
            .map(|share| share.iter().map(|e| (e.row.app.clone(), e.row.owner.clone())).collect())
            .collect();
        for (owner, names) in owners.iter().enumerate().filter(|(_, names)| !names.is_empty()) {
            self.there(owner)?.make_counters(names).await?;
        }
        let mut counters: HashMap<(Name, Name), u64> = HashMap::new();
        for (owner, names) in owners.iter().enumerate().filter(|(_, names)| !names.is_empty()) {
            let locked = self.there(owner)?.lock_owners(names).await?;
            counters
                .extend(locked.into_iter().map(|row| ((row.app, row.user), row.last_inbox_seq)));
        }
        let (mut moved, mut added) = (Vec::new(), 0);
        for (owner, share) in shares.iter_mut().enumerate().filter(|(_, share)| !share.is_empty()) {
            share.sort_unstable_by(|a, b| a.row.cmp(&b.row));
            let member = self.there(owner)?;
            let places = member.places(share).await?;
            let mut writes = Writes::default();
            let mut raised = HashMap::new();
            for (entry, place) in share.iter().zip(places) {
                let key = (entry.row.app.clone(), entry.row.owner.clone());
                let place = place.unwrap_or_else(|| {
                    let counter = counters.entry(key.clone()).or_default();
                    *counter += 1;
                    raised.insert(key, *counter);
                    writes.inbox.push(InboxRow { inbox_seq: *counter, ..entry.row.clone() });
                    *counter
                });
                if place != entry.row.inbox_seq {
                    moved.push((*entry, place));
                }
            }
            if writes.inbox.is_empty() {
                member.release().await;
                continue;
            }
            added += writes.inbox.len();
            let counter = |((app, user), last_inbox_seq)| UserRow { app, user, last_inbox_seq };
            writes.inboxes.extend(raised.into_iter().map(counter));
            writes.sort();
            member.write_owners(&writes, true).await?;
        }
        #[cfg(test)]
        self.stop_at.reach(tests::Step::Settle).await;
        self.there(index)?.settle(pending.id, &moved).await?;
        if added > 0 {
            tracing::info!(
                added,
                moved = moved.len(),
                "inbox entries that a crash left were added"
            );
        }
        Ok(())
    }
}
