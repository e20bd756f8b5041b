//! Settings of the route table, the same for both tiers.

use std::time::Duration;

use roost_config::{ConfigError, documented, milliseconds};
use serde::{Deserialize, Serialize};

use super::link::nodes;

/// What `routes.url` names.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RedisMode {
    /// A server.
    #[default]
    Single,
    /// Sentinels, which name the server.
    Sentinel,
    /// Some servers of a cluster, which name the others.
    Cluster,
}

documented! {
    /// The route table: which gateway holds sessions of which user. Soft state: it may be lost at any time.
    pub struct RoutesConfig {
        /// Redis (5.0 or later) as redis://HOST:PORT/DATABASE. Several Sentinels, or several servers of a cluster, are separated by commas.
        /// Empty: no route table, every delivery goes to every gateway.
        url ("url"): String = String::new();
        /// What url names: "single", a server; "sentinel", Sentinels; "cluster", servers of a Redis Cluster, whose clocks then have to agree
        /// within a second.
        mode ("mode"): RedisMode = RedisMode::Single;
        /// With Sentinels: the name that they know the master by.
        sentinel_master ("sentinel_master"): String = "mymaster".to_owned();
        /// With Sentinels: their password, if they have one. Better given as ROOST_ROUTES__SENTINEL_PASSWORD than written here.
        sentinel_password ("sentinel_password"): String = String::new();
        /// User at the servers; empty: the default user.
        username ("username"): String = String::new();
        /// Password at the servers. Better given as the environment variable ROOST_ROUTES__PASSWORD than written here.
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
            && let Err(problem) = self.check_url()
        {
            return fail("url", problem);
        }
        if self.mode == RedisMode::Sentinel && self.sentinel_master.is_empty() {
            return fail(
                "sentinel_master",
                "is empty: write the name from sentinel.conf".to_owned(),
            );
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

    fn check_url(&self) -> Result<(), String> {
        let nodes = nodes(self)
            .map_err(|error| format!("{error}; write redis://HOST:PORT/DATABASE (no TLS yet)"))?;
        match self.mode {
            RedisMode::Single if nodes.len() > 1 => {
                Err("names several servers: say with mode what they are".to_owned())
            }
            RedisMode::Cluster if nodes.iter().any(|node| node.redis_settings().db() != 0) => {
                Err("names a database; a Redis Cluster has none".to_owned())
            }
            RedisMode::Single | RedisMode::Sentinel | RedisMode::Cluster => Ok(()),
        }
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
        let url = |mode, url: &str, key| {
            let change = |c: &mut RoutesConfig| (c.mode, c.url) = (mode, url.to_owned());
            check(change, key);
        };
        url(RedisMode::Single, "redis://127.0.0.1:6379/2", None);
        url(RedisMode::Single, "127.0.0.1:6379", Some("url"));
        url(RedisMode::Single, "rediss://127.0.0.1:6379", Some("url"));
        url(RedisMode::Single, "redis://h:1,redis://h:2", Some("url"));
        url(RedisMode::Cluster, "redis://h:1, redis://h:2", None);
        url(RedisMode::Cluster, "redis://h:1/1", Some("url"));
        url(RedisMode::Sentinel, "redis://h:1/1,redis://h:2/1", None);
        check(
            |c| (c.mode, c.sentinel_master) = (RedisMode::Sentinel, String::new()),
            Some("sentinel_master"),
        );
        check(|c| c.lease = Duration::from_millis(1), Some("lease_ms"));
        check(|c| c.pause = Duration::ZERO, Some("pause_ms"));
    }
}
