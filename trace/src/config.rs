//! Configuration of traces.

use roost_config::{ConfigError, documented};

documented! {
    /// Where messages are and when they passed what: `roost trace`, and spans for a collector.
    pub struct TraceConfig {
        /// Share of messages that are traced, 0 to 1. The same on all nodes: whether a message is traced follows from its random id alone.
        sample ("sample"): f64 = 1.0;
        /// What each thread remembers of traced messages, oldest overwritten first: a power of two. One passage takes 128 bytes, and there is
        /// a ring for each shard, two more in a gateway and three in logic: 8192 take 1 MiB each. A message leaves two to six in a ring.
        passages_per_thread ("passages_per_thread"): u32 = 8192;
        /// URL to which an OpenTelemetry collector takes traces as OTLP over HTTP, such as "http://127.0.0.1:4318/v1/traces". Empty: none.
        /// Every traced message is exported: lower sample for a busy system. What the collector does not take is dropped and counted.
        otlp_endpoint ("otlp_endpoint"): String = String::new();
    }
}

impl TraceConfig {
    /// Checks what types cannot say.
    ///
    /// # Errors
    /// The first value that cannot be used.
    pub fn check(&self) -> Result<(), ConfigError> {
        let wrong = |key, problem: String| Err(ConfigError { key, problem });
        if !(0.0..=1.0).contains(&self.sample) {
            return wrong("sample", format!("is {}, allowed is 0 to 1", self.sample));
        }
        let passages = self.passages_per_thread;
        if !passages.is_power_of_two() || !(16..=1 << 24).contains(&passages) {
            let problem =
                format!("is {passages}, allowed are powers of two from 16 to {}", 1 << 24);
            return wrong("passages_per_thread", problem);
        }
        if self.otlp_endpoint.is_empty() {
            return Ok(());
        }
        if !cfg!(feature = "otlp") {
            let problem =
                "this build exports nothing: build with `--features otlp`, or leave it empty";
            return wrong("otlp_endpoint", problem.to_owned());
        }
        let host = self.otlp_endpoint.strip_prefix("http://");
        if host.is_none_or(|host| host.is_empty() || host.starts_with('/')) {
            let problem = format!(
                "{:?} is not of the form \"http://HOST:PORT/PATH\" (no TLS yet: use a collector on this host)",
                self.otlp_endpoint
            );
            return wrong("otlp_endpoint", problem);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(change: impl FnOnce(&mut TraceConfig), key: Option<&str>) {
        let mut config = TraceConfig::default();
        change(&mut config);
        assert_eq!(config.check().err().map(|error| error.key), key);
    }

    #[test]
    fn unusable_values_name_their_key() {
        check(|_| {}, None);
        check(|c| c.sample = 0.0, None);
        check(|c| c.sample = 1.5, Some("sample"));
        check(|c| c.sample = f64::NAN, Some("sample"));
        check(|c| c.passages_per_thread = 1000, Some("passages_per_thread"));
        check(|c| c.passages_per_thread = 8, Some("passages_per_thread"));
        check(
            |c| c.otlp_endpoint = "https://collector/v1/traces".to_owned(),
            Some("otlp_endpoint"),
        );
        let without = (!cfg!(feature = "otlp")).then_some("otlp_endpoint");
        check(|c| c.otlp_endpoint = "http://127.0.0.1:4318/v1/traces".to_owned(), without);
    }
}
