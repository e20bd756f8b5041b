//! Sorts errors of servers into what a caller can do about them, and says where they came from.
//!
//! MySQL: <https://mariadb.com/kb/en/mariadb-error-code-reference/>; PostgreSQL: SQLSTATE,
//! <https://www.postgresql.org/docs/current/errcodes-appendix.html>.

use std::time::Duration;

use sqlx::migrate::MigrateError;
use sqlx::mysql::MySqlDatabaseError;

use super::driver::Target;
use super::{Dialect, StoreError};

/// The database in the words of its URL, without the password.
#[derive(Debug)]
pub(super) struct Place {
    dialect: Dialect,
    user: String,
    database: String,
    address: String,
}

/// What an error of a server means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meaning {
    Duplicate,
    /// Lost or overloaded server, lock: later it may work.
    Away,
    /// Deadlock: at once it may work.
    Again,
    Credentials,
    NoDatabase,
    NoPermission,
    Damaged,
    Other,
}

impl Place {
    pub(super) fn of(target: &Target) -> Self {
        let (user, database, address) = target.describe();
        let database = database.unwrap_or_default();
        Self { dialect: target.dialect(), user, database, address }
    }

    pub(super) fn error(&self, error: sqlx::Error) -> StoreError {
        let Some(database) = error.as_database_error() else {
            let is_ours = matches!(
                error,
                sqlx::Error::ColumnDecode { .. }
                    | sqlx::Error::ColumnNotFound(_)
                    | sqlx::Error::ColumnIndexOutOfBounds { .. }
                    | sqlx::Error::Decode(_)
                    | sqlx::Error::Encode(_)
            );
            let text = format!("{self}: {error}");
            return if is_ours { StoreError::Refused(text) } else { StoreError::Unavailable(text) };
        };
        let message = database.message();
        let mysql =
            database.try_downcast_ref::<MySqlDatabaseError>().map(MySqlDatabaseError::number);
        let state = database.code().unwrap_or_default();
        match mysql.map_or_else(|| of_state(&state), of_number) {
            Meaning::Duplicate => StoreError::Duplicate(message.to_owned()),
            Meaning::Away => StoreError::Unavailable(format!("{self}: {message}")),
            Meaning::Again => StoreError::Again(format!("{self}: {message}")),
            Meaning::Credentials => StoreError::Unavailable(format!(
                "{self} does not let user {:?} in ({message}): correct the user in logic.store.url, or the password in the environment \
                 variable ROOST_LOGIC__STORE__PASSWORD (key logic.store.password)",
                self.user
            )),
            Meaning::NoDatabase => StoreError::Unavailable(format!(
                "{} has no database {:?} ({message}): make it with CREATE DATABASE {}, or correct logic.store.url",
                self.address, self.database, self.database
            )),
            Meaning::NoPermission => StoreError::Refused(format!(
                "{message}: give user {:?} all rights on database {:?} of {}",
                self.user, self.database, self.address
            )),
            Meaning::Damaged => StoreError::Damaged(format!(
                "{self} is damaged ({message}): stop Roost, look into the log of the database server, and restore a backup"
            )),
            Meaning::Other => StoreError::Refused(format!("{self}: {message}")),
        }
    }

    /// At the start: nobody answers.
    pub(super) fn unreachable(&self, error: sqlx::Error) -> StoreError {
        if error.as_database_error().is_some() {
            return self.error(error);
        }
        StoreError::Unavailable(format!(
            "cannot reach {self}: {error}. Start the database server, or correct logic.store.url or urls"
        ))
    }

    pub(super) fn silent(&self, timeout: Duration) -> StoreError {
        StoreError::Unavailable(format!("{self} gave no answer within {timeout:?}"))
    }

    pub(super) fn no_worker_id(&self) -> StoreError {
        StoreError::Unavailable(format!(
            "all worker ids of {self} are in use: stop some of its logic processes"
        ))
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "of another crate, with members to come")]
    pub(super) fn migration(&self, error: MigrateError) -> StoreError {
        match error {
            MigrateError::VersionMissing(version) | MigrateError::VersionTooNew(version, _) => {
                StoreError::Damaged(format!(
                    "{self} was written by a newer Roost (schema {version}): start that version, or use another database in logic.store.url"
                ))
            }
            MigrateError::VersionMismatch(version) => StoreError::Damaged(format!(
                "{self} has another schema {version} than this Roost: use another database in logic.store.url, or restore a backup made by \
                 this version"
            )),
            MigrateError::Dirty(version) => StoreError::Damaged(format!(
                "the change of {self} to schema {version} was interrupted: run DELETE FROM _sqlx_migrations WHERE success = FALSE in it, \
                 then start again"
            )),
            MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => {
                self.error(error)
            }
            error => StoreError::Refused(format!("{self}: {error}")),
        }
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = match self.dialect {
            Dialect::MySql => "MySQL",
            Dialect::Postgres => "PostgreSQL",
        };
        write!(f, "the {kind} database {:?} at {}", self.database, self.address)
    }
}

fn of_number(number: u16) -> Meaning {
    match number {
        1062 => Meaning::Duplicate,
        // Wrong password, no plugin for it, user unknown.
        1045 | 1698 | 1251 | 1130 => Meaning::Credentials,
        1049 => Meaning::NoDatabase,
        1044 | 1142 | 1143 | 1227 => Meaning::NoPermission,
        // Disk full, connections used up, shutdown, lock timeout.
        1020 | 1021 | 1040 | 1053 | 1114 | 1152 | 1158..=1161 | 1203 | 1205 => Meaning::Away,
        1213 => Meaning::Again,
        // Interrupted, killed, too long, read-only.
        1226 | 1290 | 1317 | 1792 | 1836 | 1927 | 1969 | 3024 | 4031 => Meaning::Away,
        1034 | 1194 | 1712 | 1932 => Meaning::Damaged,
        _ => Meaning::Other,
    }
}

fn of_state(state: &str) -> Meaning {
    match state {
        "23505" => Meaning::Duplicate,
        "3D000" => Meaning::NoDatabase,
        "42501" => Meaning::NoPermission,
        // Lock timeout; read-only, as after a fail-over.
        "55P03" | "25006" => Meaning::Away,
        _ => match state.get(..2) {
            Some("28") => Meaning::Credentials,
            // Deadlock and other rollbacks.
            Some("40") => Meaning::Again,
            // Connection, resources, intervention by the operator, system.
            Some("08" | "53" | "57" | "58" | "25") => Meaning::Away,
            Some("XX") if state != "XX000" => Meaning::Damaged,
            Some(_) | None => Meaning::Other,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meanings() {
        assert_eq!(of_number(1213), Meaning::Again);
        assert_eq!(of_number(1205), Meaning::Away);
        assert_eq!(of_number(1064), Meaning::Other);
        assert_eq!(of_state("40P01"), Meaning::Again);
        assert_eq!(of_state("57P01"), Meaning::Away);
        assert_eq!(of_state("28P01"), Meaning::Credentials);
        assert_eq!(of_state("XX001"), Meaning::Damaged);
        assert_eq!(of_state("42601"), Meaning::Other);
        assert_eq!(of_state(""), Meaning::Other);
    }
}
