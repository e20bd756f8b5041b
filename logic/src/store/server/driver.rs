//! The two drivers behind one face: a statement is a text with `?` and its values, a connection runs statements.
//!
//! Everything the dialects share is written once above this file; here is what a driver's types make different.

mod row;
pub(super) mod schema;

use std::time::Duration;

use futures_util::TryStreamExt as _;
use sqlx::mysql::{MySqlConnectOptions, MySqlConnection, MySqlPool, MySqlPoolOptions};
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions};
use sqlx::{
    AssertSqlSafe, ConnectOptions, Connection as _, Either, Executor as _, MySql, Postgres,
};

use super::{Dialect, statement};
pub(super) use row::Row;

/// Different statements of one connection that stay prepared: every text and size there is.
const STATEMENTS_KEPT: usize = 256;
/// A transaction that waits longer for another's lock gives up.
const LOCK_SECONDS: u32 = 5;
/// A session that stops in the middle of a transaction is ended by the server, before those who wait for its locks give up.
pub(super) const TRANSACTION_IDLE_MAX: Duration = Duration::from_secs(3);
/// After this long without a word the server ends a session.
pub(super) const IDLE_MAX: Duration = Duration::from_secs(8);
/// MySQL has no limit of its own for transactions, so those who wait for locks have more patience.
const MYSQL_LOCK_SECONDS: u64 = IDLE_MAX.as_secs() + 1;

/// A value for a `?`.
#[derive(Debug, Clone, Copy)]
pub(super) enum Value<'a> {
    Text(&'a str),
    OptionalText(Option<&'a str>),
    Bytes(&'a [u8]),
    Number(i64),
    Small(i16),
}

/// A statement with its values.
#[derive(Debug)]
pub(super) struct Statement<'a> {
    pub(super) text: String,
    pub(super) values: Vec<Value<'a>>,
    /// Never as a script.
    pub(super) is_confidential: bool,
}

impl<'a> Statement<'a> {
    pub(super) fn new(text: &str, values: &[Value<'a>]) -> Self {
        Self { text: text.to_owned(), values: values.to_vec(), is_confidential: false }
    }
}

/// Where to connect and how each session is set up.
#[derive(Debug, Clone)]
pub(super) enum Target {
    MySql(MySqlConnectOptions),
    Postgres(PgConnectOptions),
}

impl Target {
    /// Reads a URL whose scheme says the dialect.
    pub(super) fn parse(url: &str, password: &str) -> sqlx::Result<Self> {
        let scheme = url.split_once(':').map_or("", |(scheme, _)| scheme);
        match Dialect::of_scheme(scheme) {
            Some(Dialect::MySql) => {
                let url = url.replacen("mariadb:", "mysql:", 1);
                let mut options: MySqlConnectOptions = url.parse()?;
                if !password.is_empty() {
                    options = options.password(password);
                }
                Ok(Self::MySql(
                    options.statement_cache_capacity(STATEMENTS_KEPT).disable_statement_logging(),
                ))
            }
            Some(Dialect::Postgres) => {
                let mut options: PgConnectOptions = url.parse()?;
                if !password.is_empty() {
                    options = options.password(password);
                }
                let options = options
                    .application_name("roost logic")
                    .statement_cache_capacity(STATEMENTS_KEPT)
                    .options([
                        ("synchronous_commit", "on".to_owned()),
                        // A backslash in a literal is one.
                        ("standard_conforming_strings", "on".to_owned()),
                        // All look-ups are by key. Plans made while tables were small, or before their first ANALYZE, would read all of
                        // them, and prepared statements keep such a plan.
                        ("enable_seqscan", "off".to_owned()),
                        ("enable_hashjoin", "off".to_owned()),
                        ("enable_mergejoin", "off".to_owned()),
                        ("lock_timeout", format!("{LOCK_SECONDS}s")),
                        (
                            "idle_in_transaction_session_timeout",
                            format!("{}s", TRANSACTION_IDLE_MAX.as_secs()),
                        ),
                        // The server notices a host that vanished.
                        ("tcp_keepalives_idle", "10".to_owned()),
                        ("tcp_keepalives_interval", "5".to_owned()),
                        ("tcp_keepalives_count", "3".to_owned()),
                    ])
                    .disable_statement_logging();
                Ok(Self::Postgres(options))
            }
            None => Err(sqlx::Error::Configuration("of no known dialect".into())),
        }
    }

    pub(super) fn dialect(&self) -> Dialect {
        match self {
            Self::MySql(_) => Dialect::MySql,
            Self::Postgres(_) => Dialect::Postgres,
        }
    }

    /// User, database and address, without the password.
    pub(super) fn describe(&self) -> (String, Option<String>, String) {
        let (user, database, host, port) = match self {
            Self::MySql(o) => (o.get_username(), o.get_database(), o.get_host(), o.get_port()),
            Self::Postgres(o) => (o.get_username(), o.get_database(), o.get_host(), o.get_port()),
        };
        (user.to_owned(), database.map(str::to_owned), format!("{host}:{port}"))
    }

    /// A session of its own.
    pub(super) async fn connect(&self) -> sqlx::Result<Session> {
        let mut session = match self {
            Self::MySql(options) => Session::MySql(options.connect().await?),
            Self::Postgres(options) => Session::Postgres(options.connect().await?),
        };
        if let Session::MySql(connection) = &mut session {
            prepare(connection).await?;
        }
        Ok(session)
    }

    /// Sessions to borrow.
    pub(super) fn pool(&self, connections_max: u32, acquire_timeout: Duration) -> Pool {
        match self {
            Self::MySql(options) => Pool::MySql(
                MySqlPoolOptions::new()
                    .max_connections(connections_max)
                    .acquire_timeout(acquire_timeout)
                    .after_connect(|connection, _| Box::pin(prepare(connection)))
                    .connect_lazy_with(options.clone()),
            ),
            Self::Postgres(options) => Pool::Postgres(
                PgPoolOptions::new()
                    .max_connections(connections_max)
                    .acquire_timeout(acquire_timeout)
                    .connect_lazy_with(options.clone()),
            ),
        }
    }
}

/// Without gap locks, and strict: a value that no column takes is an error, never cut.
async fn prepare(connection: &mut MySqlConnection) -> sqlx::Result<()> {
    for text in [
        "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED".to_owned(),
        "SET SESSION sql_mode = CONCAT(@@sql_mode, ',STRICT_ALL_TABLES')".to_owned(),
        format!(
            "SET SESSION innodb_lock_wait_timeout = {MYSQL_LOCK_SECONDS} \
             /*M! , innodb_lock_wait_timeout = {LOCK_SECONDS}, idle_transaction_timeout = {} */",
            TRANSACTION_IDLE_MAX.as_secs()
        ),
    ] {
        connection.execute(AssertSqlSafe(text)).await?;
    }
    Ok(())
}

/// A connection of its own; dropping it ends the session.
#[derive(Debug)]
pub(super) enum Session {
    MySql(MySqlConnection),
    Postgres(PgConnection),
}

impl Session {
    pub(super) fn link(&mut self) -> Link<'_> {
        match self {
            Self::MySql(connection) => Link::MySql(connection),
            Self::Postgres(connection) => Link::Postgres(connection),
        }
    }

    pub(super) async fn close(self) {
        // The server rolls back and gives locks back either way.
        _ = match self {
            Self::MySql(connection) => connection.close().await,
            Self::Postgres(connection) => connection.close().await,
        };
    }
}

/// Connections to borrow.
#[derive(Debug)]
pub(super) enum Pool {
    MySql(MySqlPool),
    Postgres(PgPool),
}

impl Pool {
    pub(super) async fn lend(&self) -> sqlx::Result<Lent> {
        let connection = match self {
            Self::MySql(pool) => Borrowed::MySql(pool.acquire().await?),
            Self::Postgres(pool) => Borrowed::Postgres(pool.acquire().await?),
        };
        Ok(Lent { connection, is_clean: true })
    }

    pub(super) async fn close(&self) {
        match self {
            Self::MySql(pool) => pool.close().await,
            Self::Postgres(pool) => pool.close().await,
        }
    }
}

#[derive(Debug)]
enum Borrowed {
    MySql(PoolConnection<MySql>),
    Postgres(PoolConnection<Postgres>),
}

/// A borrowed connection. It goes back only when no statement was left in the middle.
#[derive(Debug)]
pub(super) struct Lent {
    connection: Borrowed,
    is_clean: bool,
}

impl Lent {
    pub(super) async fn fetch(&mut self, statement: &Statement<'_>) -> sqlx::Result<Vec<Row>> {
        self.is_clean = false;
        let rows = self.link().fetch(statement).await;
        self.is_clean = rows.as_ref().err().is_none_or(is_answer);
        rows
    }

    pub(super) async fn transact(&mut self, statements: &[Statement<'_>]) -> sqlx::Result<u64> {
        self.is_clean = false;
        let mut link = self.link();
        let (done, is_clean) = link.transact(statements).await;
        self.is_clean = is_clean;
        done
    }

    fn link(&mut self) -> Link<'_> {
        match &mut self.connection {
            Borrowed::MySql(connection) => Link::MySql(connection),
            Borrowed::Postgres(connection) => Link::Postgres(connection),
        }
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if !self.is_clean {
            match &mut self.connection {
                Borrowed::MySql(connection) => connection.close_on_drop(),
                Borrowed::Postgres(connection) => connection.close_on_drop(),
            }
        }
    }
}

/// Whether the server answered, with an error: the connection itself is in order.
pub(super) fn is_answer(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some()
}

/// One connection, wherever it is from.
#[derive(Debug)]
pub(super) enum Link<'a> {
    MySql(&'a mut MySqlConnection),
    Postgres(&'a mut PgConnection),
}

/// A query of the text with its values bound, of either driver: they have no type in common.
macro_rules! bound {
    ($text:expr, $values:expr) => {{
        let mut query = sqlx::query(AssertSqlSafe($text));
        for value in $values {
            query = match *value {
                Value::Text(text) => query.bind(text),
                Value::OptionalText(text) => query.bind(text),
                Value::Bytes(bytes) => query.bind(bytes),
                Value::Number(number) => query.bind(number),
                Value::Small(number) => query.bind(number),
            };
        }
        query
    }};
}

/// The rows of each statement of a script, of either driver.
macro_rules! results {
    ($connection:expr, $text:expr, $row:path) => {{
        let mut all = Vec::new();
        let mut rows = Vec::new();
        let mut results = sqlx::raw_sql(AssertSqlSafe($text)).fetch_many(&mut **$connection);
        while let Some(result) = results.try_next().await? {
            match result {
                Either::Left(_) => all.push(std::mem::take(&mut rows)),
                Either::Right(row) => rows.push($row(row)),
            }
        }
        Ok(all)
    }};
}

impl Link<'_> {
    /// Rows changed.
    pub(super) async fn execute(&mut self, statement: &Statement<'_>) -> sqlx::Result<u64> {
        let Statement { text, values, .. } = statement;
        Ok(match self {
            Self::MySql(connection) => {
                bound!(text.clone(), values).execute(&mut **connection).await?.rows_affected()
            }
            Self::Postgres(connection) => bound!(statement::numbered(text), values)
                .execute(&mut **connection)
                .await?
                .rows_affected(),
        })
    }

    pub(super) async fn fetch(&mut self, statement: &Statement<'_>) -> sqlx::Result<Vec<Row>> {
        let Statement { text, values, .. } = statement;
        Ok(match self {
            Self::MySql(connection) => bound!(text.clone(), values)
                .fetch_all(&mut **connection)
                .await?
                .into_iter()
                .map(Row::MySql)
                .collect(),
            Self::Postgres(connection) => bound!(statement::numbered(text), values)
                .fetch_all(&mut **connection)
                .await?
                .into_iter()
                .map(Row::Postgres)
                .collect(),
        })
    }

    /// All statements or none. Returns the rows that were changed, and whether the connection is in order afterwards.
    pub(super) async fn transact(
        &mut self,
        statements: &[Statement<'_>],
    ) -> (sqlx::Result<u64>, bool) {
        let done = match statements {
            // Alone, it is a transaction.
            [statement] => self.execute(statement).await,
            _ => self.all(statements).await,
        };
        let is_clean = match &done {
            Ok(_) => true,
            Err(error) if is_answer(error) => self.plain("ROLLBACK").await.is_ok(),
            Err(_) => false,
        };
        (done, is_clean)
    }

    async fn all(&mut self, statements: &[Statement<'_>]) -> sqlx::Result<u64> {
        self.plain("BEGIN").await?;
        let mut changed = 0;
        for statement in statements {
            changed += self.execute(statement).await?;
        }
        self.plain("COMMIT").await?;
        Ok(changed)
    }

    /// Without preparing it.
    pub(super) async fn plain(&mut self, text: &'static str) -> sqlx::Result<()> {
        self.script(text.to_owned()).await.map(|_| ())
    }

    /// Statements without values, in one round trip: what each of them finds. The first one that fails is the last one that was tried.
    pub(super) async fn script(&mut self, text: String) -> sqlx::Result<Vec<Vec<Row>>> {
        match self {
            Self::MySql(connection) => results!(connection, text, Row::MySql),
            Self::Postgres(connection) => results!(connection, text, Row::Postgres),
        }
    }

    pub(super) async fn ping(&mut self) -> sqlx::Result<()> {
        match self {
            Self::MySql(connection) => connection.ping().await,
            Self::Postgres(connection) => connection.ping().await,
        }
    }
}
