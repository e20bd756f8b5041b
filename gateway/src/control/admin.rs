//! What the operator's endpoint tells of a gateway.
//!
//! Ready means a new client is welcome: not draining, the bus confirms, login tokens can be checked, there is a free place, and no other
//! gateway has this one's name.

use std::sync::Arc;

use roost_health::admin::Checks;
use roost_health::{Check, Level, Report};

use crate::gateway::Status;
use crate::io::acceptor::AcceptPause;
use crate::metrics::exposition::Exposition;

/// What is read.
#[derive(Debug)]
pub(crate) struct AdminState {
    pub(crate) status: Arc<Status>,
    pub(crate) exposition: Exposition,
}

impl Report for AdminState {
    fn checks(&self) -> Checks<'_> {
        Box::pin(std::future::ready(checks(&self.status)))
    }

    fn facts(&self) -> Vec<(&'static str, String)> {
        let status = &self.status;
        let sum = |of: fn(&crate::metrics::ShardCounters) -> u64| -> String {
            status.shards.iter().map(|shard| of(shard)).sum::<u64>().to_string()
        };
        vec![
            ("driver", status.driver_reason.clone()),
            ("shards", status.shards.len().to_string()),
            ("connections", sum(|s| s.connections.get())),
            ("sessions", sum(|s| s.sessions.get())),
            ("room for connections", status.capacity.to_string()),
        ]
    }

    fn metrics(&self) -> String {
        self.exposition.text(|out| self.status.append_metrics(out))
    }
}

fn checks(status: &Status) -> Vec<Check> {
    let control = &status.control;
    let bus_is_well = control.bus_failing.get() == 0 && control.consumer_open.get() == 1;
    let pause = status.acceptor.pause();
    let missing = |is_well| Level::Missing.or(is_well);
    let bus = if bus_is_well { "ok" } else { "does not confirm or deliver" };
    let draining = if status.is_draining() { "yes" } else { "no" };
    let mut checks = vec![
        Check::new("draining", missing(!status.is_draining()), draining),
        Check::new("bus", missing(bus_is_well), bus),
        Check::new("accepting", missing(pause == AcceptPause::None), pause_text(pause)),
    ];
    checks.extend(status.membership());
    if status.uses_login_keys {
        checks.push(login_keys(status));
    }
    if status.uses_routes {
        let is_complete = control.routes_complete.get() == 1;
        let text = if is_complete { "ok" } else { "not all in Redis: every delivery comes here" };
        checks.push(Check::new("routes", Level::Degraded.or(is_complete), text));
    }
    checks
}

/// Keys that logic published once go on counting while it is away.
fn login_keys(status: &Status) -> Check {
    let control = &status.control;
    let (level, text) = match control.login_keys.get() {
        0 => (Level::Missing, "none yet: no process of cluster.logic tells them".to_owned()),
        count if control.login_keys_complete.get() == 1 => (Level::Well, count.to_string()),
        count => {
            let text = format!("{count}; some process of cluster.logic does not answer now");
            (Level::Degraded, text)
        }
    };
    Check::new("login keys", level, text)
}

fn pause_text(pause: AcceptPause) -> &'static str {
    match pause {
        AcceptPause::None => "yes",
        AcceptPause::ShardsFull => {
            "no, every place is taken: raise limits.connections_max or RLIMIT_NOFILE, or add a gateway"
        }
        AcceptPause::ResourceShortage => "no, the kernel has no descriptor or memory left",
        AcceptPause::Stopped => "no, stopped",
    }
}
