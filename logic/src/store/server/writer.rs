//! The one session of this process that loads and commits, batch by batch.
//!
//! ```text
//! begin   partitions that this session does not own are taken over: see `ownership.rs`
//! load    rows; with inboxes a transaction begins, which locks their counters
//! commit  in that transaction, or one of its own: nothing is written unless all partitions of the batch are still owned
//! ```
//! Whoever owns all partitions of the bus is the only one that adds to inboxes: it remembers their counters and locks none, and its
//! transactions are under the fence of all partitions instead.
//!
//! A transaction first reads the owners of its partitions under a shared lock, then locks counters of inboxes in key order, then writes
//! table by table in key order: processes wait for each other, not in circles. A counter of a conversation is written by the owner of
//! its partition alone and needs no lock. Whoever stops in the middle of a transaction holds the others up until the server ends its
//! session after [`driver::TRANSACTION_IDLE_MAX`].
//!
//! What was taken over belongs to the session. When it is lost, partitions are taken over anew, which waits for what the lost session
//! left, and finds out whether somebody else had them in between.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::driver::{self, IDLE_MAX, Row, Session, Statement};
use super::ownership::moved;
use super::statement::{answered_once, scripts};
use super::{Dialect, LoadKeys, Loaded, Renewed, Result, Shared, StoreError};

/// How often an idle session speaks, and a database that is away is tried.
const HEARTBEAT: Duration = Duration::from_secs(2);

/// The session, and what it has.
#[derive(Debug, Default)]
pub(super) struct Writer {
    session: Option<Session>,
    /// The id for message ids that it leased.
    pub(super) worker_id: u16,
    /// Epochs of the partitions that it took over.
    pub(super) owned: BTreeMap<u16, u64>,
    /// The same of sessions that were lost.
    pub(super) former: BTreeMap<u16, u64>,
    /// Partitions of the batch under way.
    batch: Vec<u16>,
    /// Whether its transaction has begun.
    pub(super) is_open: bool,
}

/// Why a step on the session failed.
#[derive(Debug)]
pub(super) enum Failed {
    /// No answer in time: the session is in the middle of something.
    Silent,
    Sql(sqlx::Error),
    Fenced(Vec<u16>),
}

impl From<sqlx::Error> for Failed {
    fn from(error: sqlx::Error) -> Self {
        Self::Sql(error)
    }
}

impl Writer {
    /// Takes the session out: it is lost unless it is put back.
    pub(super) fn take(&mut self) -> Option<Session> {
        let session = self.session.take();
        if session.is_none() {
            self.former.append(&mut self.owned);
            self.is_open = false;
        }
        session
    }

    /// Whether commits are under the fence of its partitions.
    pub(super) fn has_batch(&self) -> bool {
        !self.batch.is_empty()
    }

    pub(super) fn keep(&mut self, session: Option<Session>) {
        self.session = session;
    }
}

/// What an error means when the session was lost with it: on another one it may work at once.
fn again(error: StoreError) -> StoreError {
    if let StoreError::Unavailable(text) = error { StoreError::Again(text) } else { error }
}

impl Shared {
    /// Brings the schema up to date and opens the session for the first time.
    pub(super) async fn start(&self) -> Result<()> {
        // Says what is wrong with the server, and has ended when the schema is changed: that may take longer than a session may idle.
        let mut session = self.connect().await?;
        self.warn_when_not_durable(&mut session).await?;
        session.close().await;
        let schema = self.pool.migrate().await.map_err(|error| self.place.migration(error))?;
        _ = self.schema.set(schema);
        let mut writer = self.writer.lock().await;
        let (session, worker_id) = self.open_session().await?;
        writer.session = Some(session);
        writer.worker_id = worker_id;
        Ok(())
    }

    pub(super) async fn begin(&self, partitions: &[u16]) -> Result<Vec<Renewed>> {
        let mut writer = self.writer.lock().await;
        let (mut session, is_new) = match writer.take() {
            Some(session) => (session, false),
            None => {
                let (session, worker_id) = self.open_session().await?;
                writer.worker_id = worker_id;
                (session, true)
            }
        };
        writer.batch = partitions.to_vec();
        let done = self.begin_on(&mut session, &mut writer, is_new).await;
        self.conclude(&mut writer, session, done).await
    }

    async fn begin_on(
        &self,
        session: &mut Session,
        writer: &mut Writer,
        is_new: bool,
    ) -> std::result::Result<Vec<Renewed>, Failed> {
        if std::mem::take(&mut writer.is_open) {
            // Of a batch that was given up.
            self.timed(session.link().plain("ROLLBACK")).await?;
        }
        let missing = writer.batch.iter().copied().filter(|p| !writer.owned.contains_key(p));
        let missing: Vec<u16> = missing.collect();
        if !missing.is_empty() {
            self.take_over(session, writer, &missing).await?;
        }
        let owned = u16::try_from(writer.owned.len()).ok();
        self.is_alone.store(owned == self.partitions.get().copied(), Ordering::Relaxed);
        if missing.is_empty() && !is_new {
            return Ok(Vec::new());
        }
        let mark_ms = self.mark(session, writer.worker_id).await?;
        Ok(vec![Renewed { database: 0, worker_id: writer.worker_id, mark_ms }])
    }

    pub(super) async fn load(&self, keys: &LoadKeys) -> Result<Loaded> {
        let mut writer = self.writer.lock().await;
        let mut session = self.resume(&mut writer).await?;
        let done = self.load_on(&mut session, &mut writer, keys).await;
        self.conclude(&mut writer, session, done).await
    }

    /// Runs `statements` as one transaction, and ends the batch.
    pub(super) async fn write(&self, statements: &[Statement<'_>]) -> Result<()> {
        let mut writer = self.writer.lock().await;
        let mut session = self.resume(&mut writer).await?;
        let work = async {
            self.open(&mut session, &mut writer, &[]).await?;
            self.write_all(&mut session, statements).await
        };
        let done = work.await;
        if done.is_ok() {
            writer.is_open = false;
            writer.batch.clear();
        }
        self.conclude(&mut writer, session, done).await
    }

    /// And commits. Messages go first, always: no two processes wait for each other.
    pub(super) async fn write_all(
        &self,
        session: &mut Session,
        statements: &[Statement<'_>],
    ) -> std::result::Result<(), Failed> {
        let (apart, together): (Vec<&Statement<'_>>, Vec<_>) =
            statements.iter().partition(|statement| statement.is_confidential);
        for statement in apart {
            self.timed(session.link().execute(statement)).await?;
        }
        let commit = Statement::new("COMMIT", &[]);
        for script in scripts(self.dialect, together.into_iter().chain([&commit])) {
            let script = answered_once(self.dialect, &script);
            self.timed(session.link().script(script)).await?;
        }
        Ok(())
    }

    /// Ends a batch that writes nothing.
    pub(super) async fn end(&self) {
        let mut writer = self.writer.lock().await;
        writer.batch.clear();
        if writer.is_open
            && let Some(mut session) = writer.take()
        {
            writer.is_open = false;
            let done = self.timed(session.link().plain("ROLLBACK")).await;
            // A session that is lost now is noticed by the next batch.
            _ = self.conclude(&mut writer, session, done).await;
        }
    }

    /// The session of the batch under way.
    async fn resume(&self, writer: &mut Writer) -> Result<Session> {
        match writer.take() {
            Some(session) => Ok(session),
            None if writer.batch.is_empty() => {
                let (session, worker_id) = self.open_session().await?;
                writer.worker_id = worker_id;
                Ok(session)
            }
            None => Err(StoreError::Again(format!("the connection to {} was lost", self.place))),
        }
    }

    /// Begins the transaction of the batch, unless it has begun, and makes sure that all its partitions are owned until its end. Returns
    /// what `first` finds, in the same round trip.
    pub(super) async fn open(
        &self,
        session: &mut Session,
        writer: &mut Writer,
        first: &[Statement<'_>],
    ) -> std::result::Result<Vec<Row>, Failed> {
        if writer.is_open {
            return Ok(self.results(session, first).await?.into_iter().flatten().collect());
        }
        // What is remembered of inboxes holds as long as no partition has moved.
        let is_alone = self.is_alone.load(Ordering::Relaxed);
        let fenced: Vec<u16> = match writer.batch.is_empty() {
            false if is_alone => writer.owned.keys().copied().collect(),
            _ => writer.batch.clone(),
        };
        let fence = (!fenced.is_empty()).then(|| self.fence(&fenced));
        let begin = Statement::new("BEGIN", &[]);
        let statements = [&begin].into_iter().chain(&fence).chain(first);
        let mut found = self.results(session, statements).await?.into_iter().skip(1);
        writer.is_open = true;
        if fence.is_some() {
            let moved = moved(&found.next().unwrap_or_default(), &writer.owned, &fenced)?;
            if !moved.is_empty() {
                return Err(Failed::Fenced(moved));
            }
        }
        Ok(found.flatten().collect())
    }

    /// Puts the session back when it is in order, after what failed was rolled back.
    pub(super) async fn conclude<T>(
        &self,
        writer: &mut Writer,
        mut session: Session,
        done: std::result::Result<T, Failed>,
    ) -> Result<T> {
        let failed = match done {
            Ok(value) => {
                writer.session = Some(session);
                return Ok(value);
            }
            Err(failed) => failed,
        };
        writer.is_open = false;
        let error = match failed {
            Failed::Silent => {
                self.is_away.store(true, Ordering::Relaxed);
                return Err(self.place.silent(self.call_timeout));
            }
            Failed::Fenced(partitions) => {
                for partition in &partitions {
                    writer.owned.remove(partition);
                    writer.former.remove(partition);
                }
                if partitions.iter().any(|partition| writer.batch.contains(partition)) {
                    StoreError::Fenced(partitions)
                } else {
                    StoreError::Again("other processes add to inboxes now".to_owned())
                }
            }
            Failed::Sql(error) if driver::is_answer(&error) => self.place.error(error),
            Failed::Sql(error) => return Err(again(self.place.error(error))),
        };
        match self.timed(session.link().plain("ROLLBACK")).await {
            Ok(()) => {
                writer.session = Some(session);
                Err(error)
            }
            Err(_) => Err(again(error)),
        }
    }

    pub(super) async fn timed<T>(
        &self,
        work: impl Future<Output = sqlx::Result<T>>,
    ) -> std::result::Result<T, Failed> {
        match tokio::time::timeout(self.call_timeout, work).await {
            Ok(done) => Ok(done?),
            Err(_) => Err(Failed::Silent),
        }
    }

    /// What each of `statements` finds, mostly in one round trip. None of them is confidential.
    pub(super) async fn results<'a, 'b: 'a>(
        &self,
        session: &mut Session,
        statements: impl IntoIterator<Item = &'a Statement<'b>>,
    ) -> std::result::Result<Vec<Vec<Row>>, Failed> {
        let mut found = Vec::new();
        for script in scripts(self.dialect, statements) {
            found.extend(self.timed(session.link().script(script)).await?);
        }
        Ok(found)
    }

    /// What `statements` find, read row by row.
    pub(super) async fn rows<T>(
        &self,
        session: &mut Session,
        statements: &[Statement<'_>],
        read: fn(&Row) -> sqlx::Result<T>,
    ) -> std::result::Result<Vec<T>, Failed> {
        let mut found = Vec::new();
        for statement in statements {
            for row in self.timed(session.link().fetch(statement)).await? {
                found.push(read(&row)?);
            }
        }
        Ok(found)
    }

    /// A session of its own, set up.
    pub(super) async fn connect(&self) -> Result<Session> {
        let connecting = tokio::time::timeout(self.connect_timeout, self.target.connect());
        let connected = match connecting.await {
            Ok(connected) => connected.map_err(|error| self.place.unreachable(error)),
            Err(_) => Err(self.place.silent(self.connect_timeout)),
        };
        self.is_away.store(connected.is_err(), Ordering::Relaxed);
        let mut session = connected?;
        self.in_time(self.limit_idleness(&mut session)).await?;
        Ok(session)
    }

    /// A session that has a worker id.
    async fn open_session(&self) -> Result<(Session, u16)> {
        let mut session = self.connect().await?;
        let worker_id = self.in_time(self.lease_worker_id(&mut session)).await?;
        match worker_id {
            Some(worker_id) => Ok((session, worker_id)),
            None => Err(self.place.no_worker_id()),
        }
    }

    async fn limit_idleness(&self, session: &mut Session) -> sqlx::Result<()> {
        let text = match self.dialect {
            Dialect::MySql => format!("SET SESSION wait_timeout = {}", IDLE_MAX.as_secs()),
            // Servers before 14 know no limit for idle sessions; keepalives have to do.
            Dialect::Postgres => format!(
                "SELECT set_config('idle_session_timeout', '{}s', false) \
                 WHERE current_setting('server_version_num')::int >= 140000",
                IDLE_MAX.as_secs()
            ),
        };
        session.link().execute(&Statement::new(&text, &[])).await.map(|_| ())
    }

    /// An acknowledged message survives a crash of the server's host only with these settings.
    async fn warn_when_not_durable(&self, session: &mut Session) -> Result<()> {
        let (ask, advice) = match self.dialect {
            Dialect::MySql => (
                "SELECT CAST(@@innodb_flush_log_at_trx_commit = 1 AND (@@log_bin = 0 OR @@sync_binlog = 1) AS SIGNED)",
                "set innodb_flush_log_at_trx_commit = 1 and sync_binlog = 1",
            ),
            Dialect::Postgres => (
                "SELECT CASE WHEN current_setting('fsync') = 'on' AND current_setting('full_page_writes') = 'on' \
                 THEN 1::bigint ELSE 0::bigint END",
                "set fsync = on and full_page_writes = on",
            ),
        };
        let rows = self.in_time(session.link().fetch(&Statement::new(ask, &[]))).await?;
        let is_durable = self.read(&rows, |row| row.number(0))? == [1];
        if !is_durable {
            tracing::warn!(
                "{} may lose acknowledged messages when its host crashes: {advice}",
                self.place
            );
        }
        Ok(())
    }

    /// Runs as long as the store: an idle session stays.
    pub(super) async fn keep_alive(&self) {
        loop {
            tokio::time::sleep(HEARTBEAT).await;
            if self.is_away.load(Ordering::Relaxed) {
                self.come_back().await;
            }
            for writer in [&self.writer, &self.inboxes] {
                let mut writer = writer.lock().await;
                if writer.is_open {
                    continue;
                }
                // When there is none, the next batch opens it.
                let Some(mut session) = writer.take() else { continue };
                match self.timed(session.link().ping()).await {
                    Ok(()) => writer.session = Some(session),
                    Err(error) => tracing::warn!(?error, "a session that writes was lost"),
                }
            }
        }
    }

    /// One of several databases is left alone while it is away: somebody has to find out when it is back.
    async fn come_back(&self) {
        // The next batch opens its own.
        if let Ok(session) = self.connect().await {
            tracing::info!("{} is back", self.place);
            session.close().await;
        }
    }

    pub(super) async fn end_writer(&self) {
        for writer in [&self.writer, &self.inboxes] {
            if let Some(session) = writer.lock().await.take() {
                session.close().await;
            }
        }
    }
}
