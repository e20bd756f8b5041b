//! Configuration of the logic tier: every number an operator may change, with its default and its sentence.
//!
//! Values are checked once, by [`LogicConfig::check`]. Durations are spelled in milliseconds in TOML.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use roost_config::{ConfigError, documented, milliseconds};
use roost_protocol::id::check_id;
use serde::{Deserialize, Serialize};

use crate::auth::dev;
use crate::ids::WORKER_ID_MAX;
use crate::soft_state::redis::CacheSettings;
use crate::store::server::StoreConfig;

documented! {
    /// A logic worker with its HTTP API.
    pub struct LogicConfig {
        /// Name of this node: its delivery queue on the bus is "api-" and this name. Unique among the nodes of a cluster.
        name ("name"): String = "logic-1".to_owned();
        /// Address of the HTTP API.
        http_listen ("http_listen"): SocketAddr = SocketAddr::from(([0, 0, 0, 0], 7400));
        /// Address of /livez, /readyz, /metrics and /trace of `roost logic`. Not for the public: there is no authentication.
        admin_listen ("admin_listen"): SocketAddr = SocketAddr::from(([127, 0, 0, 1], 7408));
        /// Folder of the database and of the key that signs access tokens. With a database server, its key counts: that of the first
        /// process that used it.
        data_dir ("data_dir"): PathBuf = PathBuf::from("roost-data");
        /// Number of this worker in message ids, 0 to 1023. With a database server the next one that no other process has.
        worker_id ("worker_id"): u16 = 0;
        /// Operations that are committed in one transaction.
        batch_operations_max ("batch_operations_max"): usize = 1024;
        /// Apps (tenants), with the keys of their integrators; each as [[logic.apps]] with id, api_keys, and [[logic.apps.keys]]
        /// with id, algorithm ("HS256" or "EdDSA") and secret (HS256: text of 32 bytes or more; EdDSA: public key in base64).
        apps ("apps"): Vec<AppConfig> = Vec::new();
        @tables {
            /// The database. Empty url: SQLite in data_dir, for one host.
            store ("store"): StoreConfig;
            /// Access and refresh tokens.
            tokens ("tokens"): TokenSettings;
            /// Passwords.
            passwords ("passwords"): PasswordSettings;
            /// The newest messages of each user's inbox in the Redis of [routes].
            offline_cache ("offline_cache"): CacheSettings;
            /// What one HTTP client may do.
            http ("http"): HttpSettings;
        }
    }
}

documented! {
    /// Access and refresh tokens.
    pub struct TokenSettings {
        /// Validity of an access token, in milliseconds.
        #[serde(with = "milliseconds")]
        access_ttl ("access_ttl_ms"): Duration = Duration::from_secs(15 * 60);
        /// Validity of a refresh token that is not used, in milliseconds.
        #[serde(with = "milliseconds")]
        refresh_ttl ("refresh_ttl_ms"): Duration = Duration::from_secs(30 * 24 * 3600);
        /// A refresh token used again within this time is answered with the same successor, because the first answer may have
        /// been lost; later, its login is revoked. In milliseconds.
        #[serde(with = "milliseconds")]
        refresh_grace ("refresh_grace_ms"): Duration = Duration::from_secs(60);
    }
}

documented! {
    /// Passwords, hashed with argon2id.
    pub struct PasswordSettings {
        /// Passwords hashed at the same time, each on a thread of its own.
        threads ("threads"): usize = 2;
        /// Requests that may wait for a thread; beyond, they are answered busy.
        waiting_max ("waiting_max"): usize = 32;
        /// Memory of one hash, in KiB.
        memory_kib ("memory_kib"): u32 = 19 * 1024;
        /// Passes over that memory.
        passes ("passes"): u32 = 2;
    }
}

documented! {
    /// What one HTTP client may do.
    pub struct HttpSettings {
        /// Connections at the same time; one more is answered 503 with the code busy, and closed.
        connections_max ("connections_max"): usize = 1024;
        /// A connection without a complete request head for this long is closed: one that says nothing, says it byte by byte, or
        /// waits between two requests. In milliseconds.
        #[serde(with = "milliseconds")]
        head_timeout ("head_timeout_ms"): Duration = Duration::from_secs(15);
        /// A request body must be here this long after its head, or the request is answered 408; and a client that takes nothing
        /// of its answer for this long is closed. In milliseconds.
        #[serde(with = "milliseconds")]
        body_timeout ("body_timeout_ms"): Duration = Duration::from_secs(15);
        /// Largest request body, in bytes.
        body_bytes_max ("body_bytes_max"): usize = 256 * 1024;
        /// Requests to register and login per address and minute.
        logins_per_minute ("logins_per_minute"): u32 = 30;
        /// How long a message sent by HTTP waits for its acknowledgement, in milliseconds.
        #[serde(with = "milliseconds")]
        send_timeout ("send_timeout_ms"): Duration = Duration::from_secs(5);
        /// Whether anybody may register.
        registration ("registration"): bool = true;
    }
}

/// One app.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub struct AppConfig {
    /// Its id.
    pub id: String,
    /// Keys that its integrator mints tokens with.
    #[serde(default)]
    pub keys: Vec<KeyConfig>,
    /// Secrets that its servers call the HTTP API with.
    #[serde(default)]
    pub api_keys: Vec<String>,
}

/// One key of an integrator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyConfig {
    /// `kid` of the tokens.
    pub id: String,
    /// Fixed for the key, whatever a token says.
    pub algorithm: KeyAlgorithm,
    /// HS256: the secret. EdDSA: the public key in base64.
    pub secret: String,
}

/// What a key signs with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum KeyAlgorithm {
    /// HMAC with SHA-256.
    #[serde(rename = "HS256")]
    Hs256,
    /// Ed25519.
    #[serde(rename = "EdDSA")]
    EdDsa,
}

/// Shortest secret of a server.
const API_KEY_BYTES_MIN: usize = 32;

impl LogicConfig {
    /// The database file.
    pub fn database_file(&self) -> PathBuf {
        self.data_dir.join("roost.db")
    }

    /// Says of the first value that cannot be used what to write instead.
    ///
    /// # Errors
    /// When a value cannot be used.
    pub fn check(&self) -> Result<(), ConfigError> {
        let wrong = |key, problem: String| Err(ConfigError { key, problem });
        if let Err(error) = check_id(&self.name) {
            return wrong("name", error.to_string());
        }
        if self.worker_id > WORKER_ID_MAX {
            return wrong(
                "worker_id",
                format!("{} is too large: 0 to {WORKER_ID_MAX}", self.worker_id),
            );
        }
        if !(1..=4096).contains(&self.batch_operations_max) {
            return wrong("batch_operations_max", "expected 1 to 4096".to_owned());
        }
        self.store.check()?;
        if self.passwords.threads == 0
            || self.passwords.memory_kib < 8
            || self.passwords.passes == 0
        {
            return wrong(
                "passwords",
                "threads and passes are at least 1, memory_kib at least 8".to_owned(),
            );
        }
        if self.tokens.access_ttl.is_zero() || self.tokens.refresh_ttl.is_zero() {
            return wrong("tokens", "a token lives longer than 0 ms".to_owned());
        }
        let cache = &self.offline_cache;
        if !(1..=100_000).contains(&cache.messages_max) || cache.ttl.as_millis() == 0 {
            let problem = "messages_max is 1 to 100000, ttl_ms at least 1";
            return wrong("offline_cache", problem.to_owned());
        }
        if self.http.connections_max == 0 {
            return wrong("http.connections_max", "at least 1".to_owned());
        }
        if self.http.head_timeout.is_zero() || self.http.body_timeout.is_zero() {
            return wrong("http", "head_timeout_ms and body_timeout_ms are at least 1".to_owned());
        }
        for (index, app) in self.apps.iter().enumerate() {
            if let Err(error) = check_id(&app.id) {
                return wrong("apps", format!("app {index}: {error}"));
            }
            if self.apps[..index].iter().any(|other| other.id == app.id) {
                return wrong("apps", format!("app {:?} is listed twice", app.id));
            }
            if app.api_keys.iter().any(|key| key.len() < API_KEY_BYTES_MIN) {
                return wrong(
                    "apps",
                    format!("app {:?}: an API key has at least {API_KEY_BYTES_MIN} bytes", app.id),
                );
            }
            let samples = app.api_keys.iter().chain(app.keys.iter().map(|key| &key.secret));
            if samples.into_iter().any(|secret| dev::is_sample(secret)) {
                return wrong(
                    "apps",
                    format!(
                        "app {:?} uses a sample secret of `roost dev`, which everybody knows: make one with `openssl rand -hex 32`",
                        app.id
                    ),
                );
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(change: impl FnOnce(&mut LogicConfig), expected: Option<&str>) {
        let mut config = LogicConfig::default();
        config.apps.push(AppConfig { id: "shop".to_owned(), ..AppConfig::default() });
        change(&mut config);
        let problem = config.check().err().map(|error| error.to_string());
        match expected {
            None => assert_eq!(problem, None),
            Some(part) => {
                assert!(problem.as_ref().is_some_and(|p| p.contains(part)), "{problem:?}")
            }
        }
    }

    #[test]
    fn mistakes_are_named() {
        check(|_| {}, None);
        check(|c| c.name = "a b".to_owned(), Some("name"));
        check(|c| c.worker_id = 1024, Some("1023"));
        check(|c| c.http.connections_max = 0, Some("at least 1"));
        check(|c| c.http.head_timeout = Duration::ZERO, Some("head_timeout_ms"));
        check(
            |c| c.apps.push(AppConfig { id: "shop".to_owned(), ..AppConfig::default() }),
            Some("twice"),
        );
        check(|c| c.apps[0].api_keys.push("short".to_owned()), Some("at least 32"));
        check(|c| c.apps[0].api_keys.push(dev::API_KEY.to_owned()), Some("sample secret"));
    }
}
