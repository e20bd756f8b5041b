//! The log: standard error, level from `RUST_LOG`, text for people or JSON for machines.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

/// Format of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Starts logging; a `RUST_LOG` that does not parse is reported and the default is used.
pub(crate) fn start(format: Format) {
    let filter = match std::env::var("RUST_LOG") {
        Ok(text) if !text.is_empty() => EnvFilter::try_new(&text).unwrap_or_else(|error| {
            eprintln!("roost: RUST_LOG={text}: {error}; using \"info\"");
            default_filter()
        }),
        Ok(_) | Err(_) => default_filter(),
    };
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        Format::Text => builder.with_ansi(std::io::stderr().is_terminal()).init(),
        Format::Json => builder.json().init(),
    }
}

fn default_filter() -> EnvFilter {
    EnvFilter::new("info,sqlx=warn")
}
