//! Several databases as one store: conversations and users are divided among them by [`Placement`].
//!
//! A batch, where `i` is any of its databases:
//!
//! ```text
//! begin     partitions taken over in each; what a crash left is completed (`databases/complete.rs`)
//! load      rows of each, at the same time; then counters of inboxes are locked, one database after the other
//! commit 1  in each: messages, what belongs to conversations, and `pending_inbox`, which names the entries that follow
//! commit 2  in each: inbox entries, their counters, cursors of devices
//! ```
//! Invariants:
//! * An entry is committed after its message, so it never names one that is not there.
//! * Between the commits a message is promised to nobody: the batch is not done. What stops here leaves the row of `pending_inbox`. Whoever
//!   owns the partition next (or this process, after an error) completes it before it looks any message up, so a repeat is acknowledged
//!   only when its entries are there. Entries get new places then, because the locks were lost, and the message is told.
//! * Everybody who adds to an inbox has its counter locked, from before the number is made until it is committed: inboxes are dense, and
//!   an entry that was looked for and not found is added once.
//! * Nobody waits in a circle. Counters are locked in the order (database, app, owner) and by who holds nothing else. Commit 1 begins with
//!   all of them, holds locks of one database at a time, and waits for writers of conversations only, never for a lock of counters.
//!
//! A database that is away refuses what needs it; [`Store::is_within_reach`] tells a worker before. The others go on.
//!
//! Deliberately absent: a transaction over several databases (prepared ones outlive their process, and hold its locks), and moving what is
//! stored to another number of databases.

mod adapter;
mod complete;
mod divide;
pub(super) mod installation;
mod reads;
#[cfg(test)]
pub(crate) mod tests;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use futures_util::future::join_all;
use parking_lot::Mutex;

use super::placement::Placement;
use super::server::{Entry, Pending, ServerStore, StoreConfig};
use super::*;
use crate::ids::WORKER_ID_MAX;
use divide::Share;

/// Worker ids of all databases together.
const WORKER_IDS: usize = WORKER_ID_MAX as usize + 1;

/// See the module text.
#[derive(Debug)]
pub struct Databases {
    members: Vec<ServerStore>,
    placement: Placement,
    batch: Mutex<Batch>,
    #[cfg(test)]
    stop_at: tests::StopAt,
}

/// What is known between the steps of a batch, and between batches.
#[derive(Debug)]
struct Batch {
    /// Databases that the batch under way may use; `None`: a commit without a beginning, which owns nothing.
    begun: Option<Vec<bool>>,
    /// Whether its counters are locked.
    is_locked: bool,
    /// Per database, what [`Store::begin`] has still to tell.
    renewed: Vec<Option<Renewed>>,
    leftovers: Vec<Leftovers>,
    /// Per database, rows of `pending_inbox` whose entries are there: the next commit removes them.
    done: Vec<Vec<i64>>,
}

/// Rows of `pending_inbox` of one database that do not belong to a batch under way.
#[derive(Debug, Default)]
enum Leftovers {
    #[default]
    None,
    /// There may be some.
    Unknown,
    /// Their entries belong into databases that are away.
    Waiting { missing: HashSet<usize>, messages: HashSet<(Name, Name, u64)> },
}

impl Databases {
    /// Connects to all databases of the list, brings their schemas up to date, and makes sure that they are this installation's.
    ///
    /// # Errors
    /// When one cannot be used; the error says what to do.
    pub async fn open(config: &StoreConfig, owner: &str, worker_id: u16) -> Result<Self> {
        config.check().map_err(|error| StoreError::Refused(format!("logic.{error}")))?;
        let count = config.list().len();
        let mut members = Vec::with_capacity(count);
        for (index, url) in config.list().enumerate() {
            let ids = worker_ids(index, count);
            let first = ids.start() + worker_id % (ids.end() - ids.start() + 1);
            members.push(ServerStore::open_one(config, url, owner, (first, ids)).await?);
        }
        let stores: Vec<&ServerStore> = members.iter().collect();
        installation::enter(&stores).await?;
        Ok(Self {
            placement: Placement { databases: count },
            batch: Mutex::new(Batch {
                begun: None,
                is_locked: false,
                renewed: vec![None; count],
                leftovers: (0..count).map(|_| Leftovers::Unknown).collect(),
                done: vec![Vec::new(); count],
            }),
            members,
            #[cfg(test)]
            stop_at: tests::StopAt::default(),
        })
    }

    /// The value under `name` that all processes share: the first database keeps it.
    ///
    /// # Errors
    /// When that database is away.
    pub async fn agree(&self, name: &str, ours: &[u8]) -> Result<Vec<u8>> {
        self.members[0].agree(name, ours).await
    }

    /// What the start did to each schema.
    pub(super) fn migrated(&self) -> Vec<String> {
        self.members.iter().map(ServerStore::migrated).collect()
    }

    /// Ends all sessions.
    pub async fn close(&self) {
        join_all(self.members.iter().map(ServerStore::close)).await;
    }

    fn of_conversation(&self, app: &str, conversation: &str) -> usize {
        self.placement.of_conversation(app, conversation)
    }

    fn of_user(&self, app: &str, user: &str) -> usize {
        self.placement.of_user(app, user)
    }

    fn away(&self, index: usize) -> StoreError {
        let place = self.members[index].place();
        StoreError::Unavailable(format!("{place} is away; it is tried again all the time"))
    }

    /// A database that is there.
    fn there(&self, index: usize) -> Result<&ServerStore> {
        let member = &self.members[index];
        if member.is_away() { Err(self.away(index)) } else { Ok(member) }
    }

    /// One that the batch under way may write to.
    fn begun(&self, index: usize) -> Result<&ServerStore> {
        let is_begun = self.batch.lock().begun.as_ref().is_none_or(|begun| begun[index]);
        if is_begun { self.there(index) } else { Err(self.away(index)) }
    }

    /// Gives all locks of counters back.
    async fn release(&self) {
        self.batch.lock().is_locked = false;
        let there = self.members.iter().filter(|member| !member.is_away());
        join_all(there.map(ServerStore::release)).await;
    }

    /// Ends the batch, and rolls back what is open. Whoever commits again begins again.
    async fn give_up(&self) {
        self.release().await;
        let there = self.members.iter().filter(|member| !member.is_away());
        join_all(there.map(ServerStore::end)).await;
    }

    async fn begin_batch(&self, partitions: &[u16]) -> Result<Vec<Renewed>> {
        // Locks of a batch that was given up.
        self.give_up().await;
        let begun = join_all(self.members.iter().map(|member| async move {
            if member.is_away() { None } else { Some(member.begin(partitions).await) }
        }))
        .await;
        let mut failed = None;
        {
            let mut batch = self.batch.lock();
            let mut usable = vec![false; self.members.len()];
            for (index, done) in begun.into_iter().enumerate() {
                match done {
                    None => {}
                    Some(Ok(renewed)) => {
                        usable[index] = true;
                        if let Some(renewed) = renewed.first() {
                            batch.leftovers[index] = Leftovers::Unknown;
                            batch.renewed[index] = Some(Renewed { database: index, ..*renewed });
                        }
                    }
                    Some(Err(StoreError::Unavailable(_))) if self.members[index].is_away() => {}
                    Some(Err(error)) => failed = Some(worse(failed, error)),
                }
            }
            batch.begun = Some(usable);
        }
        if let Some(error) = failed {
            return Err(error);
        }
        self.complete().await?;
        Ok(self.batch.lock().renewed.iter_mut().filter_map(Option::take).collect())
    }

    async fn load_batch(&self, keys: &LoadKeys) -> Result<Loaded> {
        let (shares, inboxes) = self.divide_keys(keys);
        let asked = shares.iter().enumerate().filter(|(_, keys)| !keys.is_empty());
        let rows =
            join_all(asked.map(|(index, keys)| async move { self.begun(index)?.load(keys).await }))
                .await;
        let mut all = Loaded::default();
        for loaded in rows {
            let loaded = loaded?;
            all.conversations.extend(loaded.conversations);
            all.users.extend(loaded.users);
            all.cursors.extend(loaded.cursors);
            all.watermarks.extend(loaded.watermarks);
            all.identities.extend(loaded.identities);
        }
        self.refuse_unfinished(&all)?;
        self.batch.lock().is_locked = true;
        // In this order, one after the other, by everybody.
        for (index, owners) in inboxes.iter().enumerate() {
            if !owners.is_empty() {
                all.inboxes.extend(self.begun(index)?.lock_owners(owners).await?);
            }
        }
        Ok(all)
    }

    /// A message that is not in all inboxes yet is acknowledged by nobody.
    fn refuse_unfinished(&self, loaded: &Loaded) -> Result<()> {
        let batch = self.batch.lock();
        for (key, placed) in &loaded.identities {
            let place = (Arc::clone(&key.app), Arc::clone(&key.conversation), placed.seq);
            let index = self.of_conversation(&key.app, &key.conversation);
            if let Leftovers::Waiting { missing, messages } = &batch.leftovers[index]
                && messages.contains(&place)
            {
                return Err(self.away(missing.iter().copied().next().unwrap_or(index)));
            }
        }
        Ok(())
    }

    async fn commit_batch(&self, writes: Writes) -> Result<()> {
        let shares = self.divide(writes)?;
        // Before the first commit: what happens to this call from now on, they are looked for.
        let former: Vec<(usize, Leftovers)> = {
            let mut batch = self.batch.lock();
            let adding = shares.iter().enumerate().filter(|(_, s)| !s.pending.entries.is_empty());
            adding
                .map(|(index, _)| {
                    let leftovers = &mut batch.leftovers[index];
                    (index, std::mem::replace(leftovers, Leftovers::Unknown))
                })
                .collect()
        };
        each(
            shares.iter().enumerate().filter(|(_, s)| !s.conversations.is_empty()),
            |(index, share)| self.commit_conversations(index, share),
        )
        .await?;
        #[cfg(test)]
        self.stop_at.reach(tests::Step::Conversations).await;
        let is_locked = self.batch.lock().is_locked;
        each(shares.iter().enumerate().filter(|(_, s)| !s.owners.is_empty()), |(index, share)| {
            self.commit_owners(index, share, is_locked)
        })
        .await?;
        #[cfg(test)]
        self.stop_at.reach(tests::Step::Owners).await;
        {
            let mut batch = self.batch.lock();
            for (index, leftovers) in former {
                batch.leftovers[index] = leftovers;
                batch.done[index].push(shares[index].pending.id);
            }
        }
        // Where counters were locked and nothing was added.
        self.end().await;
        Ok(())
    }

    async fn commit_conversations(&self, index: usize, share: &Share) -> Result<()> {
        #[cfg(test)]
        self.stop_at.reach(tests::Step::ConversationsOf(index)).await;
        let (done, is_fenced) = {
            let batch = self.batch.lock();
            (batch.done[index].clone(), batch.begun.is_some())
        };
        let member = self.begun(index)?;
        let Share { conversations, pending, .. } = share;
        member.write_conversations(conversations, pending, &done, is_fenced).await?;
        self.batch.lock().done[index].retain(|id| !done.contains(id));
        Ok(())
    }

    async fn commit_owners(&self, index: usize, share: &Share, is_locked: bool) -> Result<()> {
        #[cfg(test)]
        self.stop_at.reach(tests::Step::OwnersOf(index)).await;
        let is_numbered = !share.owners.inbox.is_empty();
        self.begun(index)?.write_owners(&share.owners, is_locked && is_numbered).await
    }

    /// Which database leases this worker id.
    fn of_worker(&self, worker_id: u16) -> usize {
        let count = self.members.len();
        (usize::from(worker_id) / (WORKER_IDS / count)).min(count - 1)
    }
}

/// Each database leases a share of its own, so that no id is made twice however they come and go.
fn worker_ids(index: usize, count: usize) -> std::ops::RangeInclusive<u16> {
    let share = WORKER_IDS / count;
    let id = |id: usize| u16::try_from(id).unwrap_or(WORKER_ID_MAX);
    id(index * share)..=id((index + 1) * share - 1)
}

/// Runs to the end of all, whatever becomes of one.
async fn each<T, F: Future<Output = Result<()>>>(
    all: impl Iterator<Item = T>,
    work: impl FnMut(T) -> F,
) -> Result<()> {
    let done = join_all(all.map(work)).await;
    let failed = done.into_iter().filter_map(Result::err);
    failed.fold(None, |before, error| Some(worse(before, error))).map_or(Ok(()), Err)
}

/// The error that decides about a batch that failed in several databases.
fn worse(before: Option<StoreError>, error: StoreError) -> StoreError {
    let rank = |error: &StoreError| match error {
        StoreError::Fenced(_) => 5,
        StoreError::Damaged(_) => 4,
        StoreError::Unavailable(_) => 3,
        StoreError::Again(_) => 2,
        StoreError::Duplicate(_) => 1,
        StoreError::Refused(_) => 0,
    };
    match before {
        Some(before) if rank(&before) >= rank(&error) => before,
        Some(_) | None => error,
    }
}

fn random_id() -> Result<i64> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).map_err(|error| StoreError::Unavailable(error.to_string()))?;
    Ok(i64::from_le_bytes(bytes))
}
