//! Configuration: one TOML file for both tiers, overridden by environment variables, checked before anything starts.
//!
//! `ROOST_GATEWAY__LIMITS__CONNECTIONS_MAX=1000` overrides `connections_max` of `[gateway.limits]`: `ROOST_`, then the path in
//! capitals with `__` between its parts.

use std::path::Path;

use anyhow::{Context as _, Result, anyhow};
use roost_config::documented;
use roost_gateway::config::GatewayConfig;
use roost_logic::config::LogicConfig;
use roost_protocol::topology::{PARTITIONS_DEFAULT, PARTITIONS_MAX};

/// Environment variables with the prefix that are not configuration keys.
const OTHER_VARIABLES: [&str; 3] = ["ROOST_LOG_FORMAT", "ROOST_KEY_SECRET", "ROOST_API_KEY"];

documented! {
    /// The whole configuration.
    pub struct Config {
        @tables {
            /// What connects the two tiers.
            bus ("bus"): BusConfig;
            /// The gateway tier: connections.
            gateway ("gateway"): GatewayConfig;
            /// The logic tier: messages, accounts, the HTTP API.
            logic ("logic"): LogicConfig;
        }
    }
}

documented! {
    /// What connects the two tiers.
    pub struct BusConfig {
        /// Ordered shares of the conversations, handled side by side by logic workers. Fixed for the life of a cluster.
        partitions ("partitions"): u16 = PARTITIONS_DEFAULT;
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
        if !(1..=PARTITIONS_MAX).contains(&self.bus.partitions) {
            let what = format!("is {}, allowed is 1 to {PARTITIONS_MAX}", self.bus.partitions);
            return Err(("bus.partitions".to_owned(), what));
        }
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
