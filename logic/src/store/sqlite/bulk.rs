//! Multi-row statements whose texts are made once, so that SQLite keeps each one prepared.
//!
//! They resolve conflicts with ROLLBACK: SQLite then keeps no copy of each page a statement changes, in case only the statement
//! had to be undone. It cost a seventh of all time of the writer.

use std::sync::{Arc, OnceLock};

use sqlx::AssertSqlSafe;
use sqlx::query::Query;
use sqlx::sqlite::{Sqlite, SqliteArguments, SqliteConnection};

/// Rows of the longest statement: a full batch takes a few of them, and few hundred texts exist in all.
pub(super) const CHUNK_ROWS: usize = 64;

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
    texts: [OnceLock<Arc<str>>; CHUNK_ROWS],
}

impl<T> Bulk<T> {
    pub(super) const fn new(
        into: &'static str,
        columns: usize,
        conflict: &'static str,
        bind: fn(Bound, &T) -> Bound,
    ) -> Self {
        Self { into, columns, conflict, bind, texts: [const { OnceLock::new() }; CHUNK_ROWS] }
    }

    fn values(&self, rows: usize) -> String {
        let row = format!("({})", vec!["?"; self.columns].join(","));
        vec![row; rows].join(",")
    }

    /// Writes all rows, a chunk at a time.
    pub(super) async fn run(
        &self,
        connection: &mut SqliteConnection,
        rows: &[T],
    ) -> sqlx::Result<u64> {
        let mut affected = 0;
        for chunk in rows.chunks(CHUNK_ROWS) {
            let text = self.texts[chunk.len() - 1].get_or_init(|| {
                let Self { into, conflict, .. } = self;
                let values = self.values(chunk.len());
                format!("INSERT OR ROLLBACK INTO {into} VALUES {values} {conflict}").into()
            });
            let query = chunk.iter().fold(query(text), |query, row| (self.bind)(query, row));
            affected += query.execute(&mut *connection).await?.rows_affected();
        }
        Ok(affected)
    }
}

/// A query of a text that was made here, of constants and placeholders.
pub(super) fn query(text: &Arc<str>) -> Bound {
    sqlx::query(AssertSqlSafe(Arc::clone(text)))
}
