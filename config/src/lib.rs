//! Configuration structs whose fields, defaults and documentation are declared once.
//!
//! [`documented!`] declares a struct; [`commented_toml`] prints it with every default and sentence; [`read`] reads a file and
//! environment variables over it, and says of a mistake where it is and what is known there. Values are checked by each
//! crate's own `check`.

mod print;
mod read;

use std::time::Duration;

pub use print::commented_toml;
pub use read::{Mistake, read};

/// One key, for printing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldDoc {
    /// Dotted path, e.g. `limits.connections_max`.
    pub key: String,
    /// What it means: lines joined by spaces.
    pub text: String,
    /// Whether it is a table of its own, whose keys follow.
    pub is_table: bool,
}

/// Documentation of the fields of a configuration struct.
pub trait Documented {
    /// Appends the documentation of every field, in order, `prefix` before each key.
    fn describe(prefix: &str, out: &mut Vec<FieldDoc>);
}

/// A value that cannot be used: which key, what is wrong, what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {problem}")]
pub struct ConfigError {
    /// Dotted path below the struct's own table.
    pub key: &'static str,
    /// What is wrong and what to write instead.
    pub problem: String,
}

/// `text` of doc comments as one line.
#[doc(hidden)]
pub fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Declares a configuration struct: `field ("key in TOML"): type = default;`, and after `@tables` `field ("key"): type;`.
/// Every struct has at least one key of its own or one table. `serde` must be in scope as a crate.
#[macro_export]
macro_rules! documented {
    ($(#[doc = $about:literal])* pub struct $name:ident {
        $($(#[doc = $doc:literal])* $(#[serde($($serde:tt)*)])?
          $field:ident ($key:literal): $ty:ty = $default:expr;)*
        $(@tables { $($(#[doc = $table_doc:literal])* $table:ident ($table_key:literal): $table_ty:ty;)* })?
    }) => {
        $(#[doc = $about])*
        #[allow(unreachable_pub, reason = "also declared in private modules of a binary")]
        #[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct $name {
            $($(#[doc = $doc])* #[serde(rename = $key)] $(#[serde($($serde)*)])? pub $field: $ty,)*
            $($($(#[doc = $table_doc])* #[serde(rename = $table_key)] pub $table: $table_ty,)*)?
        }
        impl Default for $name {
            fn default() -> Self {
                Self { $($field: $default,)* $($($table: Default::default(),)*)? }
            }
        }
        impl $crate::Documented for $name {
            fn describe(prefix: &str, out: &mut Vec<$crate::FieldDoc>) {
                $(out.push($crate::FieldDoc {
                    key: format!("{prefix}{}", $key),
                    text: $crate::one_line(concat!($($doc, " "),*)),
                    is_table: false,
                });)*
                $($(
                    let key = format!("{prefix}{}", $table_key);
                    let below = format!("{key}.");
                    let text = $crate::one_line(concat!($($table_doc, " "),*));
                    out.push($crate::FieldDoc { key, text, is_table: true });
                    <$table_ty as $crate::Documented>::describe(&below, out);
                )*)?
            }
        }
    };
}

/// For `#[serde(with = "milliseconds")]`: durations as whole milliseconds.
pub mod milliseconds {
    use super::Duration;
    use serde::{Deserialize, Deserializer, Serializer};

    /// Writes whole milliseconds.
    pub fn serialize<S: Serializer>(value: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u64(u64::try_from(value.as_millis()).unwrap_or(u64::MAX))
    }
    /// Reads whole milliseconds.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        u64::deserialize(from).map(Duration::from_millis)
    }
}
