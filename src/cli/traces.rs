//! The traces of one process: what its tiers record into, and the export that the configuration asks for.

use std::sync::Arc;

use anyhow::Result;
use roost_trace::{TraceConfig, Traces};

/// How a process calls itself.
pub(super) struct Process {
    /// "dev", "gateway" or "logic".
    pub(super) tier: &'static str,
    /// Its name among those of its tier; for spans of a gateway also what its deliveries are addressed to.
    pub(super) name: String,
    /// "in_process" or "rabbitmq".
    pub(super) bus: &'static str,
    /// "sqlite", "mysql", "mariadb" or "postgresql".
    pub(super) database: &'static str,
}

/// The `db.system.name` of a database URL; empty: SQLite.
pub(super) fn database(url: &str) -> &'static str {
    match url.split_once(':').map_or("", |(scheme, _)| scheme) {
        "mysql" => "mysql",
        "mariadb" => "mariadb",
        "postgres" | "postgresql" => "postgresql",
        _ => "sqlite",
    }
}

/// Records and, if configured, exports, until it is stopped.
pub(super) struct Tracing {
    pub(super) traces: Arc<Traces>,
    #[cfg(feature = "otlp")]
    exporter: Option<roost_trace::otlp::Exporter>,
}

impl Tracing {
    #[cfg(feature = "otlp")]
    pub(super) fn start(config: &TraceConfig, process: Process) -> Result<Self> {
        use roost_trace::otlp::{Exporter, Facts};
        let Process { tier, name, bus, database } = process;
        let traces = Traces::new(format!("{tier} {name}"), config);
        let service = match tier {
            "gateway" => "roost-gateway",
            "logic" => "roost-logic",
            _ => "roost",
        };
        let facts = Facts { service, instance: name, bus, database };
        let exporter = (!config.otlp_endpoint.is_empty())
            .then(|| Exporter::start(Arc::clone(&traces), &config.otlp_endpoint, facts))
            .transpose()?;
        Ok(Self { traces, exporter })
    }

    /// The configuration was checked: without the feature there is no endpoint.
    #[cfg(not(feature = "otlp"))]
    pub(super) fn start(config: &TraceConfig, process: Process) -> Result<Self> {
        let Process { tier, name, bus: _, database: _ } = process;
        Ok(Self { traces: Traces::new(format!("{tier} {name}"), config) })
    }

    /// Exports what is left.
    pub(super) fn stop(self) {
        #[cfg(feature = "otlp")]
        if let Some(exporter) = self.exporter {
            exporter.stop();
        }
    }
}
