//! The store in a database server: MariaDB or MySQL, or PostgreSQL. A commit is one transaction of multi-row statements.
//!
//! Several logic processes may work on one database. In each, one session, the *writer*, both loads and commits: see `writer.rs`. It
//! owns the partitions of the bus that this process handles, and a worker id: see `ownership.rs`. A pool of other sessions answers
//! reads and accounts; they see what is committed, by whichever process.
//!
//! Sockets belong to a runtime, and callers come from several that start and end at different times. A thread of the store's own
//! therefore drives its sockets and timers; [`Entered`] lets a caller's future use them.
//!
//! One of several databases commits messages and inbox entries apart: see `member.rs`, and `../databases.rs` for the order.
//!
//! Deliberately absent: TLS to the server, and a queue of commits.

mod accounts;
mod commit;
mod config;
mod driver;
mod error;
mod load;
mod member;
mod ownership;
mod read;
mod statement;
mod writer;

use std::ops::RangeInclusive;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

use super::{Account, HistoryRows, RefreshFamily, RefreshToken, Rotation, Store, StoreError};
use super::{BoxFuture, HistoryRange, InboxMessage, LoadKeys, Loaded, Name, Quarantined, Result};
use super::{Renewed, WatermarkRow, Writes};
use crate::ids::WORKER_ID_MAX;
pub use config::StoreConfig;
use driver::schema::Schema;
use driver::{Pool, Row, Statement, Target};
use error::Place;
pub(super) use member::{Entry, Pending};
use writer::Writer;

/// How often a transaction of the pool is tried that meets deadlocks.
const ATTEMPTS_MAX: u32 = 5;

/// What a server speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dialect {
    MySql,
    Postgres,
}

impl Dialect {
    fn of_scheme(scheme: &str) -> Option<Self> {
        match scheme {
            "mysql" | "mariadb" => Some(Self::MySql),
            "postgres" | "postgresql" => Some(Self::Postgres),
            _ => None,
        }
    }
}

/// The adapter of both dialects.
#[derive(Debug)]
pub struct ServerStore {
    shared: Arc<Shared>,
    runtime: Handle,
    /// Dropping it ends the thread.
    _stop: oneshot::Sender<()>,
}

#[derive(Debug)]
struct Shared {
    dialect: Dialect,
    target: Target,
    place: Place,
    /// The process, for whoever looks at the tables.
    owner: String,
    /// Which worker id is tried first, and which there are.
    worker_id: u16,
    worker_ids: RangeInclusive<u16>,
    call_timeout: Duration,
    connect_timeout: Duration,
    pool: Pool,
    writer: tokio::sync::Mutex<Writer>,
    /// The session that adds to inboxes, of one of several databases.
    inboxes: tokio::sync::Mutex<Writer>,
    /// Nobody answers; found out when a session is opened, or falls silent.
    is_away: AtomicBool,
    schema: OnceLock<Schema>,
    /// How many the bus has.
    partitions: OnceLock<u16>,
    /// The writer owned all of them when the batch under way began.
    is_alone: AtomicBool,
}

impl ServerStore {
    /// Connects, and brings the schema up to date. `owner` names this process; `worker_id` is leased, or the next one that is free.
    ///
    /// # Errors
    /// When it cannot be used; the error says what to do.
    pub async fn open(config: &StoreConfig, owner: &str, worker_id: u16) -> Result<Self> {
        config.check().map_err(|error| StoreError::Refused(format!("logic.{error}")))?;
        let url = config.list().next().unwrap_or_default();
        Self::open_one(config, url, owner, (worker_id, 0..=WORKER_ID_MAX)).await
    }

    /// One of the databases of a configuration that was checked. `worker_ids`: which one is tried first, and which there are.
    pub(super) async fn open_one(
        config: &StoreConfig,
        url: &str,
        owner: &str,
        (worker_id, worker_ids): (u16, RangeInclusive<u16>),
    ) -> Result<Self> {
        let refused = |what: String| StoreError::Refused(what);
        for file in tls_files(url) {
            // The drivers would only say that there is no such file.
            std::fs::File::open(&file).map_err(|e| {
                refused(format!("cannot read {file} of logic.store.url or urls: {e}"))
            })?;
        }
        let target = Target::parse(url, &config.password)
            .map_err(|_| refused("logic.store.url cannot be read".to_owned()))?;
        let (stop, stopped) = oneshot::channel();
        let (send, mut started) = oneshot::channel();
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|e| refused(format!("cannot start a runtime: {e}")))?;
        let handle = runtime.handle().clone();
        // A pool starts a task of its own when it is made.
        let pool = {
            let _entered = handle.enter();
            target.pool(config.connections_max, config.connect_timeout)
        };
        let shared = Arc::new(Shared {
            dialect: target.dialect(),
            place: Place::of(&target),
            target,
            owner: owner.to_owned(),
            worker_id,
            worker_ids,
            call_timeout: config.call_timeout,
            connect_timeout: config.connect_timeout,
            pool,
            writer: tokio::sync::Mutex::default(),
            inboxes: tokio::sync::Mutex::default(),
            is_away: AtomicBool::new(false),
            schema: OnceLock::new(),
            partitions: OnceLock::new(),
            is_alone: AtomicBool::new(false),
        });
        let kept = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("roost-store".to_owned())
            .spawn(move || {
                runtime.block_on(async move {
                    _ = send.send(());
                    tokio::select! {
                        _ = stopped => {}
                        () = kept.keep_alive() => {}
                    }
                });
            })
            .map_err(|e| refused(format!("cannot start a thread: {e}")))?;
        _ = (&mut started).await;
        let store = Self { shared, runtime: handle, _stop: stop };
        store.entered(store.shared.start()).await?;
        Ok(store)
    }

    /// The bus has so many partitions: who owns all of them is the only one that adds to inboxes.
    #[must_use]
    pub fn with_partitions(self, partitions: u16) -> Self {
        _ = self.shared.partitions.set(partitions);
        self
    }

    /// The value under `name` that all processes of the installation share: `ours`, unless another process was earlier.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn agree(&self, name: &str, ours: &[u8]) -> Result<Vec<u8>> {
        self.entered(self.shared.agree(name, ours)).await
    }

    /// What is stored under `name`, if anything.
    pub(super) async fn agreed(&self, name: &str) -> Result<Option<Vec<u8>>> {
        self.entered(self.shared.agreed(name)).await
    }

    /// Kind, name and address of the database.
    pub(super) fn place(&self) -> String {
        self.shared.place.to_string()
    }

    /// What the start did to the schema.
    pub(super) fn migrated(&self) -> String {
        let place = &self.shared.place;
        match self.shared.schema.get() {
            Some(Schema { before: 0, now }) => format!("{place}: made, schema {now}"),
            Some(Schema { before, now }) if before < now => {
                format!("{place}: changed from schema {before} to {now}")
            }
            Some(Schema { now, .. }) => format!("{place}: is up to date, schema {now}"),
            None => format!("{place}: untouched"),
        }
    }

    /// Whether nobody answers there, as far as is known; it is tried until somebody does.
    pub(super) fn is_away(&self) -> bool {
        self.shared.is_away.load(Ordering::Relaxed)
    }

    /// Ends all sessions.
    pub async fn close(&self) {
        self.entered(async {
            self.shared.end_writer().await;
            self.shared.pool.close().await;
        })
        .await;
    }

    fn entered<'a, T: 'a>(
        &'a self,
        future: impl Future<Output = T> + Send + 'a,
    ) -> BoxFuture<'a, T> {
        let future = Some(Box::pin(future) as BoxFuture<'a, T>);
        Box::pin(Entered { runtime: self.runtime.clone(), future })
    }
}

/// A future that finds the store's runtime wherever it is polled or dropped.
struct Entered<'a, T> {
    runtime: Handle,
    future: Option<BoxFuture<'a, T>>,
}

impl<T> Future for Entered<'_, T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        let this = &mut *self;
        let _entered = this.runtime.enter();
        match &mut this.future {
            Some(future) => future.as_mut().poll(context),
            None => Poll::Pending,
        }
    }
}

impl<T> Drop for Entered<'_, T> {
    fn drop(&mut self) {
        let _entered = self.runtime.enter();
        self.future = None;
    }
}

/// Certificates and keys that a URL names.
fn tls_files(url: &str) -> Vec<String> {
    let Ok(url) = url::Url::parse(url) else { return Vec::new() };
    let is_file = |name: &str| {
        let what = name.strip_prefix("ssl").map(|name| name.trim_start_matches('-'));
        what.is_some_and(|what| ["ca", "rootcert", "root-cert", "cert", "key"].contains(&what))
    };
    let named = url.query_pairs().filter(|(name, _)| is_file(name));
    named.map(|(_, file)| file.into_owned()).collect()
}

impl Shared {
    /// Rows, from the pool.
    async fn fetch(&self, statement: Statement<'_>) -> Result<Vec<Row>> {
        let work = async {
            let mut lent = self.pool.lend().await?;
            lent.fetch(&statement).await
        };
        self.in_time(work).await
    }

    /// Rows changed by all statements or none, from the pool. A deadlock is tried again.
    async fn transact(&self, statements: &[Statement<'_>]) -> Result<u64> {
        let mut attempts = 1;
        loop {
            let work = async { self.pool.lend().await?.transact(statements).await };
            match self.in_time(work).await {
                Err(StoreError::Again(_)) if attempts < ATTEMPTS_MAX => attempts += 1,
                done => return done,
            }
        }
    }

    async fn in_time<T>(&self, work: impl Future<Output = sqlx::Result<T>>) -> Result<T> {
        match tokio::time::timeout(self.call_timeout, work).await {
            Ok(done) => done.map_err(|error| self.place.error(error)),
            Err(_) => Err(self.place.silent(self.call_timeout)),
        }
    }

    /// What was read from rows.
    fn read<T>(&self, rows: &[Row], read: impl Fn(&Row) -> sqlx::Result<T>) -> Result<Vec<T>> {
        let read: sqlx::Result<Vec<T>> = rows.iter().map(read).collect();
        read.map_err(|error| self.place.error(error))
    }
}

impl Store for ServerStore {
    fn begin<'a>(&'a self, partitions: &'a [u16]) -> BoxFuture<'a, Result<Vec<Renewed>>> {
        self.entered(self.shared.begin(partitions))
    }
    fn end(&self) -> BoxFuture<'_, ()> {
        self.entered(self.shared.end())
    }
    fn is_shared(&self) -> bool {
        !self.shared.is_alone.load(Ordering::Relaxed)
    }
    fn load<'a>(&'a self, keys: &'a LoadKeys) -> BoxFuture<'a, Result<Loaded>> {
        self.entered(self.shared.load(keys))
    }
    fn commit(&self, writes: Writes) -> BoxFuture<'_, Result<()>> {
        self.entered(self.shared.commit(writes))
    }
    fn quarantine<'a>(&'a self, entry: &'a Quarantined) -> BoxFuture<'a, Result<()>> {
        self.entered(self.shared.quarantine(entry))
    }
    fn worker_mark(&self, worker_id: u16) -> BoxFuture<'_, Result<u64>> {
        self.entered(self.shared.worker_mark(worker_id))
    }
    fn is_tending_due(&self) -> bool {
        // The server tends itself.
        false
    }
    fn tend(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(std::future::ready(Ok(())))
    }
    fn inbox_positions<'a>(
        &'a self,
        owners: &'a [(Name, Name)],
    ) -> BoxFuture<'a, Result<Vec<u64>>> {
        self.entered(self.shared.inbox_positions(owners))
    }
    fn inbox_page<'a>(
        &'a self,
        app: &'a str,
        owner: &'a str,
        after: u64,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<InboxMessage>>> {
        self.entered(self.shared.inbox_page(app, owner, after, limit))
    }
    fn history<'a>(
        &'a self,
        app: &'a str,
        conversation: &'a str,
        range: HistoryRange,
    ) -> BoxFuture<'a, Result<Option<HistoryRows>>> {
        self.entered(self.shared.history(app, conversation, range))
    }
    fn watermarks<'a>(
        &'a self,
        app: &'a str,
        conversation: &'a str,
    ) -> BoxFuture<'a, Result<Vec<WatermarkRow>>> {
        self.entered(self.shared.watermarks(app, conversation))
    }
    fn add_users<'a>(
        &'a self,
        app: &'a str,
        users: &'a [Name],
        now_ms: u64,
    ) -> BoxFuture<'a, Result<u64>> {
        self.entered(self.shared.add_users(app, users, now_ms))
    }
    fn register<'a>(&'a self, app: &'a str, account: &'a Account) -> BoxFuture<'a, Result<()>> {
        self.entered(self.shared.register(app, account))
    }
    fn account<'a>(
        &'a self,
        app: &'a str,
        user: &'a str,
    ) -> BoxFuture<'a, Result<Option<Account>>> {
        self.entered(self.shared.account(app, user))
    }
    fn set_display_name<'a>(
        &'a self,
        app: &'a str,
        user: &'a str,
        display_name: &'a str,
    ) -> BoxFuture<'a, Result<bool>> {
        self.entered(self.shared.set_display_name(app, user, display_name))
    }
    fn open_family<'a>(&'a self, family: &'a RefreshFamily) -> BoxFuture<'a, Result<()>> {
        self.entered(self.shared.open_family(family))
    }
    fn refresh_token(&self, token_hash: [u8; 32]) -> BoxFuture<'_, Result<Option<RefreshToken>>> {
        self.entered(self.shared.refresh_token(token_hash))
    }
    fn rotate<'a>(&'a self, rotation: &'a Rotation) -> BoxFuture<'a, Result<()>> {
        self.entered(self.shared.rotate(rotation))
    }
    fn revoke_family(&self, family: [u8; 16], now_ms: u64) -> BoxFuture<'_, Result<()>> {
        self.entered(self.shared.revoke_family(family, now_ms))
    }
}
