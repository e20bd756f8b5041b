//! What the operator's endpoint tells of `roost logic`.
//!
//! Ready means that requests are answered: the database answers, and there is a connection to the broker. Redis is done without.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use roost_bus::BusCounters;
use roost_health::admin::Checks;
use roost_health::{Breaker, Check, Level, breaker};
use roost_trace::Traces;

use crate::metrics::Metrics;
use crate::store::SharedStore;

/// The database has this long to answer.
const DATABASE_TIMEOUT: Duration = Duration::from_secs(1);

/// See the module text.
#[derive(Clone)]
pub struct Report {
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) store: SharedStore,
    pub(crate) breakers: Vec<Arc<Breaker>>,
    pub(crate) bus: Option<Arc<BusCounters>>,
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

    /// With what is remembered of traced messages.
    pub fn tracing(mut self, traces: &Arc<Traces>) -> Self {
        self.traces = Some(Arc::clone(traces));
        self
    }

    async fn database(&self) -> Check {
        // Any read that goes to the database.
        let read = self.store.worker_mark(0);
        let (is_well, text) = match tokio::time::timeout(DATABASE_TIMEOUT, read).await {
            Ok(Ok(_)) => (true, "ok".to_owned()),
            Ok(Err(error)) => (false, error.to_string()),
            Err(_) => (false, format!("no answer in {DATABASE_TIMEOUT:?}")),
        };
        Check::new("database", Level::Missing.or(is_well), text)
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
            let mut checks = vec![self.database().await];
            checks.extend(self.bus.as_deref().map(bus));
            checks.extend(self.breakers.iter().map(|breaker| Check::of_breaker(breaker)));
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
        if let Some(traces) = &self.traces {
            traces.encode(&mut out);
        }
        breaker::encode(self.breakers.iter().map(|breaker| &**breaker), &mut out);
        // A String takes everything.
        _ = writeln!(out, "# EOF");
        out
    }
}
