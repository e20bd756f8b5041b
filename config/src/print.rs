//! Prints a configuration with every default and its sentence.

use serde::Serialize;
use toml::{Table, Value};

use crate::Documented;

const COLUMNS: usize = 110;

/// The complete TOML of `T`'s defaults: each key under its sentence, each table under its heading.
///
/// # Panics
/// When `T` does not serialise to a table with the keys it documents: a mistake in its declaration, found by any test.
pub fn commented_toml<T: Documented + Default + Serialize>() -> String {
    let defaults = Table::try_from(T::default()).expect("configuration is a table");
    let mut fields = Vec::new();
    T::describe("", &mut fields);
    let mut out = String::new();
    for field in fields {
        if !out.is_empty() {
            out.push('\n');
        }
        wrap(&field.text, &mut out);
        if field.is_table {
            out.push_str(&format!("[{}]\n", field.key));
        } else {
            let name = field.key.rsplit('.').next().unwrap_or(&field.key);
            let value = find(&defaults, &field.key).expect("a documented key has a default");
            out.push_str(&format!("{name} = {value}\n"));
        }
    }
    out
}

fn find<'a>(table: &'a Table, key: &str) -> Option<&'a Value> {
    match key.split_once('.') {
        None => table.get(key),
        Some((head, rest)) => find(table.get(head)?.as_table()?, rest),
    }
}

fn wrap(text: &str, out: &mut String) {
    let mut column = 0;
    for word in text.split(' ') {
        if column == 0 || column + 1 + word.len() > COLUMNS {
            if column > 0 {
                out.push('\n');
            }
            out.push('#');
            column = 1;
        }
        out.push(' ');
        out.push_str(word);
        column += 1 + word.len();
    }
    out.push('\n');
}

#[cfg(test)]
mod tests {
    crate::documented! {
        /// Outer.
        pub struct Outer {
            /// A number with
            /// two lines.
            number ("number"): u16 = 7;
            @tables {
                /// What is inside.
                inner ("inner"): Inner;
            }
        }
    }
    crate::documented! {
        /// Inner.
        pub struct Inner {
            /// A list.
            list ("list"): Vec<String> = vec!["a".to_owned()];
        }
    }

    #[test]
    fn prints_keys_tables_and_sentences() {
        let expected = "# A number with two lines.\nnumber = 7\n\n# What is inside.\n[inner]\n\n# A list.\nlist = [\"a\"]\n";
        assert_eq!(super::commented_toml::<Outer>(), expected);
    }
}
