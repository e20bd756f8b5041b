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
    let wanted = std::env::var("RUST_LOG").unwrap_or_default();
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter(&wanted)).with_writer(std::io::stderr);
    match format {
        Format::Text => builder.with_ansi(std::io::stderr().is_terminal()).init(),
        Format::Json => builder.json().init(),
    }
}

fn filter(wanted: &str) -> EnvFilter {
    let default = || EnvFilter::new("info,sqlx=warn");
    let filter = match wanted {
        "" => default(),
        text => EnvFilter::try_new(text).unwrap_or_else(|error| {
            eprintln!("roost: RUST_LOG={text}: {error}; using \"info\"");
            default()
        }),
    };
    // The AMQP client writes out whole messages, also returned ones. No log has bodies of messages, whatever its level.
    ["lapin=warn", "lapin::returned_messages=off"].into_iter().fold(filter, |filter, directive| {
        filter.add_directive(directive.parse().expect("a directive that was written here"))
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl Write for Written {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn no_level_shows_bodies() {
        for wanted in ["", "trace", "lapin=trace"] {
            let written = Written::default();
            let writer = written.clone();
            let builder = tracing_subscriber::fmt()
                .with_env_filter(filter(wanted))
                .with_writer(move || writer.clone());
            tracing::subscriber::with_default(builder.finish(), || {
                tracing::warn!(target: "lapin::returned_messages", "returned SECRET");
                tracing::trace!(target: "lapin::frames", "sent SECRET");
                tracing::warn!(target: "lapin::channels", "connection lost");
            });
            let text = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
            assert!(!text.contains("SECRET"), "{wanted:?}: {text}");
            assert!(text.contains("connection lost"), "{wanted:?}: {text}");
        }
    }
}
