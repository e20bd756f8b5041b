//! Settings of the route table, the same for both tiers.

use std::time::Duration;

use redis::IntoConnectionInfo;
use roost_config::{ConfigError, documented, milliseconds};

documented! {
    /// The route table: which gateway holds sessions of which user. Soft state: it may be lost at any time.
    pub struct RoutesConfig {
        /// A Redis server (5.0 or later) as redis://HOST:PORT/DATABASE. Empty: no route table, every delivery goes to every gateway.
        url ("url"): String = String::new();
        /// Password at the server. Better given as the environment variable ROOST_ROUTES__PASSWORD than written here.
        password ("password"): String = String::new();
        /// Begin of all keys: several clusters may share a server.
        key_prefix ("key_prefix"): String = "roost:".to_owned();
        /// How long a route lives without being renewed, in milliseconds; gateways renew all of theirs evenly within a third of it.
        #[serde(with = "milliseconds")]
        lease ("lease_ms"): Duration = Duration::from_secs(300);
        /// How long a gateway's word that its routes are complete counts, in milliseconds; given again after a quarter. Afterwards it
        /// gets every delivery.
        #[serde(with = "milliseconds")]
        gateway_lease ("gateway_lease_ms"): Duration = Duration::from_secs(10);
        /// Without an answer for this long, in milliseconds, Redis counts as away, and deliveries go to every gateway.
        #[serde(with = "milliseconds")]
        response_timeout ("response_timeout_ms"): Duration = Duration::from_millis(250);
        /// After that it is not asked for this long, in milliseconds.
        #[serde(with = "milliseconds")]
        pause ("pause_ms"): Duration = Duration::from_secs(1);
    }
}

impl RoutesConfig {
    /// Whether there is a route table.
    pub fn is_used(&self) -> bool {
        !self.url.is_empty()
    }

    /// Checks what types cannot say.
    ///
    /// # Errors
    /// The first value that cannot be used.
    pub fn check(&self) -> Result<(), ConfigError> {
        let fail = |key, problem: String| Err(ConfigError { key, problem });
        if self.is_used()
            && let Err(error) = self.url.as_str().into_connection_info()
        {
            let problem = format!(
                "{error}; write redis://HOST:PORT/DATABASE (no TLS, Sentinel or Cluster yet)"
            );
            return fail("url", problem);
        }
        for (key, value, least, most) in [
            ("lease_ms", self.lease, 1_000, 86_400_000),
            ("gateway_lease_ms", self.gateway_lease, 200, 600_000),
            ("response_timeout_ms", self.response_timeout, 10, 60_000),
            ("pause_ms", self.pause, 10, 60_000),
        ] {
            let value = value.as_millis();
            if value < least || value > most {
                return fail(key, format!("is {value}, allowed is {least} to {most}"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(change: impl FnOnce(&mut RoutesConfig), key: Option<&str>) {
        let mut config = RoutesConfig::default();
        change(&mut config);
        assert_eq!(config.check().err().map(|e| e.key), key);
    }

    #[test]
    fn unusable_values_name_their_key() {
        check(|_| (), None);
        check(|c| c.url = "redis://127.0.0.1:6379/2".to_owned(), None);
        check(|c| c.url = "127.0.0.1:6379".to_owned(), Some("url"));
        check(|c| c.url = "rediss://127.0.0.1:6379".to_owned(), Some("url"));
        check(|c| c.lease = Duration::from_millis(1), Some("lease_ms"));
        check(|c| c.pause = Duration::ZERO, Some("pause_ms"));
    }
}
