//! What the operator's endpoint tells of `roost logic`.
//!
//! Ready means that requests are answered: the database answers, or one of several, and there is a connection to the broker. Redis and the
//! registry of gateways are done without.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use roost_bus::BusCounters;
use roost_health::admin::Checks;
use roost_health::{Breaker, Check, Level, breaker};
use roost_membership::RegistryStatus;
use roost_trace::Traces;

use crate::metrics::Metrics;
use crate::store::{SharedStore, StoreError};

/// The database has this long to answer.
const DATABASE_TIMEOUT: Duration = Duration::from_secs(1);

/// See the module text.
#[derive(Clone)]
pub struct Report {
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) store: SharedStore,
    pub(crate) breakers: Vec<Arc<Breaker>>,
    pub(crate) bus: Option<Arc<BusCounters>>,
    pub(crate) registry: Option<Arc<RegistryStatus>>,
    pub(crate) traces: Option<Arc<Traces>>,
}

impl std::fmt::Debug for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Report").field("breakers", &self.breakers).finish_non_exhaustive()
    }
}

impl Report {
    /// With the bus of this process and what else stands before something that may be away.
    pub fn with(mut self, bus: Arc<BusCounters>, breakers: Vec<Arc<Breaker>>) -> Self {
        self.bus = Some(bus);
        self.breakers.extend(breakers);
        self
    }

    /// With the registry that says which gateways there are, if one does.
    pub fn following(mut self, registry: Option<Arc<RegistryStatus>>) -> Self {
        self.registry = registry;
        self
    }

    /// With what is remembered of traced messages.
    pub fn tracing(mut self, traces: &Arc<Traces>) -> Self {
        self.traces = Some(Arc::clone(traces));
        self
    }

    /// Of several databases, those that are there are used without the others.
    async fn databases(&self) -> Vec<Check> {
        let health = self.store.health(DATABASE_TIMEOUT).await;
        let is_any_well = health.iter().any(|(_, well)| well.is_ok());
        let level = if is_any_well { Level::Degraded } else { Level::Missing };
        let check = |(name, well): (String, Result<(), StoreError>)| {
            let text = well.as_ref().map_or_else(ToString::to_string, |()| "ok".to_owned());
            let text = if name.is_empty() { text } else { format!("{name}: {text}") };
            Check::new("database", level.or(well.is_ok()), text)
        };
        health.into_iter().map(check).collect()
    }
}

fn bus(counters: &BusCounters) -> Check {
    let (level, text) = match (counters.connected.get(), counters.blocked.get()) {
        (0, _) => (Level::Missing, "no connection to the broker"),
        (_, 0) => (Level::Well, "ok"),
        (_, _) => (Level::Missing, "the broker takes nothing: it lacks memory or disk"),
    };
    Check::new("bus", level, text)
}

impl roost_health::Report for Report {
    fn checks(&self) -> Checks<'_> {
        Box::pin(async {
            let mut checks = self.databases().await;
            checks.extend(self.bus.as_deref().map(bus));
            checks.extend(self.breakers.iter().map(|breaker| Check::of_breaker(breaker)));
            checks.extend(self.registry.as_deref().map(RegistryStatus::check));
            checks
        })
    }

    fn facts(&self) -> Vec<(&'static str, String)> {
        let Some(bus) = &self.bus else { return Vec::new() };
        vec![
            ("partitions consumed here", bus.partitions_held.get().to_string()),
            ("bodies waiting here", bus.waiting.get().to_string()),
        ]
    }

    fn metrics(&self) -> String {
        let mut out = String::with_capacity(16 * 1024);
        self.metrics.encode(&mut out);
        if let Some(bus) = &self.bus {
            bus.encode(&mut out);
        }
        if let Some(registry) = &self.registry {
            registry.encode(&mut out);
        }
        if let Some(traces) = &self.traces {
            traces.encode(&mut out);
        }
        breaker::encode(self.breakers.iter().map(|breaker| &**breaker), &mut out);
        // A String takes everything.
        _ = writeln!(out, "# EOF");
        out
    }
}
