//! The JSON form: fixed fields that other tools rely on. A percentile with too few samples beyond
//! it is null. What has no fixed field stands in `environment`.

use serde_json::{Value, json};

use crate::histogram::{LatencyHistogram, Percentiles};
use crate::run::Run;

/// One object.
#[must_use]
pub fn document(run: &Run) -> Value {
    let of = |histogram: &LatencyHistogram| json!(histogram.percentiles());
    json!({
        "scenario": run.scenario,
        "connections_held": run.connections_held,
        "connect_rate": run.connect_rate,
        "offered": run.offered,
        "sent": run.sent,
        "acked": run.acked(),
        "delivered": run.delivered,
        "lost": run.lost(),
        "duplicates": run.duplicates(),
        "inversions": run.inversions(),
        "ack_us": of(&run.ack.from_intended),
        "delivery_us": of(&run.delivery.from_intended),
        "generator_lag_us": of(&run.generator_lag),
        "server": {
            "rss_bytes": run.server.map(|s| s.rss_bytes),
            "cpu_s": run.server.map(|s| s.cpu_s),
        },
        "environment": environment(run),
    })
}

fn environment(run: &Run) -> Value {
    let env = &run.environment;
    let sysctls: serde_json::Map<String, Value> =
        env.sysctls.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
    let beside = |p: Percentiles| json!(p);
    json!({
        "commit": env.commit,
        "build": env.build,
        "kernel": env.kernel,
        "driver": env.driver,
        "cpu": env.cpu,
        "cores": env.cores,
        "memory_mb": env.memory_mb,
        "sysctls": sysctls,
        "command": env.command,
        "run": run.summary,
        "connections_wanted": run.connections_wanted,
        "connect_us": beside(run.connect.percentiles()),
        "idle_lost": run.idle_lost,
        "idle_back_us": beside(run.idle_back.percentiles()),
        "ack_from_sent_us": beside(run.ack.from_sent.percentiles()),
        "delivery_from_sent_us": beside(run.delivery.from_sent.percentiles()),
        "server_private_bytes": run.server.map(|s| s.private_bytes),
        "private_bytes_per_connection": run.bytes_per_connection,
        "outcome": run.outcome().word(),
        "reasons": run.reasons(),
        "notes": run.notes,
        "slo": run.slo,
        "checker": run.verdict,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn has_exactly_the_fixed_fields() {
        let document = document(&Run { scenario: "idle", ..Run::default() });
        let mut fields: Vec<_> = document.as_object().unwrap().keys().cloned().collect();
        fields.sort();
        assert_eq!(
            fields,
            [
                "ack_us",
                "acked",
                "connect_rate",
                "connections_held",
                "delivered",
                "delivery_us",
                "duplicates",
                "environment",
                "generator_lag_us",
                "inversions",
                "lost",
                "offered",
                "scenario",
                "sent",
                "server"
            ]
        );
        let percentiles = document["ack_us"].as_object().unwrap();
        let names: Vec<_> = percentiles.keys().map(String::as_str).collect();
        assert_eq!(names.len(), 6);
        assert!(percentiles.values().all(Value::is_null));
    }
}
