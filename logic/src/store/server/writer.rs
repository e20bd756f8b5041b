//! The one session that loads and commits.
//!
//! It holds a lock of the server (MySQL `GET_LOCK`, PostgreSQL advisory lock) that ends with the session. Nobody without it commits, so
//! what this process loaded over the session stays true as long as the session lives. When it is lost, another process may have
//! written before the lock was ours again: the next commit is then refused, which makes the worker forget what it remembers and
//! load again.
//!
//! A server drops the session of a vanished host after [`IDLE_MAX`]; [`Shared::keep_alive`] says more often that this one lives.

use std::time::{Duration, Instant};

use super::driver::{Row, Session, Statement};
use super::{Dialect, Result, Shared, StoreError};

/// How often an idle session speaks.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// After this long without a word the server ends the session and gives the lock back.
pub(super) const IDLE_MAX: Duration = Duration::from_secs(30);
/// How long the lock is waited for: a predecessor that was killed holds it until the server noticed.
const LOCK_WAIT: Duration = Duration::from_secs(3);
/// How often it is asked for.
const LOCK_RETRY: Duration = Duration::from_millis(100);

/// The session, and what the worker does not know about it yet.
#[derive(Debug, Default)]
pub(super) struct Writer {
    session: Option<Session>,
    /// The session was lost, and no commit has said so: what the worker remembers may be old.
    is_untold: bool,
}

impl Shared {
    /// Opens the writer's session for the first time and brings the schema up to date.
    pub(super) async fn start(&self) -> Result<()> {
        let mut writer = self.writer.lock().await;
        let mut session = self.open_session().await?;
        self.pool.migrate().await.map_err(|error| self.place.migration(error))?;
        self.warn_when_not_durable(&mut session).await?;
        writer.session = Some(session);
        Ok(())
    }

    /// A session that holds the lock.
    pub(super) async fn open_session(&self) -> Result<Session> {
        let connecting = tokio::time::timeout(self.connect_timeout, self.target.connect());
        let mut session = match connecting.await {
            Ok(connected) => connected.map_err(|error| self.place.unreachable(error))?,
            Err(_) => return Err(self.place.silent(self.connect_timeout)),
        };
        let end = Instant::now() + LOCK_WAIT;
        while !self.in_time(self.try_lock(&mut session)).await? {
            if Instant::now() >= end {
                session.close().await;
                return Err(self.place.taken(IDLE_MAX));
            }
            tokio::time::sleep(LOCK_RETRY).await;
        }
        Ok(session)
    }

    /// Runs `statements` as one transaction on the writer's session.
    pub(super) async fn write(&self, statements: &[Statement<'_>]) -> Result<()> {
        let mut writer = self.writer.lock().await;
        if std::mem::take(&mut writer.is_untold) {
            let place = &self.place;
            return Err(StoreError::Unavailable(format!(
                "the connection to {place} was lost in between: what was loaded may be old"
            )));
        }
        // Until this call says how it ended: a caller that goes away in the middle leaves it so.
        writer.is_untold = true;
        let session = writer.session.take();
        let (done, session) = self.write_on(session, statements).await;
        *writer = Writer { session, is_untold: false };
        done
    }

    /// Returns the session when it is in order.
    async fn write_on(
        &self,
        session: Option<Session>,
        statements: &[Statement<'_>],
    ) -> (Result<()>, Option<Session>) {
        let opened = match session {
            Some(session) => Ok(session),
            None => self.open_session().await,
        };
        let mut session = match opened {
            Ok(session) => session,
            Err(error) => return (Err(error), None),
        };
        let mut link = session.link();
        let done = self.in_time(async { Ok(link.transact(statements).await) }).await;
        match done {
            Ok((done, is_clean)) => {
                let done = done.map(|_| ()).map_err(|error| self.place.error(error));
                (done, is_clean.then_some(session))
            }
            Err(error) => (Err(error), None),
        }
    }

    /// Fetches on the writer's session: what it returns stays true until the session is lost.
    pub(super) async fn fetch_owned(&self, statements: &[Statement<'_>]) -> Result<Vec<Row>> {
        let mut writer = self.writer.lock().await;
        let mut session = match writer.session.take() {
            Some(session) => session,
            None => self.open_session().await?,
        };
        // Lost unless all went well.
        let was_untold = std::mem::replace(&mut writer.is_untold, true);
        let mut rows = Vec::new();
        for statement in statements {
            rows.extend(self.in_time(session.link().fetch(statement)).await?);
        }
        *writer = Writer { session: Some(session), is_untold: was_untold };
        Ok(rows)
    }

    async fn try_lock(&self, session: &mut Session) -> sqlx::Result<bool> {
        // The name of a lock is known to the whole MySQL server, and has at most 64 characters.
        let (idle, lock) = match self.dialect {
            Dialect::MySql => (
                format!("SET SESSION wait_timeout = {}", IDLE_MAX.as_secs()),
                "SELECT CAST(COALESCE(GET_LOCK(CONCAT('roost:', SHA1(DATABASE())), 0), 0) AS SIGNED)",
            ),
            // 0x726f6f7374 is "roost". Servers before 14 know no limit for idle sessions; keepalives have to do.
            Dialect::Postgres => (
                format!(
                    "SELECT set_config('idle_session_timeout', '{}s', false) \
                     WHERE current_setting('server_version_num')::int >= 140000",
                    IDLE_MAX.as_secs()
                ),
                "SELECT CASE WHEN pg_try_advisory_lock(491495846772) THEN 1::bigint ELSE 0::bigint END",
            ),
        };
        let mut link = session.link();
        link.execute(&Statement::new(&idle, &[])).await?;
        let rows = link.fetch(&Statement::new(lock, &[])).await?;
        Ok(rows.first().map(|row| row.number(0)).transpose()? == Some(1))
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

    /// Runs as long as the store: an idle session keeps its lock.
    pub(super) async fn keep_alive(&self) {
        loop {
            tokio::time::sleep(HEARTBEAT).await;
            let mut writer = self.writer.lock().await;
            // When there is none, the next batch opens it.
            if let Some(session) = &mut writer.session
                && let Err(error) = self.in_time(session.link().ping()).await
            {
                tracing::warn!(%error, "the session that writes was lost");
                *writer = Writer { session: None, is_untold: true };
            }
        }
    }

    pub(super) async fn end_writer(&self) {
        if let Some(session) = self.writer.lock().await.session.take() {
            session.close().await;
        }
    }
}
