//! Reads a configuration; of a mistake it says the line, the key and the nearest known key.

use std::fmt;

use serde::Serialize;
use serde::de::DeserializeOwned;
use toml::de::DeTable;
use toml::{Spanned, Table, Value};

/// What is wrong, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mistake {
    /// In the file.
    Line {
        /// From 1.
        line: usize,
        /// For people.
        what: String,
    },
    /// In an environment variable.
    Variable {
        /// Its name.
        name: String,
        /// For people.
        what: String,
    },
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line { line, what } => write!(f, "{line}: {what}"),
            Self::Variable { name, what } => write!(f, " environment variable {name}: {what}"),
        }
    }
}

/// Parses `text`, lays the variables over it, and checks every key and value.
///
/// `variables` are (name, dotted key in lower case, value). `check` knows the rules that types cannot express; its error is
/// (dotted key, what is wrong).
///
/// # Errors
/// The first mistake.
pub fn read<T: Default + Serialize + DeserializeOwned>(
    text: &str,
    variables: impl Iterator<Item = (String, String, String)>,
    check: impl Fn(&T) -> Result<(), (String, String)>,
) -> Result<T, Mistake> {
    let known = table_of(&T::default());
    let document = DeTable::parse(text).map_err(|e| at_span(text, &e))?;
    check_keys(text, document.get_ref(), &known, "")?;
    let mut config: T = toml::from_str(text).map_err(|e| at_span(text, &e))?;

    let mut table = table_of(&config);
    for (name, key, value) in variables {
        let mistake = |what: String| Mistake::Variable { name: name.clone(), what };
        set(&mut table, &key, &value).map_err(mistake)?;
        config = T::deserialize(table.clone()).map_err(|e| mistake(e.message().to_owned()))?;
        if let Err((key, what)) = check(&config) {
            return Err(mistake(format!("{key}: {what}")));
        }
    }
    check(&config).map_err(|(key, what)| {
        let line = line_of_key(text, &key).unwrap_or(1);
        Mistake::Line { line, what: format!("{key}: {what}") }
    })?;
    Ok(config)
}

fn table_of<T: Serialize>(config: &T) -> Table {
    Table::try_from(config).expect("a configuration is a table")
}

fn check_keys(text: &str, table: &DeTable<'_>, known: &Table, prefix: &str) -> Result<(), Mistake> {
    for (key, value) in table {
        let path = format!("{prefix}{}", key.get_ref());
        match (known.get(key.get_ref().as_ref()), value.get_ref().as_table()) {
            (None, _) => {
                let what = format!("unknown key `{path}`{}", nearest(key.get_ref(), known.keys()));
                return Err(Mistake::Line { line: line_of(text, key), what });
            }
            (Some(Value::Table(inner_known)), Some(inner)) => {
                check_keys(text, inner, inner_known, &format!("{path}."))?;
            }
            (Some(Value::Table(_)), None) => {
                let what = format!("`{path}` is a table: write [{path}] and its keys below");
                return Err(Mistake::Line { line: line_of(text, key), what });
            }
            (Some(_), _) => {}
        }
    }
    Ok(())
}

/// `; did you mean ...` for a likely typing mistake, else the list of what is known.
fn nearest<'a>(key: &str, known: impl Iterator<Item = &'a String>) -> String {
    let known: Vec<_> = known.collect();
    let best = known
        .iter()
        .max_by(|a, b| strsim::jaro_winkler(key, a).total_cmp(&strsim::jaro_winkler(key, b)));
    match best {
        Some(best) if strsim::jaro_winkler(key, best) > 0.7 => format!("; did you mean `{best}`?"),
        Some(_) | None => {
            let list: Vec<_> = known.iter().map(|k| k.as_str()).collect();
            format!("; known here: {}", list.join(", "))
        }
    }
}

fn line_of<T>(text: &str, spanned: &Spanned<T>) -> usize {
    line_at(text, spanned.span().start)
}

fn line_at(text: &str, offset: usize) -> usize {
    text.as_bytes()[..offset.min(text.len())].iter().filter(|b| **b == b'\n').count() + 1
}

fn at_span(text: &str, error: &toml::de::Error) -> Mistake {
    let offset = error.span().map_or(0, |span| span.start);
    let line = line_at(text, offset);
    let source = text.lines().nth(line - 1).unwrap_or("").trim();
    Mistake::Line { line, what: format!("{}, in `{source}`", error.message()) }
}

/// The line on which a dotted key is set, if it is.
fn line_of_key(text: &str, path: &str) -> Option<usize> {
    let document = DeTable::parse(text).ok()?;
    let mut table = document.get_ref();
    let mut parts = path.split('.').peekable();
    while let Some(part) = parts.next() {
        let (key, value) = table.iter().find(|(key, _)| key.get_ref().as_ref() == part)?;
        if parts.peek().is_none() {
            return Some(line_of(text, key));
        }
        table = value.get_ref().as_table()?;
    }
    None
}

/// Sets the value of a dotted key, read as the type that the key has now.
fn set(table: &mut Table, path: &str, value: &str) -> Result<(), String> {
    let (part, rest) = match path.split_once('.') {
        Some((part, rest)) => (part, Some(rest)),
        None => (path, None),
    };
    if !table.contains_key(part) {
        return Err(format!("unknown key `{part}`{}", nearest(part, table.keys())));
    }
    match (&mut table[part], rest) {
        (Value::Table(inner), Some(rest)) => set(inner, rest, value)?,
        (Value::Table(inner), None) => {
            let keys: Vec<_> = inner.keys().map(String::as_str).collect();
            return Err(format!("`{part}` is a table: add one of {}", keys.join(", ")));
        }
        (_, Some(_)) => return Err(format!("`{part}` has no keys below it")),
        (entry @ Value::String(_), None) => *entry = Value::String(value.to_owned()),
        (entry, None) => {
            let expected = entry.type_str();
            let parsed = format!("value = {value}").parse::<Table>().ok();
            let parsed = parsed.and_then(|mut table| table.remove("value"));
            *entry = parsed.ok_or_else(|| format!("expected {expected}, found `{value}`"))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    crate::documented! {
        /// Outer.
        pub struct Outer {
            @tables {
                /// The bus.
                bus ("bus"): Bus;
                /// The gateway.
                gateway ("gateway"): Bus;
            }
        }
    }
    crate::documented! {
        /// Inner.
        pub struct Bus {
            /// How many.
            partitions ("partitions"): u16 = 32;
            /// Names.
            names ("names"): Vec<String> = Vec::new();
        }
    }

    #[track_caller]
    fn check(text: &str, variables: &[(&str, &str)], expected: &str) {
        let variables = variables
            .iter()
            .map(|(key, value)| ("VAR".to_owned(), key.to_string(), value.to_string()));
        let rule = |config: &Outer| match config.bus.partitions {
            0 => Err(("bus.partitions".to_owned(), "expected 1 or more".to_owned())),
            _ => Ok(()),
        };
        let found = match read(text, variables, rule) {
            Ok(config) => format!("valid {} {:?}", config.bus.partitions, config.bus.names),
            Err(mistake) => mistake.to_string(),
        };
        assert!(found.contains(expected), "{found:?} should contain {expected:?}");
    }

    #[test]
    fn mistakes_name_line_key_and_nearest() {
        check("", &[], "valid 32");
        check("[bus]\npartitions = 64\n", &[], "valid 64");
        let text = "\n[bus]\npartitons = 64\n";
        check(text, &[], "3: unknown key `bus.partitons`; did you mean `partitions`?");
        check("[gatway]\n", &[], "1: unknown key `gatway`; did you mean `gateway`?");
        check("[zzz]\n", &[], "1: unknown key `zzz`; known here: bus, gateway");
        check("bus = 3\n", &[], "1: `bus` is a table");
        check("[bus]\npartitions = \"many\"\n", &[], "2: invalid type: string \"many\"");
        check("[bus]\npartitions = 0\n", &[], "2: bus.partitions: expected 1 or more");
        check("[bus\n", &[], "1: ");
    }

    #[test]
    fn variables_override_and_are_checked() {
        check("", &[("bus.partitions", "8"), ("bus.names", "[\"a\"]")], "valid 8 [\"a\"]");
        check("", &[("bus.partitions", "eight")], "VAR: expected integer, found `eight`");
        check("", &[("bus.partition", "8")], "did you mean `partitions`?");
        check("", &[("bus", "8")], "`bus` is a table: add one of names, partitions");
        check("", &[("bus.partitions.x", "8")], "`partitions` has no keys below it");
        check("", &[("bus.partitions", "0")], "VAR: bus.partitions: expected 1 or more");
    }
}
