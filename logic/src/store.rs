//! The durable truth, at the level of whole batches: `load` what a batch of operations needs, `commit` what it changed.
//!
//! What every adapter promises:
//! * [`Store::commit`] is durable when it returns, and one transaction; over several databases one in each: see `databases.rs`.
//!   After an error it may still have happened, there in parts: the caller loads again and finds out by the identities in the rows.
//! * A violated identity (a `client_msg_id` that is stored already) is [`StoreError::Duplicate`], and nothing of the batch is
//!   written in its database.
//! * What [`Store::load`] says of an identity is complete: its message is in the inboxes of all members, for ever.
//! * Reads see every commit that returned before they began, and never wait for a writer.
//!
//! Counters are written as absolute values. SQLite has one worker, and refuses another process. A database server may have several:
//! there a batch is [`Store::begin`], loads, and a commit or [`Store::end`]; partitions have owners, whose epochs every commit checks, and
//! counters of inboxes, which belong to no partition, are locked from the load to the commit.

pub mod databases;
pub(crate) mod key;
pub mod layered;
pub(crate) mod opened;
pub(crate) mod placement;
pub mod rows;
pub mod server;
pub mod sqlite;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

pub use rows::*;

/// A boxed future: the store is chosen at start, and called once per batch.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;
/// What most calls return.
pub type Result<T> = std::result::Result<T, StoreError>;

/// Why the store did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// It cannot be used at the moment (full disk, lock, lost connection). The same call may work later.
    #[error("the database is unavailable: {0}")]
    Unavailable(String),
    /// A row with this identity exists. Nothing was written.
    #[error("stored already: {0}")]
    Duplicate(String),
    /// The files are not a healthy Roost database; says which file and what to do.
    #[error("{0}")]
    Damaged(String),
    /// The statement itself failed: a defect in Roost, or a value no column takes.
    #[error("the database refused: {0}")]
    Refused(String),
    /// Other writers, or a lost connection, came in between. The same batch may be begun again at once; what is remembered is void.
    #[error("the batch has to be done again: {0}")]
    Again(String),
    /// Another worker has taken these partitions over since: nothing of the batch was written, and what is remembered is void.
    #[error("partitions {0:?} of the bus belong to another logic process by now")]
    Fenced(Vec<u16>),
}

/// What is remembered is void: other processes may have written since. Message ids are made anew, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Renewed {
    /// Whose conversations get these ids: [`Store::database_of`].
    pub database: usize,
    /// The worker id that this process has alone.
    pub worker_id: u16,
    /// As of [`Store::worker_mark`].
    pub mark_ms: u64,
}

/// Where two users' single chat, or later a group's messages, are looked up by identity.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct IdentityKey {
    /// Tenant.
    pub app: Name,
    /// Which conversation.
    pub conversation: Name,
    /// Who sent it.
    pub sender: Name,
    /// As the client named it.
    pub client_msg_id: [u8; 16],
}

/// An adapter of the store.
pub trait Store: Send + Sync {
    /// Begins a batch with operations of these partitions, ascending: takes those over that this process does not own yet. Not empty:
    /// forget first. Without other processes there is nothing to do.
    fn begin<'a>(&'a self, partitions: &'a [u16]) -> BoxFuture<'a, Result<Vec<Renewed>>> {
        _ = partitions;
        Box::pin(std::future::ready(Ok(Vec::new())))
    }
    /// Ends a batch that writes nothing.
    fn end(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }
    /// Whether other processes may add to inboxes, since the begin of the batch: then [`LoadKeys::inboxes`] have to be asked in it.
    fn is_shared(&self) -> bool {
        false
    }
    /// How many databases there are.
    fn databases(&self) -> usize {
        1
    }
    /// Which of them has a conversation.
    fn database_of(&self, app: &str, conversation: &str) -> usize {
        _ = (app, conversation);
        0
    }
    /// Whether the databases of these users and conversations are there, as far as is known. The only one there is is asked to find out.
    fn is_within_reach(&self, app: &str, users: &[&str], conversations: &[&str]) -> bool {
        _ = (app, users, conversations);
        true
    }
    /// How each database is; several have names. An answer may take this long.
    fn health(&self, patience: Duration) -> BoxFuture<'_, Vec<(String, Result<()>)>> {
        Box::pin(async move {
            // Any read that goes to the database.
            vec![(String::new(), in_time(patience, self.worker_mark(0)).await)]
        })
    }
    /// The rows behind `keys`; absent ones are left out.
    fn load<'a>(&'a self, keys: &'a LoadKeys) -> BoxFuture<'a, Result<Loaded>>;
    /// Writes a batch, durably, all or nothing.
    fn commit(&self, writes: Writes) -> BoxFuture<'_, Result<()>>;
    /// Keeps what made a handler fail.
    fn quarantine<'a>(&'a self, entry: &'a Quarantined) -> BoxFuture<'a, Result<()>>;
    /// The highest time for which this worker id has made message ids; 0 when none.
    fn worker_mark(&self, worker_id: u16) -> BoxFuture<'_, Result<u64>>;
    /// Whether there is housekeeping to do; cheap, asked after every batch.
    fn is_tending_due(&self) -> bool;
    /// A round of housekeeping, beside the commits that go on.
    fn tend(&self) -> BoxFuture<'_, Result<()>>;

    /// Newest position of each owner's inbox, in the order asked; 0 when empty.
    fn inbox_positions<'a>(&'a self, owners: &'a [(Name, Name)])
    -> BoxFuture<'a, Result<Vec<u64>>>;
    /// Up to `limit` entries after `after`, ascending.
    fn inbox_page<'a>(
        &'a self,
        app: &'a str,
        owner: &'a str,
        after: u64,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<InboxMessage>>>;
    /// A page of a conversation and its newest seq; `None` when there is no such conversation.
    fn history<'a>(
        &'a self,
        app: &'a str,
        conversation: &'a str,
        range: HistoryRange,
    ) -> BoxFuture<'a, Result<Option<HistoryRows>>>;
    /// All watermarks of a conversation.
    fn watermarks<'a>(
        &'a self,
        app: &'a str,
        conversation: &'a str,
    ) -> BoxFuture<'a, Result<Vec<WatermarkRow>>>;

    /// Adds users; existing ones stay as they are. Returns how many were new.
    fn add_users<'a>(
        &'a self,
        app: &'a str,
        users: &'a [Name],
        now_ms: u64,
    ) -> BoxFuture<'a, Result<u64>>;
    /// Adds one user with its password; `Duplicate` when the name is taken.
    fn register<'a>(&'a self, app: &'a str, account: &'a Account) -> BoxFuture<'a, Result<()>>;
    /// One user.
    fn account<'a>(&'a self, app: &'a str, user: &'a str)
    -> BoxFuture<'a, Result<Option<Account>>>;
    /// Changes the profile; `false` when there is no such user.
    fn set_display_name<'a>(
        &'a self,
        app: &'a str,
        user: &'a str,
        display_name: &'a str,
    ) -> BoxFuture<'a, Result<bool>>;

    /// Begins a family with its first token.
    fn open_family<'a>(&'a self, family: &'a RefreshFamily) -> BoxFuture<'a, Result<()>>;
    /// The token of this hash, with its family.
    fn refresh_token(&self, token_hash: [u8; 32]) -> BoxFuture<'_, Result<Option<RefreshToken>>>;
    /// Marks a token used and adds its successor; keeps the first time of use when it was used already.
    fn rotate<'a>(&'a self, rotation: &'a Rotation) -> BoxFuture<'a, Result<()>>;
    /// Revokes a family.
    fn revoke_family(&self, family: [u8; 16], now_ms: u64) -> BoxFuture<'_, Result<()>>;
}

async fn in_time(patience: Duration, read: BoxFuture<'_, Result<u64>>) -> Result<()> {
    match tokio::time::timeout(patience, read).await {
        Ok(done) => done.map(|_| ()),
        Err(_) => Err(StoreError::Unavailable(format!("no answer in {patience:?}"))),
    }
}

/// The store as workers and the HTTP server share it.
pub type SharedStore = Arc<dyn Store>;
