//! Export of passages as spans, to a collector that speaks OTLP over HTTP (protobuf).
//!
//! The exporter is one more reader of the rings, on a thread of its own: nobody who records knows of it or waits for it. The rings
//! are its bounded queue. What was overwritten before it came by, and what the collector did not take in time, is dropped and counted.

mod span;

use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SpanData, SpanExporter as _};
use tokio::sync::watch;

use crate::Traces;

/// How often the rings are read.
const INTERVAL: Duration = Duration::from_millis(500);
/// Passages of one request.
const BATCH_PASSAGES: usize = 512;
/// A request and its repeats have this long.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(3);
/// The last request of a process that ends has this long.
const LAST_WITHIN: Duration = Duration::from_secs(1);

/// What stands beside every span of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// `service.name`.
    pub service: &'static str,
    /// `service.instance.id`: the name of the gateway or logic process.
    pub instance: String,
    /// `messaging.system`.
    pub bus: &'static str,
    /// `db.system.name`.
    pub database: &'static str,
}

/// Why nothing can be exported.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The endpoint is no URL, or the client cannot be made.
    #[error("trace.otlp_endpoint cannot be used: {0}")]
    Endpoint(String),
    /// No thread.
    #[error("the thread that exports traces cannot start: {0}")]
    Thread(#[from] std::io::Error),
}

/// Exports until it is stopped.
#[derive(Debug)]
pub struct Exporter {
    stop: watch::Sender<bool>,
    ended: mpsc::Receiver<()>,
}

impl Exporter {
    /// Starts the thread.
    ///
    /// # Errors
    /// See [`ExportError`]. A collector that is away is none: it may come.
    pub fn start(traces: Arc<Traces>, endpoint: &str, facts: Facts) -> Result<Self, ExportError> {
        let (stop, stopped) = watch::channel(false);
        let (end, ended) = mpsc::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let work = Work::new(traces, endpoint, facts)?;
        thread::Builder::new().name("roost-otlp".to_owned()).spawn(move || {
            runtime.block_on(work.run(stopped));
            _ = end.send(());
        })?;
        Ok(Self { stop, ended })
    }

    /// Exports what is there and ends, within a second.
    pub fn stop(self) {
        self.stop.send_replace(true);
        _ = self.ended.recv_timeout(LAST_WITHIN);
    }
}

struct Work {
    traces: Arc<Traces>,
    facts: Facts,
    exporter: SpanExporter,
    /// Of each ring, in the order of the rings.
    cursors: Vec<u64>,
    is_failing: bool,
}

impl Work {
    fn new(traces: Arc<Traces>, endpoint: &str, facts: Facts) -> Result<Self, ExportError> {
        let unusable = |error: &dyn std::fmt::Display| ExportError::Endpoint(error.to_string());
        let client = reqwest::Client::builder().timeout(EXPORT_TIMEOUT).no_proxy().build();
        let mut exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(client.map_err(|error| unusable(&error))?)
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(endpoint)
            .with_timeout(EXPORT_TIMEOUT)
            .build()
            .map_err(|error| unusable(&error))?;
        exporter.set_resource(&resource(&facts));
        Ok(Self { traces, facts, exporter, cursors: Vec::new(), is_failing: false })
    }

    async fn run(mut self, mut stopped: watch::Receiver<bool>) {
        let mut ticks = tokio::time::interval(INTERVAL);
        while !*stopped.borrow() {
            tokio::select! {
                _ = ticks.tick() => {}
                _ = stopped.changed() => {}
            }
            self.export_all().await;
        }
    }

    /// All that is in the rings; gives up at the first request that fails, what is left may be taken the next time.
    async fn export_all(&mut self) {
        let rings = self.traces.rings();
        self.cursors.resize(rings.len(), 0);
        let mut passages = Vec::with_capacity(BATCH_PASSAGES);
        for (ring, cursor) in rings.iter().zip(&mut self.cursors) {
            loop {
                let room = BATCH_PASSAGES - passages.len();
                let lost = ring.take(cursor, room, &mut passages);
                self.traces.counters.overwritten.fetch_add(lost, Ordering::Relaxed);
                if passages.len() < BATCH_PASSAGES {
                    break;
                }
                let spans = spans(&mut passages, &self.facts);
                if !export(&self.traces, &self.exporter, spans, &mut self.is_failing).await {
                    return;
                }
            }
        }
        let spans = spans(&mut passages, &self.facts);
        export(&self.traces, &self.exporter, spans, &mut self.is_failing).await;
    }
}

fn spans(passages: &mut Vec<crate::Passage>, facts: &Facts) -> Vec<SpanData> {
    passages.drain(..).filter_map(|passage| span::of_passage(&passage, facts)).collect()
}

async fn export(
    traces: &Traces,
    exporter: &SpanExporter,
    spans: Vec<SpanData>,
    is_failing: &mut bool,
) -> bool {
    if spans.is_empty() {
        return true;
    }
    let count = spans.len() as u64;
    let error = exporter.export(spans).await.err();
    match &error {
        None => {
            traces.counters.exported.fetch_add(count, Ordering::Relaxed);
            if std::mem::take(is_failing) {
                tracing::info!("the collector takes traces again");
            }
        }
        Some(error) => {
            traces.counters.failed.fetch_add(count, Ordering::Relaxed);
            if !std::mem::replace(is_failing, true) {
                tracing::warn!(%error, "the collector takes no traces: they are dropped and counted until it does");
            }
        }
    }
    error.is_none()
}

fn resource(facts: &Facts) -> Resource {
    Resource::builder_empty()
        .with_attributes([
            KeyValue::new("service.namespace", "roost"),
            KeyValue::new("service.name", facts.service),
            KeyValue::new("service.instance.id", facts.instance.clone()),
            KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
        ])
        .build()
}
