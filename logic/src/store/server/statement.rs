//! Texts of statements with many rows or keys.
//!
//! They have 1, 2, 4, ... of them: few texts exist, so each stays prepared, and few statements carry many rows.

use super::Dialect;
use super::driver::{Statement, Value};

/// Rows of one statement; of messages fewer, so that a statement stays far below the 16 MiB of MariaDB's `max_allowed_packet`.
const ROWS_MAX: usize = 256;
/// Keys of one look-up: beyond, planning costs more than the round trip saves.
const KEYS_MAX: usize = 64;

/// How rows of one table are written.
pub(super) struct Table {
    /// Table and columns.
    pub(super) into: &'static str,
    pub(super) rows_max: usize,
    pub(super) conflict: Conflict,
}

/// What happens to a row that exists.
pub(super) enum Conflict {
    /// It refuses its batch.
    Refuse,
    /// It stays as it is, and is not counted. MySQL's IGNORE would also cut values that are too long: for checked ids only.
    Keep,
    /// The same in each dialect's words.
    Update { mysql: &'static str, postgres: &'static str },
}

impl Table {
    pub(super) const fn new(into: &'static str, conflict: Conflict) -> Self {
        Self { into, rows_max: ROWS_MAX, conflict }
    }

    /// Appends the statements that write `rows`, in their order.
    pub(super) fn write<'a, T, const N: usize>(
        &self,
        dialect: Dialect,
        rows: &'a [T],
        row: impl Fn(&'a T) -> [Value<'a>; N],
        out: &mut Vec<Statement<'a>>,
    ) {
        let (verb, conflict) = match (&self.conflict, dialect) {
            (Conflict::Refuse, _) => ("INSERT", ""),
            (Conflict::Keep, Dialect::MySql) => ("INSERT IGNORE", ""),
            (Conflict::Keep, Dialect::Postgres) => ("INSERT", "ON CONFLICT DO NOTHING"),
            (Conflict::Update { mysql, .. }, Dialect::MySql) => ("INSERT", *mysql),
            (Conflict::Update { postgres, .. }, Dialect::Postgres) => ("INSERT", *postgres),
        };
        for share in shares(rows, self.rows_max) {
            out.push(Statement {
                text: format!(
                    "{verb} INTO {} VALUES {} {conflict}",
                    self.into,
                    tuples(N, share.len())
                ),
                values: share.iter().flat_map(&row).collect(),
            });
        }
    }
}

/// The statements that look `keys` up: `select`, which ends before the list of keys of `N` columns.
pub(super) fn look_up<'a, T, const N: usize>(
    dialect: Dialect,
    select: &str,
    keys: &'a [T],
    key: impl Fn(&'a T) -> [Value<'a>; N],
) -> Vec<Statement<'a>> {
    let values = match dialect {
        // A range of the index for each key.
        Dialect::MySql => "",
        // Joined as a table; a list would be planned as that many alternatives.
        Dialect::Postgres => "VALUES ",
    };
    shares(keys, KEYS_MAX)
        .map(|share| Statement {
            text: format!("{select} ({values}{})", tuples(N, share.len())),
            values: share.iter().flat_map(&key).collect(),
        })
        .collect()
}

/// Cuts into shares whose sizes are powers of two, none larger than `max`, itself one.
fn shares<T>(rows: &[T], max: usize) -> impl Iterator<Item = &[T]> {
    let mut rest = rows;
    std::iter::from_fn(move || {
        let size = max.min(1 << rest.len().checked_ilog2()?);
        let (share, after) = rest.split_at(size);
        rest = after;
        Some(share)
    })
}

/// `(?,?),(?,?)`
fn tuples(columns: usize, rows: usize) -> String {
    let row = format!("({})", vec!["?"; columns].join(","));
    vec![row; rows].join(",")
}

/// The text with `$1`, `$2`, ... for each `?`; no text has another question mark.
pub(super) fn numbered(text: &str) -> String {
    let mut out = String::with_capacity(text.len() * 2);
    let mut parts = text.split('?');
    out.push_str(parts.next().unwrap_or_default());
    for (index, part) in parts.enumerate() {
        out.push('$');
        out.push_str(&(index + 1).to_string());
        out.push_str(part);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_few_and_complete() {
        let sizes =
            |count: usize| shares(&vec![(); count], 64).map(<[()]>::len).collect::<Vec<_>>();
        assert_eq!(sizes(0), [0; 0]);
        assert_eq!(sizes(7), [4, 2, 1]);
        assert_eq!(sizes(200), [64, 64, 64, 8]);
        assert_eq!(numbered(&format!("a {} b ?", tuples(2, 2))), "a ($1,$2),($3,$4) b $5");
    }
}
