//! The schema of a database and how it is brought up to date.

use sqlx::AssertSqlSafe;
use sqlx::migrate::{MigrateError, Migrator};
use sqlx::mysql::MySqlConnection;

use super::{Pool, is_answer};

static MYSQL_MIGRATIONS: Migrator = sqlx::migrate!("./migrations/mysql");
static POSTGRES_MIGRATIONS: Migrator = sqlx::migrate!("./migrations/postgres");

impl Pool {
    /// Brings the schema up to date.
    pub(in crate::store::server) async fn migrate(&self) -> Result<Schema, MigrateError> {
        // Of a database without any schema there is nothing to read.
        let ask = "SELECT CAST(COALESCE(MAX(version), 0) AS INTEGER) FROM _sqlx_migrations";
        Ok(match self {
            Self::MySql(pool) => {
                let ask = ask.replace("INTEGER", "SIGNED");
                let before = sqlx::query_scalar(AssertSqlSafe(ask)).fetch_one(pool).await;
                migrate_mysql(&mut *pool.acquire().await?).await?;
                Schema { before: version(before)?, now: newest(&MYSQL_MIGRATIONS) }
            }
            Self::Postgres(pool) => {
                let ask = ask.replace("INTEGER", "BIGINT");
                let before = sqlx::query_scalar(AssertSqlSafe(ask)).fetch_one(pool).await;
                POSTGRES_MIGRATIONS.run(pool).await?;
                Schema { before: version(before)?, now: newest(&POSTGRES_MIGRATIONS) }
            }
        })
    }
}

/// The version of a database's schema; 0: it had none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store::server) struct Schema {
    pub(in crate::store::server) before: i64,
    pub(in crate::store::server) now: i64,
}

fn version(found: sqlx::Result<i64>) -> sqlx::Result<i64> {
    match found {
        // No such table.
        Err(error) if is_answer(&error) => Ok(0),
        found => found,
    }
}

fn newest(migrations: &Migrator) -> i64 {
    migrations.iter().map(|migration| migration.version).max().unwrap_or_default()
}

/// sqlx asks for its lock of the schema with a timeout of -1, for ever; MariaDB takes that for a mistake, answers NULL, and two processes
/// would change the schema at the same time. A lock of our own has a timeout that both understand.
async fn migrate_mysql(connection: &mut MySqlConnection) -> Result<(), MigrateError> {
    const LOCK: &str =
        "SELECT GET_LOCK(CONCAT('roost-schema-', LEFT(SHA2(DATABASE(), 256), 32)), 60)";
    const UNLOCK: &str =
        "SELECT RELEASE_LOCK(CONCAT('roost-schema-', LEFT(SHA2(DATABASE(), 256), 32)))";
    let locked: Option<i64> = sqlx::query_scalar(LOCK).fetch_one(&mut *connection).await?;
    if locked != Some(1) {
        let what = "another process has been changing the schema for a minute; start again when it is done";
        return Err(sqlx::Error::Protocol(what.to_owned()).into());
    }
    // What `run` calls; `run` itself takes no borrowed connection in a future that is sent.
    let done = MYSQL_MIGRATIONS.run_direct(None, &mut *connection, false).await;
    sqlx::query(UNLOCK).execute(connection).await?;
    done
}
