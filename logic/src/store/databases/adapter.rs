//! The calls of a store: each to the databases that have what it names.

use super::*;

impl Store for Databases {
    fn begin<'a>(&'a self, partitions: &'a [u16]) -> BoxFuture<'a, Result<Vec<Renewed>>> {
        Box::pin(self.begin_batch(partitions))
    }
    fn end(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            self.give_up().await;
            self.batch.lock().begun = None;
        })
    }
    fn is_shared(&self) -> bool {
        true
    }
    fn databases(&self) -> usize {
        self.members.len()
    }
    fn database_of(&self, app: &str, conversation: &str) -> usize {
        self.of_conversation(app, conversation)
    }
    fn is_within_reach(&self, app: &str, users: &[&str], conversations: &[&str]) -> bool {
        if !self.members.iter().any(ServerStore::is_away) {
            return true;
        }
        let of_users = users.iter().map(|user| self.of_user(app, user));
        let of_conversations = conversations.iter().map(|name| self.of_conversation(app, name));
        of_users.chain(of_conversations).all(|index| !self.members[index].is_away())
    }
    fn health(&self, patience: Duration) -> BoxFuture<'_, Vec<(String, Result<()>)>> {
        Box::pin(self.health_of_each(patience))
    }
    fn load<'a>(&'a self, keys: &'a LoadKeys) -> BoxFuture<'a, Result<Loaded>> {
        Box::pin(async {
            let loaded = self.load_batch(keys).await;
            if loaded.is_err() {
                self.give_up().await;
            }
            loaded
        })
    }
    fn commit(&self, writes: Writes) -> BoxFuture<'_, Result<()>> {
        Box::pin(async {
            if writes.is_empty() {
                self.end().await;
                return Ok(());
            }
            let done = self.commit_batch(writes).await;
            if done.is_err() {
                self.give_up().await;
            }
            done
        })
    }
    fn quarantine<'a>(&'a self, entry: &'a Quarantined) -> BoxFuture<'a, Result<()>> {
        Box::pin(async {
            self.there(self.of_user(&entry.app, &entry.user))?.quarantine(entry).await
        })
    }
    fn worker_mark(&self, worker_id: u16) -> BoxFuture<'_, Result<u64>> {
        Box::pin(async move { self.there(self.of_worker(worker_id))?.worker_mark(worker_id).await })
    }
    fn is_tending_due(&self) -> bool {
        // The servers tend themselves.
        false
    }
    fn tend(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(std::future::ready(Ok(())))
    }
    fn inbox_positions<'a>(
        &'a self,
        owners: &'a [(Name, Name)],
    ) -> BoxFuture<'a, Result<Vec<u64>>> {
        Box::pin(self.positions(owners))
    }
    fn inbox_page<'a>(
        &'a self,
        app: &'a str,
        owner: &'a str,
        after: u64,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<InboxMessage>>> {
        Box::pin(self.page(app, owner, after, limit))
    }
    fn history<'a>(
        &'a self,
        app: &'a str,
        conversation: &'a str,
        range: HistoryRange,
    ) -> BoxFuture<'a, Result<Option<HistoryRows>>> {
        Box::pin(async move {
            let index = self.of_conversation(app, conversation);
            self.there(index)?.history(app, conversation, range).await
        })
    }
    fn watermarks<'a>(
        &'a self,
        app: &'a str,
        conversation: &'a str,
    ) -> BoxFuture<'a, Result<Vec<WatermarkRow>>> {
        Box::pin(async move {
            let index = self.of_conversation(app, conversation);
            self.there(index)?.watermarks(app, conversation).await
        })
    }
    fn add_users<'a>(
        &'a self,
        app: &'a str,
        users: &'a [Name],
        now_ms: u64,
    ) -> BoxFuture<'a, Result<u64>> {
        Box::pin(self.add_users_to_each(app, users, now_ms))
    }
    fn register<'a>(&'a self, app: &'a str, account: &'a Account) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            self.there(self.of_user(app, &account.user))?.register(app, account).await
        })
    }
    fn account<'a>(
        &'a self,
        app: &'a str,
        user: &'a str,
    ) -> BoxFuture<'a, Result<Option<Account>>> {
        Box::pin(async move { self.there(self.of_user(app, user))?.account(app, user).await })
    }
    fn set_display_name<'a>(
        &'a self,
        app: &'a str,
        user: &'a str,
        display_name: &'a str,
    ) -> BoxFuture<'a, Result<bool>> {
        Box::pin(async move {
            let member = self.there(self.of_user(app, user))?;
            member.set_display_name(app, user, display_name).await
        })
    }
    fn open_family<'a>(&'a self, family: &'a RefreshFamily) -> BoxFuture<'a, Result<()>> {
        Box::pin(async {
            self.there(self.of_user(&family.app, &family.user))?.open_family(family).await
        })
    }
    fn refresh_token(&self, token_hash: [u8; 32]) -> BoxFuture<'_, Result<Option<RefreshToken>>> {
        Box::pin(async move { self.first_with(|member| member.refresh_token(token_hash)).await })
    }
    fn rotate<'a>(&'a self, rotation: &'a Rotation) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            match self.of_family(rotation.family).await? {
                Some(member) => member.rotate(rotation).await,
                None => Ok(()),
            }
        })
    }
    fn revoke_family(&self, family: [u8; 16], now_ms: u64) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            match self.of_family(family).await? {
                Some(member) => member.revoke_family(family, now_ms).await,
                None => Ok(()),
            }
        })
    }
}
