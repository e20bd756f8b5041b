//! Pages, accounts and tokens, from whichever databases have them.

use super::*;

impl Databases {
    /// A read of each.
    pub(super) async fn health_of_each(&self, patience: Duration) -> Vec<(String, Result<()>)> {
        let count = self.members.len();
        join_all(self.members.iter().enumerate().map(|(index, member)| async move {
            let name = format!("{} of {count}, {}", index + 1, member.place());
            let well = match self.there(index) {
                Ok(member) => in_time(patience, member.worker_mark(0)).await,
                Err(error) => Err(error),
            };
            (name, well)
        }))
        .await
    }

    pub(super) async fn positions(&self, owners: &[(Name, Name)]) -> Result<Vec<u64>> {
        let mut shares = vec![(Vec::new(), Vec::new()); self.members.len()];
        for (at, owner) in owners.iter().enumerate() {
            let (places, names) = &mut shares[self.of_user(&owner.0, &owner.1)];
            places.push(at);
            names.push(owner.clone());
        }
        let asked = shares.iter().enumerate().filter(|(_, (places, _))| !places.is_empty());
        let found = join_all(asked.map(|(index, (places, names))| async move {
            Ok((places, self.there(index)?.inbox_positions(names).await?))
        }))
        .await;
        let mut positions = vec![0; owners.len()];
        for share in found {
            let (places, found): (&Vec<usize>, Vec<u64>) = share?;
            for (at, position) in places.iter().zip(found) {
                positions[*at] = position;
            }
        }
        Ok(positions)
    }

    /// Entries of the owner's database with messages of their conversations'. It ends before a message whose database is away.
    pub(super) async fn page(
        &self,
        app: &str,
        owner: &str,
        after: u64,
        limit: usize,
    ) -> Result<Vec<InboxMessage>> {
        let member = self.there(self.of_user(app, owner))?;
        let entries = member.entries(app, owner, after, limit).await?;
        let mut shares = vec![Vec::new(); self.members.len()];
        for entry in &entries {
            shares[self.of_conversation(app, &entry.1)].push(entry);
        }
        let shares = &shares;
        let found = join_all((0..self.members.len()).map(|index| async move {
            match &shares[index][..] {
                [] => Ok(Vec::new()),
                places => self.there(index)?.messages(app, places).await,
            }
        }))
        .await;
        let mut messages = HashMap::new();
        let mut failures = HashMap::new();
        for (index, share) in found.into_iter().enumerate() {
            match share {
                Ok(share) => {
                    messages.extend(share.into_iter().map(|m| ((m.conversation.clone(), m.seq), m)))
                }
                Err(error) => _ = failures.insert(index, error),
            }
        }
        let mut page = Vec::with_capacity(entries.len());
        for (inbox_seq, conversation, seq) in &entries {
            let message = messages.remove(&(conversation.to_string(), *seq));
            match (message, failures.remove(&self.of_conversation(app, conversation))) {
                (Some(message), _) => page.push(InboxMessage { inbox_seq: *inbox_seq, message }),
                (None, Some(error)) if page.is_empty() => return Err(error),
                (None, Some(_)) => break,
                // As after a restore of one database alone.
                (None, None) => tracing::error!(
                    %conversation, seq, owner, inbox_seq,
                    "an inbox names a message that its database does not have"
                ),
            }
        }
        Ok(page)
    }

    pub(super) async fn add_users_to_each(
        &self,
        app: &str,
        users: &[Name],
        now_ms: u64,
    ) -> Result<u64> {
        let mut shares = vec![Vec::new(); self.members.len()];
        for user in users {
            shares[self.of_user(app, user)].push(Arc::clone(user));
        }
        let shares = shares.iter().enumerate().filter(|(_, share)| !share.is_empty());
        let added = join_all(shares.map(|(index, share)| async move {
            self.there(index)?.add_users(app, share, now_ms).await
        }))
        .await;
        added.into_iter().sum()
    }

    /// What the first database that has it answers. Nobody has it: only when all were asked.
    pub(super) async fn first_with<'a, T, F>(
        &'a self,
        ask: impl Fn(&'a ServerStore) -> F,
    ) -> Result<Option<T>>
    where
        F: Future<Output = Result<Option<T>>>,
    {
        let ask = &ask;
        let answers = join_all(
            (0..self.members.len()).map(|index| async move { ask(self.there(index)?).await }),
        )
        .await;
        let mut failed = None;
        for answer in answers {
            match answer {
                Ok(Some(found)) => return Ok(Some(found)),
                Ok(None) => {}
                Err(error) => failed = Some(worse(failed, error)),
            }
        }
        failed.map_or(Ok(None), Err)
    }

    /// The database of a login: that of its user, whom the token does not name.
    pub(super) async fn of_family(&self, family: [u8; 16]) -> Result<Option<&ServerStore>> {
        self.first_with(
            |member| async move { Ok(member.has_family(family).await?.then_some(member)) },
        )
        .await
    }
}
