//! A row of either driver.

use sqlx::mysql::MySqlRow;
use sqlx::postgres::PgRow;

/// A row of a result.
#[derive(Debug)]
pub(in crate::store::server) enum Row {
    MySql(MySqlRow),
    Postgres(PgRow),
}

impl Row {
    /// A name: text in PostgreSQL, bytes in MySQL.
    pub(in crate::store::server) fn text(&self, index: usize) -> sqlx::Result<&str> {
        use sqlx::Row as _;
        match self {
            Self::MySql(row) => row.try_get_unchecked(index),
            Self::Postgres(row) => row.try_get(index),
        }
    }

    pub(in crate::store::server) fn optional_text(
        &self,
        index: usize,
    ) -> sqlx::Result<Option<&str>> {
        use sqlx::Row as _;
        match self {
            Self::MySql(row) => row.try_get_unchecked(index),
            Self::Postgres(row) => row.try_get(index),
        }
    }

    pub(in crate::store::server) fn bytes(&self, index: usize) -> sqlx::Result<Vec<u8>> {
        use sqlx::Row as _;
        match self {
            Self::MySql(row) => row.try_get(index),
            Self::Postgres(row) => row.try_get(index),
        }
    }

    pub(in crate::store::server) fn signed(&self, index: usize) -> sqlx::Result<i64> {
        use sqlx::Row as _;
        match self {
            Self::MySql(row) => row.try_get(index),
            Self::Postgres(row) => row.try_get(index),
        }
    }

    pub(in crate::store::server) fn optional_number(
        &self,
        index: usize,
    ) -> sqlx::Result<Option<u64>> {
        use sqlx::Row as _;
        let number: Option<i64> = match self {
            Self::MySql(row) => row.try_get(index)?,
            Self::Postgres(row) => row.try_get(index)?,
        };
        Ok(number.map(i64::cast_unsigned))
    }

    pub(in crate::store::server) fn small(&self, index: usize) -> sqlx::Result<i16> {
        use sqlx::Row as _;
        match self {
            Self::MySql(row) => row.try_get(index),
            Self::Postgres(row) => row.try_get(index),
        }
    }

    pub(in crate::store::server) fn number(&self, index: usize) -> sqlx::Result<u64> {
        self.signed(index).map(i64::cast_unsigned)
    }
}
