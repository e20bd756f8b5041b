//! Settings of membership, the same for both tiers but for what a gateway says about itself.

use std::time::Duration;

use roost_config::{ConfigError, documented, milliseconds};
use serde::{Deserialize, Serialize};

use crate::ring::WEIGHT_MAX;

/// Where the list of gateways is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RegistryKind {
    /// In the configuration of every process.
    #[default]
    Static,
    /// In etcd.
    Etcd,
    /// In ZooKeeper.
    ZooKeeper,
}

impl RegistryKind {
    /// As people write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Static => "static list",
            Self::Etcd => "etcd",
            Self::ZooKeeper => "ZooKeeper",
        }
    }
}

documented! {
    /// Which gateways there are: the list of [cluster], or a registry in which each gateway enters itself under a lease.
    pub struct MembershipConfig {
        /// static (the list cluster.gateways), etcd (3.4 or later) or zookeeper (3.6 or later).
        kind ("kind"): RegistryKind = RegistryKind::Static;
        /// Servers of the registry, asked in this order until one answers: ["http://HOST:2379"] for etcd, ["HOST:2181"] for ZooKeeper.
        endpoints ("endpoints"): Vec<String> = Vec::new();
        /// User at the registry. Empty: none is needed.
        user ("user"): String = String::new();
        /// Its password. Better given as the environment variable ROOST_MEMBERSHIP__PASSWORD than written here.
        password ("password"): String = String::new();
        /// Begin of all keys: several clusters may share a registry.
        prefix ("prefix"): String = "/roost".to_owned();
        /// How long the entry of a gateway outlives its last sign of life, in milliseconds (etcd: whole seconds, rounded up). A gateway that
        /// crashed keeps its users for this long, and a second one of its name waits for it.
        #[serde(with = "milliseconds")]
        lease ("lease_ms"): Duration = Duration::from_secs(10);
        /// Without an answer for this long, in milliseconds, a server of the registry counts as away; at most half a lease.
        #[serde(with = "milliseconds")]
        response_timeout ("response_timeout_ms"): Duration = Duration::from_secs(2);
        /// Of a gateway: "HOST:PORT" where its clients connect. Needed with etcd and zookeeper.
        address ("address"): String = String::new();
        /// Of a gateway: its share of the users relative to the others', up to 1000.
        weight ("weight"): u16 = 1;
    }
}

impl MembershipConfig {
    /// Whether gateways enter themselves in a registry.
    pub fn is_used(&self) -> bool {
        self.kind != RegistryKind::Static
    }

    /// Checks what types cannot say.
    ///
    /// # Errors
    /// The first value that cannot be used.
    pub fn check(&self) -> Result<(), ConfigError> {
        let fail = |key, problem: String| Err(ConfigError { key, problem });
        self.check_endpoints()?;
        let is_path = self.prefix.starts_with('/') && !self.prefix.ends_with('/');
        if !is_path || self.prefix.contains("//") || self.prefix.contains('\0') {
            return fail("prefix", "write a path like \"/roost\"".to_owned());
        }
        if self.user.is_empty() != self.password.is_empty() {
            return fail("user", "user and password belong together: give both or none".to_owned());
        }
        if self.weight > WEIGHT_MAX {
            return fail("weight", format!("is {}, allowed is 0 to {WEIGHT_MAX}", self.weight));
        }
        let lease = self.lease.as_millis();
        if !(2_000..=600_000).contains(&lease) {
            return fail("lease_ms", format!("is {lease}, allowed is 2000 to 600000"));
        }
        let (timeout, most) = (self.response_timeout.as_millis(), lease / 2);
        if !(50..=most).contains(&timeout) {
            let problem = format!("is {timeout}, allowed is 50 to {most}, half of lease_ms");
            return fail("response_timeout_ms", problem);
        }
        Ok(())
    }

    fn check_endpoints(&self) -> Result<(), ConfigError> {
        let (form, scheme) = match self.kind {
            RegistryKind::Static => return Ok(()),
            RegistryKind::Etcd => ("[\"http://HOST:2379\"] (no TLS yet)", "http://"),
            RegistryKind::ZooKeeper => ("[\"HOST:2181\"] (no TLS yet)", ""),
        };
        let is_address = |text: &String| {
            let address = text.strip_prefix(scheme).and_then(|rest| rest.rsplit_once(':'));
            address.is_some_and(|(host, port)| {
                let is_host = !host.is_empty() && !host.contains(['/', ',', '@', ' ']);
                is_host && port.parse::<u16>().is_ok_and(|port| port > 0)
            })
        };
        let wrong = self.endpoints.iter().find(|text| !is_address(text));
        let problem = match wrong {
            Some(text) => {
                format!("{text:?} cannot be used with {}; write {form}", self.kind.name())
            }
            None if self.endpoints.is_empty() => {
                format!("names no server of {}; write {form}", self.kind.name())
            }
            None => return Ok(()),
        };
        Err(ConfigError { key: "endpoints", problem })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(change: impl FnOnce(&mut MembershipConfig), key: Option<&str>) {
        let mut config = MembershipConfig::default();
        change(&mut config);
        assert_eq!(config.check().err().map(|e| e.key), key);
    }

    fn registry(kind: RegistryKind, endpoints: &[&str]) -> impl FnOnce(&mut MembershipConfig) {
        move |config| {
            config.kind = kind;
            config.endpoints = endpoints.iter().map(|text| (*text).to_owned()).collect();
        }
    }

    #[test]
    fn unusable_values_name_their_key() {
        use RegistryKind::{Etcd, ZooKeeper};
        check(|_| (), None);
        check(registry(Etcd, &["http://etcd-1:2379", "http://[::1]:2379"]), None);
        check(registry(ZooKeeper, &["zk-1:2181"]), None);
        check(registry(Etcd, &[]), Some("endpoints"));
        for wrong in ["etcd-1:2379", "https://etcd-1:2379", "http://etcd-1", "http://u:p@h:1"] {
            check(registry(Etcd, &[wrong]), Some("endpoints"));
        }
        for wrong in ["", "zk-1", "zk-1:0", "zk-1:2181/chroot", "a:1,b:2"] {
            check(registry(ZooKeeper, &[wrong]), Some("endpoints"));
        }
        check(|c| c.prefix = "roost".to_owned(), Some("prefix"));
        check(|c| c.prefix = "/".to_owned(), Some("prefix"));
        check(|c| c.password = "secret".to_owned(), Some("user"));
        check(|c| c.weight = 1001, Some("weight"));
        check(|c| c.lease = Duration::from_secs(1), Some("lease_ms"));
        check(|c| c.response_timeout = Duration::from_secs(6), Some("response_timeout_ms"));
    }

    #[test]
    fn kinds_are_written_small() {
        let config: MembershipConfig = serde_json::from_str(r#"{"kind": "zookeeper"}"#).unwrap();
        assert_eq!(config.kind, RegistryKind::ZooKeeper);
    }
}
