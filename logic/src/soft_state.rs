//! Soft state of logic in Redis: the newest inbox entries of each user, a cache in front of the database's `inbox`.
//!
//! Invariants:
//! * The database answers unless the cache holds every entry that was asked for, without a gap from the first one on. So what the cache
//!   never got, dropped or lost costs time only: it may be flushed, away or slow at any time.
//! * Entries are written after their commit, by a thread of its own behind a bounded queue: no commit waits for Redis, and when the queue is
//!   full they are left out.
//! * Keys carry the identity of the database ([`Epoch`]): another one's entries are never found.
//!
//! Whoever changes a stored message has to remove it here. A database that was restored from a backup keeps its identity: flush Redis then.
//! There is no twin in memory: with SQLite the database is in this very process.

pub mod redis;

use crate::store::layered::{Layer, Layered};
use crate::store::{BoxFuture, InboxMessage, Result, Store, Writes};
use redis::InboxCache;

/// What tells one database from another with the same address: a random value that it keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Epoch(pub u64);

impl Epoch {
    /// Of the bytes that all processes on a database agreed on.
    pub fn from_agreed(bytes: &[u8]) -> Self {
        Self(bytes.iter().fold(0, |epoch, byte| (epoch << 8) | u64::from(*byte)))
    }
}

/// A store whose inbox pages come from the cache where it can answer; the cache was opened with this store's identity.
pub type CachedStore = Layered<InboxCache>;

impl Layer for InboxCache {
    fn commit<'a>(&'a self, inner: &'a dyn Store, writes: Writes) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let committed = self.entries_of(&writes);
            inner.commit(writes).await?;
            if let Some(committed) = committed {
                self.offer(committed);
            }
            Ok(())
        })
    }

    fn inbox_page<'a>(
        &'a self,
        inner: &'a dyn Store,
        (app, owner): (&'a str, &'a str),
        after: u64,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<InboxMessage>>> {
        Box::pin(async move {
            let mut rows = self.page(app, owner, after, limit).await;
            if rows.len() < limit {
                // Whether there are more, only the database knows.
                let after = rows.last().map_or(after, |row| row.inbox_seq);
                rows.extend(inner.inbox_page(app, owner, after, limit - rows.len()).await?);
            }
            Ok(rows)
        })
    }
}
