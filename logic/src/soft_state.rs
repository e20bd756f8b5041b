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

use std::time::Duration;

use crate::store::*;
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

/// A store whose inbox pages come from the cache where it can answer.
pub struct CachedStore {
    inner: SharedStore,
    cache: InboxCache,
}

impl std::fmt::Debug for CachedStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CachedStore").field("cache", &self.cache).finish_non_exhaustive()
    }
}

impl CachedStore {
    /// `cache` in front of `inner`, whose identity it was opened with.
    pub fn new(inner: SharedStore, cache: InboxCache) -> Self {
        Self { inner, cache }
    }
}

impl Store for CachedStore {
    fn commit(&self, writes: Writes) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            let committed = self.cache.entries_of(&writes);
            self.inner.commit(writes).await?;
            if let Some(committed) = committed {
                self.cache.offer(committed);
            }
            Ok(())
        })
    }

    fn inbox_page<'a>(
        &'a self,
        app: &'a str,
        owner: &'a str,
        after: u64,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<InboxMessage>>> {
        Box::pin(async move {
            let mut rows = self.cache.page(app, owner, after, limit).await;
            if rows.len() < limit {
                // Whether there are more, only the database knows.
                let after = rows.last().map_or(after, |row| row.inbox_seq);
                let rest = self.inner.inbox_page(app, owner, after, limit - rows.len());
                rows.extend(rest.await?);
            }
            Ok(rows)
        })
    }

    fn begin<'a>(&'a self, partitions: &'a [u16]) -> BoxFuture<'a, Result<Vec<Renewed>>> {
        self.inner.begin(partitions)
    }
    fn end(&self) -> BoxFuture<'_, ()> {
        self.inner.end()
    }
    fn is_shared(&self) -> bool {
        self.inner.is_shared()
    }
    fn databases(&self) -> usize {
        self.inner.databases()
    }
    fn database_of(&self, app: &str, conversation: &str) -> usize {
        self.inner.database_of(app, conversation)
    }
    fn is_within_reach(&self, app: &str, users: &[&str], conversations: &[&str]) -> bool {
        self.inner.is_within_reach(app, users, conversations)
    }
    fn health(&self, patience: Duration) -> BoxFuture<'_, Vec<(String, Result<()>)>> {
        self.inner.health(patience)
    }
    fn is_tending_due(&self) -> bool {
        self.inner.is_tending_due()
    }
    fn load<'a>(&'a self, keys: &'a LoadKeys) -> BoxFuture<'a, Result<Loaded>> {
        self.inner.load(keys)
    }
    fn quarantine<'a>(&'a self, entry: &'a Quarantined) -> BoxFuture<'a, Result<()>> {
        self.inner.quarantine(entry)
    }
    fn worker_mark(&self, worker_id: u16) -> BoxFuture<'_, Result<u64>> {
        self.inner.worker_mark(worker_id)
    }
    fn tend(&self) -> BoxFuture<'_, Result<()>> {
        self.inner.tend()
    }
    fn inbox_positions<'a>(
        &'a self,
        owners: &'a [(Name, Name)],
    ) -> BoxFuture<'a, Result<Vec<u64>>> {
        self.inner.inbox_positions(owners)
    }
    fn history<'a>(
        &'a self,
        app: &'a str,
        conversation: &'a str,
        range: HistoryRange,
    ) -> BoxFuture<'a, Result<Option<HistoryRows>>> {
        self.inner.history(app, conversation, range)
    }
    fn watermarks<'a>(
        &'a self,
        app: &'a str,
        conversation: &'a str,
    ) -> BoxFuture<'a, Result<Vec<WatermarkRow>>> {
        self.inner.watermarks(app, conversation)
    }
    fn add_users<'a>(
        &'a self,
        app: &'a str,
        users: &'a [Name],
        now_ms: u64,
    ) -> BoxFuture<'a, Result<u64>> {
        self.inner.add_users(app, users, now_ms)
    }
    fn register<'a>(&'a self, app: &'a str, account: &'a Account) -> BoxFuture<'a, Result<()>> {
        self.inner.register(app, account)
    }
    fn account<'a>(
        &'a self,
        app: &'a str,
        user: &'a str,
    ) -> BoxFuture<'a, Result<Option<Account>>> {
        self.inner.account(app, user)
    }
    fn set_display_name<'a>(
        &'a self,
        app: &'a str,
        user: &'a str,
        display_name: &'a str,
    ) -> BoxFuture<'a, Result<bool>> {
        self.inner.set_display_name(app, user, display_name)
    }
    fn open_family<'a>(&'a self, family: &'a RefreshFamily) -> BoxFuture<'a, Result<()>> {
        self.inner.open_family(family)
    }
    fn refresh_token(&self, token_hash: [u8; 32]) -> BoxFuture<'_, Result<Option<RefreshToken>>> {
        self.inner.refresh_token(token_hash)
    }
    fn rotate<'a>(&'a self, rotation: &'a Rotation) -> BoxFuture<'a, Result<()>> {
        self.inner.rotate(rotation)
    }
    fn revoke_family(&self, family: [u8; 16], now_ms: u64) -> BoxFuture<'_, Result<()>> {
        self.inner.revoke_family(family, now_ms)
    }
}
