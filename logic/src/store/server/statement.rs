//! Texts of statements with many rows or keys.
//!
//! A batch goes as scripts: one round trip for what it looks up, one to begin and lock, one for what it writes, and one more for bodies.
//! Look-ups have 1, 2, 4, ... keys, so that few texts exist of those that are prepared.

use std::fmt::Write as _;

use super::Dialect;
use super::driver::{Statement, Value};

/// Rows of one statement; of messages fewer, so that a statement stays far below the 16 MiB of MariaDB's `max_allowed_packet`.
const ROWS_MAX: usize = 256;
/// Keys of one look-up: beyond, planning costs more than the round trip saves.
const KEYS_MAX: usize = 64;
/// A script ends with the statement that passes this size. With one of the longest, as literals, it stays below 16 MiB, too.
const SCRIPT_BYTES: usize = 1024 * 1024;

/// How rows of one table are written.
pub(super) struct Table {
    /// Table and columns.
    pub(super) into: &'static str,
    pub(super) rows_max: usize,
    pub(super) conflict: Conflict,
    /// Its values stay out of the text: a server logs the text of what fails.
    pub(super) is_confidential: bool,
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
        Self { into, rows_max: ROWS_MAX, conflict, is_confidential: false }
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
        for share in rows.chunks(self.rows_max) {
            let values: Vec<_> = match self.conflict {
                // Prepared; a row that is there already stays and is not counted.
                Conflict::Keep => padded(share).flat_map(&row).collect(),
                Conflict::Refuse | Conflict::Update { .. } => share.iter().flat_map(&row).collect(),
            };
            let tuples = tuples(N, values.len() / N);
            let text = format!("{verb} INTO {} VALUES {tuples} {conflict}", self.into);
            out.push(Statement { text, values, is_confidential: self.is_confidential });
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
    let rows = match dialect {
        // A range of the index for each key.
        Dialect::MySql => "",
        // Joined as a table; a list would be planned as that many alternatives.
        Dialect::Postgres => "VALUES ",
    };
    keys.chunks(KEYS_MAX)
        .map(|share| {
            let values: Vec<_> = padded(share).flat_map(&key).collect();
            let tuples = tuples(N, values.len() / N);
            let text = format!("{select} ({rows}{tuples})");
            Statement { text, values, is_confidential: false }
        })
        .collect()
}

/// Keys, or rows of which one more counts for nothing. The last one repeats up to a power of two, so that few texts exist.
pub(super) fn padded<T>(keys: &[T]) -> impl Iterator<Item = &T> {
    keys.iter().chain(keys.last().into_iter().cycle()).take(keys.len().next_power_of_two())
}

/// The statements as texts that need no values; mostly one. None of them is confidential.
pub(super) fn scripts<'a, 'b: 'a>(
    dialect: Dialect,
    statements: impl IntoIterator<Item = &'a Statement<'b>>,
) -> Vec<String> {
    let mut scripts = Vec::new();
    let mut script = String::new();
    for statement in statements {
        if script.len() > SCRIPT_BYTES {
            scripts.push(std::mem::take(&mut script));
        }
        if !script.is_empty() {
            script.push_str("; ");
        }
        inline(dialect, statement, &mut script);
    }
    if !script.is_empty() {
        scripts.push(script);
    }
    scripts
}

/// A script whose statements find nothing, to be answered once: MariaDB sends an answer after each statement, but only one for a compound.
pub(super) fn answered_once(dialect: Dialect, script: &str) -> String {
    match dialect {
        // A comment to MySQL.
        Dialect::MySql => format!("/*M! BEGIN NOT ATOMIC */ {script} /*M! ; END */"),
        Dialect::Postgres => script.to_owned(),
    }
}

/// The text with its values in it.
fn inline(dialect: Dialect, Statement { text, values, .. }: &Statement<'_>, out: &mut String) {
    let mut parts = text.split('?');
    out.push_str(parts.next().unwrap_or_default());
    for (part, value) in parts.zip(values) {
        match (*value, dialect) {
            (Value::OptionalText(None), _) => out.push_str("NULL"),
            // Whatever the character set and the SQL mode.
            (Value::Text(text) | Value::OptionalText(Some(text)), Dialect::MySql)
                if text
                    .bytes()
                    .any(|b| !matches!(b, b' '..=b'~') || matches!(b, b'\'' | b'\\')) =>
            {
                hex("X'", text.as_bytes(), "'", out);
            }
            // Refused by the server: a zero would end the script.
            (Value::Text(text) | Value::OptionalText(Some(text)), Dialect::Postgres)
                if text.contains('\0') =>
            {
                hex("convert_from('\\x", text.as_bytes(), "', 'UTF8')", out);
            }
            // As of `standard_conforming_strings`, which sessions of PostgreSQL switch on.
            (Value::Text(text) | Value::OptionalText(Some(text)), _) => {
                out.push('\'');
                for (index, piece) in text.split('\'').enumerate() {
                    out.push_str(if index == 0 { "" } else { "''" });
                    out.push_str(piece);
                }
                out.push('\'');
            }
            (Value::Bytes(bytes), Dialect::MySql) => hex("X'", bytes, "'", out),
            (Value::Bytes(bytes), Dialect::Postgres) => hex("'\\x", bytes, "'::bytea", out),
            // A String takes everything.
            (Value::Number(number), _) => _ = write!(out, "{number}"),
            (Value::Small(number), _) => _ = write!(out, "{number}"),
        }
        out.push_str(part);
    }
}

fn hex(before: &str, bytes: &[u8], after: &str, out: &mut String) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    out.push_str(before);
    out.reserve(bytes.len() * 2);
    for byte in bytes {
        out.push(char::from(DIGITS[usize::from(byte >> 4)]));
        out.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    out.push_str(after);
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
    fn look_ups_have_few_texts() {
        let look_up = |keys: &[i64]| {
            let mut found =
                look_up(Dialect::Postgres, "SELECT 1 WHERE (a) IN", keys, |k| [Value::Number(*k)]);
            assert!(found.len() <= 1);
            found.pop().map(|statement| (numbered(&statement.text), statement.values.len()))
        };
        assert_eq!(look_up(&[]), None);
        assert_eq!(
            look_up(&[7, 8, 9]),
            Some(("SELECT 1 WHERE (a) IN (VALUES ($1),($2),($3),($4))".to_owned(), 4))
        );
        assert_eq!(look_up(&[7, 8, 9, 9]), look_up(&[7, 8, 9]));
    }

    #[test]
    fn scripts_say_each_value_so_that_nothing_of_it_is_read_as_a_statement() {
        let values = [
            Value::Text("it's \\ ?; DROP"),
            Value::OptionalText(None),
            Value::Bytes(&[0, 0xaf]),
            Value::Number(i64::MIN),
            Value::Small(-1),
            Value::Text("a\0b"),
        ];
        let insert = Statement::new("INSERT INTO t VALUES (?,?,?,?,?,?)", &values);
        let commit = Statement::new("COMMIT", &[]);
        assert_eq!(
            scripts(Dialect::MySql, [&insert, &commit]),
            [
                "INSERT INTO t VALUES (X'69742773205c203f3b2044524f50',NULL,X'00af',-9223372036854775808,-1,\
              X'610062'); COMMIT"
            ]
        );
        assert_eq!(
            scripts(Dialect::Postgres, [&insert, &commit]),
            [
                "INSERT INTO t VALUES ('it''s \\ ?; DROP',NULL,'\\x00af'::bytea,-9223372036854775808,-1,\
              convert_from('\\x610062', 'UTF8')); COMMIT"
            ]
        );
        for dialect in [Dialect::MySql, Dialect::Postgres] {
            let name = Statement::new("DELETE FROM t WHERE a = ?", &[Value::Text("s:a.b:c@d_-e")]);
            assert_eq!(scripts(dialect, [&name]), ["DELETE FROM t WHERE a = 's:a.b:c@d_-e'"]);
        }
    }

    #[test]
    fn long_scripts_are_cut_and_the_last_one_ends_it() {
        let body = vec![7; SCRIPT_BYTES];
        let long = || Statement::new("DELETE FROM t WHERE a = ?", &[Value::Bytes(&body)]);
        let cut = scripts(Dialect::MySql, &[long(), long(), Statement::new("COMMIT", &[])]);
        assert_eq!(cut.len(), 3);
        assert!(cut[0].starts_with("DELETE") && cut[1].starts_with("DELETE") && cut[2] == "COMMIT");
        assert!(scripts(Dialect::MySql, []).is_empty());
    }
}
