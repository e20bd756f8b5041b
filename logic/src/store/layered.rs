//! A store in front of another one: it changes a few calls, and passes all others on.

use std::time::Duration;

use super::*;

/// What a store in front does otherwise; without more, nothing.
pub trait Layer: Send + Sync {
    /// [`Store::begin`].
    fn begin<'a>(
        &'a self,
        inner: &'a dyn Store,
        partitions: &'a [u16],
    ) -> BoxFuture<'a, Result<Vec<Renewed>>> {
        inner.begin(partitions)
    }
    /// [`Store::commit`].
    fn commit<'a>(&'a self, inner: &'a dyn Store, writes: Writes) -> BoxFuture<'a, Result<()>> {
        inner.commit(writes)
    }
    /// [`Store::inbox_page`] of (app, owner).
    fn inbox_page<'a>(
        &'a self,
        inner: &'a dyn Store,
        (app, owner): (&'a str, &'a str),
        after: u64,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<InboxMessage>>> {
        inner.inbox_page(app, owner, after, limit)
    }
}

/// `layer` in front of `inner`.
pub struct Layered<L> {
    inner: SharedStore,
    layer: L,
}

impl<L: std::fmt::Debug> std::fmt::Debug for Layered<L> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Layered").field("layer", &self.layer).finish_non_exhaustive()
    }
}

impl<L: Layer> Layered<L> {
    /// `layer` in front of `inner`.
    pub fn new(inner: SharedStore, layer: L) -> Self {
        Self { inner, layer }
    }
}

impl<L: Layer> Store for Layered<L> {
    fn begin<'a>(&'a self, partitions: &'a [u16]) -> BoxFuture<'a, Result<Vec<Renewed>>> {
        self.layer.begin(&*self.inner, partitions)
    }
    fn commit(&self, writes: Writes) -> BoxFuture<'_, Result<()>> {
        self.layer.commit(&*self.inner, writes)
    }
    fn inbox_page<'a>(
        &'a self,
        app: &'a str,
        owner: &'a str,
        after: u64,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<InboxMessage>>> {
        self.layer.inbox_page(&*self.inner, (app, owner), after, limit)
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
