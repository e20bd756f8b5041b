//! Which gateways there are, for one process of a tier: by the list in its configuration, or by a registry.

use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use arc_swap::ArcSwap;
use roost_gateway::gateway::ReportMembership;
use roost_membership::{Member, Registry, RegistryKind, RegistryStatus, RingWatch};

use crate::config::Config;

/// See the module text.
pub(super) enum Members {
    /// The same for as long as the process runs.
    Listed(RingWatch),
    /// Followed; a gateway is in it, too.
    Registered(Registry),
}

impl Members {
    /// For a gateway: it has its name when this returns, and no users until [`Members::open`].
    pub(super) fn join(config: &Config) -> Result<Self> {
        let (name, membership) = (&config.gateway.name, &config.membership);
        if !membership.is_used() {
            let ring = Self::listed(config)?;
            if ring.load().member(name).is_none() {
                bail!(
                    "gateway.name is {name:?}, but cluster.gateways does not list it: nothing would be delivered here. Add it, or correct the name"
                );
            }
            return Ok(Self::Listed(ring));
        }
        if membership.address.is_empty() {
            bail!(
                "membership.address is empty: write \"HOST:PORT\" where clients of this gateway connect"
            );
        }
        let (name, address) = (name.as_str().into(), membership.address.as_str().into());
        let member = Member { name, address, weight: membership.weight };
        let registry = Registry::join(membership, member).with_context(|| unusable(config))?;
        Ok(Self::Registered(registry))
    }

    /// For logic.
    pub(super) fn follow(config: &Config) -> Result<Self> {
        if !config.membership.is_used() {
            return Ok(Self::Listed(Self::listed(config)?));
        }
        let registry = Registry::follow(&config.membership).with_context(|| unusable(config))?;
        Ok(Self::Registered(registry))
    }

    fn listed(config: &Config) -> Result<RingWatch> {
        let ring = config.cluster.ring().map_err(anyhow::Error::msg)?;
        Ok(RingWatch::fixed(Arc::new(ArcSwap::from_pointee(ring))))
    }

    pub(super) fn ring(&self) -> &RingWatch {
        match self {
            Self::Listed(ring) => ring,
            Self::Registered(registry) => registry.ring(),
        }
    }

    /// How the registry is, when there is one.
    pub(super) fn status(&self) -> Option<Arc<RegistryStatus>> {
        match self {
            Self::Listed(_) => None,
            Self::Registered(registry) => Some(Arc::clone(registry.status())),
        }
    }

    /// For /readyz.
    pub(super) fn report(&self) -> ReportMembership {
        match self {
            Self::Listed(ring) => {
                let ring = ring.clone();
                ReportMembership(Box::new(move || ring.check(RegistryKind::Static)))
            }
            Self::Registered(registry) => {
                let status = Arc::clone(registry.status());
                ReportMembership(Box::new(move || status.check()))
            }
        }
    }

    /// Users belong to this gateway from now on.
    pub(super) fn open(&self) {
        if let Self::Registered(registry) = self {
            registry.open();
        }
    }

    /// No user belongs to this gateway any more; it still gets deliveries.
    pub(super) fn close(&self) {
        if let Self::Registered(registry) = self {
            registry.close();
        }
    }

    /// It is no member any more.
    pub(super) fn leave(self) {
        if let Self::Registered(registry) = self {
            registry.leave();
        }
    }
}

fn unusable(config: &Config) -> String {
    let kind = config.membership.kind.name();
    format!("{kind} cannot be used for membership, at {}", config.membership.endpoints.join(", "))
}
