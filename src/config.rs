//! Configuration: one TOML file for both tiers, overridden by environment variables, checked before anything starts.
//!
//! `ROOST_GATEWAY__LIMITS__CONNECTIONS_MAX=1000` overrides `connections_max` of `[gateway.limits]`: `ROOST_`, then the path in
//! capitals with `__` between its parts.

use std::num::NonZeroU32;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use roost_bus::BusConfig;
use roost_config::{documented, milliseconds};
use roost_gateway::config::GatewayConfig;
use roost_gateway::control::login_keys::LogicAddress;
use roost_gateway::gateway::ShedPlan;
use roost_logic::config::LogicConfig;
use roost_membership::ring::{Member, Ring};
use roost_membership::{MembershipConfig, RoutesConfig};
use roost_trace::TraceConfig;

/// Environment variables with the prefix that are not configuration keys.
const OTHER_VARIABLES: &[&str] = &[
    "ROOST_LOG_FORMAT",
    "ROOST_KEY_SECRET",
    "ROOST_API_KEY",
    "ROOST_TOKEN",
    #[cfg(feature = "planted-bugs")]
    roost_bus::planted::VARIABLE,
];

/// Longer than any start of several gateways.
const SHED_AFTER_MAX: Duration = Duration::from_secs(600);

documented! {
    /// The whole configuration.
    pub struct Config {
        @tables {
            /// What connects the two tiers.
            bus ("bus"): BusConfig;
            /// The gateways of a cluster, the same on every node.
            cluster ("cluster"): ClusterConfig;
            /// Which gateways there are: the list of [cluster], or a registry in which each gateway enters itself under a lease.
            membership ("membership"): MembershipConfig;
            /// The route table: which gateway holds sessions of which user. Soft state: it may be lost at any time.
            routes ("routes"): RoutesConfig;
            /// Traces: where a message is and when it passed each hop (`roost trace`), and their export. The same share on every node.
            trace ("trace"): TraceConfig;
            /// The gateway tier: connections.
            gateway ("gateway"): GatewayConfig;
            /// The logic tier: messages, accounts, the HTTP API.
            logic ("logic"): LogicConfig;
        }
    }
}

documented! {
    /// The gateways of a cluster, the same on every node. `roost dev` needs none.
    pub struct ClusterConfig {
        /// Each gateway as "NAME=HOST:PORT": its gateway.name, and where its clients connect. Not used with a registry (membership.kind).
        gateways ("gateways"): Vec<String> = vec!["gw-1=127.0.0.1:7401".to_owned()];
        /// Whether a gateway sends users that belong to another one there, so that all devices of a user meet. A static list is trusted: while a
        /// gateway is down, its users are sent to it all the same.
        redirect ("redirect"): bool = false;
        /// With redirect: how many sessions a second a gateway sends away, on average, that belong to another one since a gateway came, left
        /// or changed its weight. 0: they stay until they go by themselves.
        shed_per_second ("shed_per_second"): u32 = 100;
        /// It begins this long after the change, in milliseconds, or up to half of it earlier: gateways that start together are one change.
        #[serde(with = "milliseconds")]
        shed_after ("shed_after_ms"): Duration = Duration::from_secs(2);
        /// HTTP addresses of logic processes, such as "http://127.0.0.1:7400", from which gateways fetch the keys of login tokens. Whoever
        /// answers there decides who is whom: name them through a network of your own. Empty: gateways accept tokens of the apps' own
        /// keys only.
        logic ("logic"): Vec<String> = Vec::new();
    }
}

impl ClusterConfig {
    /// How sessions are sent to where they belong, if they are.
    pub(crate) fn shed(&self) -> Option<ShedPlan> {
        let per_second = NonZeroU32::new(self.shed_per_second).filter(|_| self.redirect)?;
        Some(ShedPlan { per_second, settle: self.shed_after })
    }

    /// The gateways of the list.
    pub(crate) fn ring(&self) -> Result<Ring, String> {
        let member = |text: &String| {
            let (name, address) = text
                .split_once('=')
                .ok_or_else(|| format!("{text:?} is not of the form \"NAME=HOST:PORT\""))?;
            Ok(Member { name: name.into(), address: address.into(), weight: 1 })
        };
        let members = self.gateways.iter().map(member).collect::<Result<Vec<_>, String>>()?;
        if members.is_empty() {
            return Err("names no gateway; write [\"gw-1=HOST:PORT\"]".to_owned());
        }
        Ring::new(members).map_err(|error| error.to_string())
    }

    /// The logic processes of the list.
    pub(crate) fn logic_addresses(&self) -> Result<Vec<LogicAddress>, String> {
        self.logic.iter().map(|text| LogicAddress::parse(text)).collect()
    }
}

impl Config {
    /// Reads `file` and the environment.
    pub(crate) fn load(file: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(file).with_context(|| {
            let file = file.display();
            format!("cannot read {file}; `roost config print > FILE` writes a complete one")
        })?;
        roost_config::read(&text, variables(), Self::check)
            .map_err(|mistake| anyhow!("{}:{mistake}", file.display()))
    }

    fn check(&self) -> Result<(), (String, String)> {
        self.bus.check().map_err(|e| (format!("bus.{}", e.key), e.problem))?;
        self.membership.check().map_err(|e| (format!("membership.{}", e.key), e.problem))?;
        if !self.membership.is_used() {
            self.cluster.ring().map_err(|problem| ("cluster.gateways".to_owned(), problem))?;
        }
        let shed_after = self.cluster.shed_after;
        if shed_after > SHED_AFTER_MAX {
            let problem = format!("is {}, allowed is 0 to 600000", shed_after.as_millis());
            return Err(("cluster.shed_after_ms".to_owned(), problem));
        }
        let logic = self.cluster.logic_addresses();
        logic.map_err(|problem| ("cluster.logic".to_owned(), problem))?;
        self.routes.check().map_err(|e| (format!("routes.{}", e.key), e.problem))?;
        self.trace.check().map_err(|e| (format!("trace.{}", e.key), e.problem))?;
        self.gateway.check().map_err(|e| (format!("gateway.{}", e.key), e.problem))?;
        self.logic.check().map_err(|e| (format!("logic.{}", e.key), e.problem))
    }
}

/// `ROOST_A__B=value` as (variable, `a.b`, value).
fn variables() -> impl Iterator<Item = (String, String, String)> {
    std::env::vars().filter(|(name, _)| !OTHER_VARIABLES.contains(&name.as_str())).filter_map(
        |(name, value)| {
            let key = name.strip_prefix("ROOST_")?.to_lowercase().replace("__", ".");
            Some((name, key, value))
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_printed_file_is_complete_and_means_the_defaults() {
        let printed = roost_config::commented_toml::<Config>();
        let read = roost_config::read(&printed, std::iter::empty(), Config::check).unwrap();
        assert_eq!(read, Config::default());
        let (printed, defaults): (toml::Table, toml::Table) =
            (printed.parse().unwrap(), toml::Table::try_from(Config::default()).unwrap());
        assert_eq!(printed, defaults, "every key is printed");
    }
}
