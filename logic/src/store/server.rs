//! The store in a database server: MariaDB or MySQL, or PostgreSQL. A commit is one transaction of multi-row statements.
//!
//! Several logic processes may work on one database. In each, one session, the *writer*, both loads and commits: see `writer.rs`. It
//! owns the partitions of the bus that this process handles, and a worker id: see `ownership.rs`. A pool of other sessions answers
//! reads and accounts; they see what is committed, by whichever process.
//!
//! Sockets belong to a runtime, and callers come from several that start and end at different times. A thread of the store's own
//! therefore drives its sockets and timers; [`Entered`] lets a caller's future use them.
//!
//! Deliberately absent: TLS to the server, a queue of commits, and several databases.

mod accounts;
mod commit;
mod driver;
mod error;
mod load;
mod ownership;
mod read;
mod statement;
mod writer;

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use roost_config::{ConfigError, documented, milliseconds};
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

use super::{Account, HistoryRows, RefreshFamily, RefreshToken, Rotation, Store, StoreError};
use super::{BoxFuture, HistoryRange, InboxMessage, LoadKeys, Loaded, Name, Quarantined, Result};
use super::{Renewed, WatermarkRow, Writes};
use driver::{Pool, Row, Statement, Target};
use error::Place;
use writer::Writer;

documented! {
    /// The database. Empty url: SQLite in data_dir, for one host.
    pub struct StoreConfig {
        /// "mysql://USER@HOST:3306/DATABASE" (MariaDB and MySQL) or "postgres://USER@HOST:5432/DATABASE": an existing empty database of
        /// its own, whose tables USER may create; reached directly, not through a pooler of transactions, and without TLS. All logic
        /// processes of a cluster work on it, with the same bus.
        url ("url"): String = String::new();
        /// Password of that user; better in the environment, as ROOST_LOGIC__STORE__PASSWORD.
        password ("password"): String = String::new();
        /// Connections for reads and accounts; one more writes.
        connections_max ("connections_max"): u32 = 8;
        /// How long a connection may take, in milliseconds.
        #[serde(with = "milliseconds")]
        connect_timeout ("connect_timeout_ms"): Duration = Duration::from_secs(5);
        /// A statement or transaction without an answer for this long is given up and its connection closed, in milliseconds.
        #[serde(with = "milliseconds")]
        call_timeout ("call_timeout_ms"): Duration = Duration::from_secs(10);
    }
}

impl StoreConfig {
    /// Says of the first value that cannot be used what to write instead.
    ///
    /// # Errors
    /// When a value cannot be used.
    pub fn check(&self) -> std::result::Result<(), ConfigError> {
        let wrong = |key, problem: &str| Err(ConfigError { key, problem: problem.to_owned() });
        const FORM: &str = "expected \"mysql://USER@HOST:3306/DATABASE\" or \"postgres://USER@HOST:5432/DATABASE\"";
        if self.connections_max == 0 {
            return wrong("store.connections_max", "at least 1");
        }
        if self.connect_timeout.is_zero() || self.call_timeout.is_zero() {
            return wrong("store", "connect_timeout_ms and call_timeout_ms are at least 1");
        }
        if self.url.is_empty() {
            return Ok(());
        }
        // The text itself may hold a password: it is not repeated.
        match Target::parse(&self.url, &self.password) {
            Ok(target) => match target.describe().1 {
                Some(database) if !database.is_empty() => Ok(()),
                Some(_) | None => wrong("store.url", &format!("names no database; {FORM}")),
            },
            Err(_) => wrong("store.url", FORM),
        }
    }
}

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
    /// Which worker id is tried first.
    worker_id: u16,
    call_timeout: Duration,
    connect_timeout: Duration,
    pool: Pool,
    writer: tokio::sync::Mutex<Writer>,
}

impl ServerStore {
    /// Connects, and brings the schema up to date. `owner` names this process; `worker_id` is leased, or the next one that is free.
    ///
    /// # Errors
    /// When it cannot be used; the error says what to do.
    pub async fn open(config: &StoreConfig, owner: &str, worker_id: u16) -> Result<Self> {
        let refused = |what: String| StoreError::Refused(what);
        config.check().map_err(|error| refused(format!("logic.{error}")))?;
        let target = Target::parse(&config.url, &config.password)
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
            call_timeout: config.call_timeout,
            connect_timeout: config.connect_timeout,
            pool,
            writer: tokio::sync::Mutex::default(),
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

    /// The value under `name` that all processes of the installation share: `ours`, unless another process was earlier.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn agree(&self, name: &str, ours: &[u8]) -> Result<Vec<u8>> {
        self.entered(self.shared.agree(name, ours)).await
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
    fn begin<'a>(&'a self, partitions: &'a [u16]) -> BoxFuture<'a, Result<Option<Renewed>>> {
        self.entered(self.shared.begin(partitions))
    }
    fn end(&self) -> BoxFuture<'_, ()> {
        self.entered(self.shared.end())
    }
    fn is_shared(&self) -> bool {
        true
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

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(url: &str, expected: Option<&str>) {
        let config = StoreConfig { url: url.to_owned(), ..StoreConfig::default() };
        let problem = config.check().err().map(|error| error.to_string());
        match expected {
            None => assert_eq!(problem, None),
            Some(part) => {
                let problem = problem.expect("a mistake");
                assert!(problem.contains(part) && !problem.contains("secret"), "{problem}");
            }
        }
    }

    #[test]
    fn urls_are_judged_without_repeating_them() {
        check("", None);
        check("mysql://roost@db:3306/roost", None);
        check("mariadb://roost:secret@db/roost", None);
        check("postgres://roost:secret@db:5432/roost", None);
        check("mysql://roost:secret@db:3306", Some("names no database"));
        check("oracle://roost:secret@db/roost", Some("expected \"mysql://"));
        check("postgres://roost:secret@db:port/roost", Some("expected \"mysql://"));
    }
}
