//! Multi-row statements whose texts are made once, so that SQLite keeps each one prepared.
//!
//! They resolve conflicts with ROLLBACK: SQLite then keeps no copy of each page a statement changes, in case only the statement
//! had to be undone. It cost a seventh of all time of the writer.

use std::sync::{Arc, OnceLock};

use sqlx::AssertSqlSafe;
use sqlx::query::Query;
use sqlx::sqlite::{Sqlite, SqliteArguments, SqliteConnection};

/// Statements have 1, 2, 4, ... rows, this many different ones: few texts exist, and few statements write many rows.
const SIZES: usize = 9;

pub(super) type Bound = Query<'static, Sqlite, SqliteArguments>;

/// How rows of one kind are written.
pub(super) struct Bulk<T> {
    /// Table and columns.
    into: &'static str,
    columns: usize,
    /// What happens to rows that exist.
    conflict: &'static str,
    /// Binds `columns` values of one row.
    bind: fn(Bound, &T) -> Bound,
    texts: [OnceLock<Arc<str>>; SIZES],
}

impl<T> Bulk<T> {
    pub(super) const fn new(
        into: &'static str,
        columns: usize,
        conflict: &'static str,
        bind: fn(Bound, &T) -> Bound,
    ) -> Self {
        Self { into, columns, conflict, bind, texts: [const { OnceLock::new() }; SIZES] }
    }

    /// Writes all rows.
    pub(super) async fn run(
        &self,
        connection: &mut SqliteConnection,
        rows: &[T],
    ) -> sqlx::Result<u64> {
        let mut affected = 0;
        let mut rest = rows;
        while let Some(size) = rest.len().checked_ilog2() {
            let size = (size as usize).min(SIZES - 1);
            let (chunk, after) = rest.split_at(1 << size);
            let text = self.texts[size].get_or_init(|| {
                let Self { into, columns, conflict, .. } = self;
                let values = values(*columns, chunk.len());
                format!("INSERT OR ROLLBACK INTO {into} VALUES {values} {conflict}").into()
            });
            let query = chunk.iter().fold(query(text), |query, row| (self.bind)(query, row));
            affected += query.execute(&mut *connection).await?.rows_affected();
            rest = after;
        }
        Ok(affected)
    }
}

/// `(?,?),(?,?)`
pub(super) fn values(columns: usize, rows: usize) -> String {
    let row = format!("({})", vec!["?"; columns].join(","));
    vec![row; rows].join(",")
}

/// A query of a text that was made here, of constants and placeholders.
pub(super) fn query(text: &Arc<str>) -> Bound {
    sqlx::query(AssertSqlSafe(Arc::clone(text)))
}
