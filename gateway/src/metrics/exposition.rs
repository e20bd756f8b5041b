//! The counters of a gateway in the Prometheus text format, gathered at each scrape.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use super::process::ProcessUsage;
use super::{ControlCounters, MetricKind, PlainCounter, ShardCounters};
use crate::io::acceptor::AcceptorStatistics;
use crate::shard::inbound::Gate;

/// Everything a scrape reads.
#[derive(Debug, Clone)]
pub struct Sources {
    /// By index of the shard.
    pub shards: Vec<Arc<ShardCounters>>,
    /// Of the control thread.
    pub control: Arc<ControlCounters>,
    /// On its way to logic.
    pub gate: Arc<Gate>,
    /// Of the acceptor.
    pub acceptor: Arc<AcceptorStatistics>,
    /// The kernel driver's name.
    pub driver: &'static str,
}

/// Encodes [`Sources`].
pub struct Exposition(Registry);

impl fmt::Debug for Exposition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Exposition")
    }
}

impl Exposition {
    /// Of these sources.
    pub fn new(sources: Sources) -> Self {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(sources));
        Self(registry)
    }

    /// All metrics as of now, and what `others` append.
    pub fn text(&self, others: impl FnOnce(&mut String)) -> String {
        let mut out = String::with_capacity(16 * 1024);
        // A String takes everything.
        let _ = text::encode_registry(&mut out, &self.0);
        others(&mut out);
        let _ = text::encode_eof(&mut out);
        out
    }
}

impl Collector for Sources {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.encode_shards(&mut encoder)?;
        self.encode_names(&mut encoder)?;
        for plain in self.control.plain() {
            let name = format!("roost_gateway_control_{}", plain.name);
            let metric = encoder.encode_descriptor(&name, plain.help, None, kind(plain.kind))?;
            encode_value(metric, plain)?;
        }
        self.encode_gateway(&mut encoder)?;
        encode_process(&mut encoder)
    }
}

impl Sources {
    /// One series per shard and plain number.
    fn encode_shards(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let shards: Vec<_> = self.shards.iter().map(|shard| shard.plain()).collect();
        let Some(first) = shards.first() else { return Ok(()) };
        for (position, plain) in first.iter().enumerate() {
            let name = format!("roost_gateway_{}", plain.name);
            let mut metric =
                encoder.encode_descriptor(&name, plain.help, None, kind(plain.kind))?;
            for (index, shard) in shards.iter().enumerate() {
                let labels = [("shard", index.to_string())];
                encode_value(metric.encode_family(&labels)?, shard[position])?;
            }
        }
        Ok(())
    }

    /// One series per name, summed over the shards.
    fn encode_names(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let shards = &self.shards;
        let closes = sum(shards, |s| s.closes().map(|(r, n)| (r.as_str(), n)).collect());
        let refusals = sum(shards, |s| s.refusals().map(|(c, n)| (c.as_str(), n)).collect());
        let received = sum(shards, |s| s.frames_received().map(|(k, n)| (k.as_str(), n)).collect());
        let sent = sum(shards, |s| s.frames_sent().map(|(k, n)| (k.as_str(), n)).collect());
        for (name, help, label, values) in [
            ("closes", "Connections that ended, by reason.", "reason", closes),
            ("refusals", "Operations the gateway itself refused, by code.", "code", refusals),
            ("frames_received", "Frames read from clients, by kind.", "kind", received),
            ("frames_sent", "Frames put into outboxes, by kind.", "kind", sent),
        ] {
            let name = format!("roost_gateway_{name}");
            let mut metric = encoder.encode_descriptor(&name, help, None, MetricType::Counter)?;
            for (value_name, value) in values {
                let labels = [(label, value_name)];
                ConstCounter::new(value).encode(metric.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }

    fn encode_gateway(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let acceptor = &self.acceptor;
        for (name, help, is_total, value) in [
            ("inbound_bytes", "Bytes on their way to logic.", false, self.gate.bytes()),
            ("inbound_messages", "Messages on their way to logic.", false, self.gate.messages()),
            ("acceptor_accepted", "Clients accepted.", true, acceptor.accepted()),
            (
                "acceptor_refused_address_limit",
                "Clients refused because their address had too many connections.",
                true,
                acceptor.refused_address_limit(),
            ),
            ("acceptor_errors", "Accepts the kernel refused.", true, acceptor.accept_errors()),
        ] {
            let kind = if is_total { MetricKind::Total } else { MetricKind::Gauge };
            let name = format!("roost_gateway_{name}");
            let metric = encoder.encode_descriptor(&name, help, None, self::kind(kind))?;
            encode_value(metric, PlainCounter { name: "", help, kind, value })?;
        }
        let help = "The kernel driver in use.";
        let mut metric =
            encoder.encode_descriptor("roost_gateway_driver", help, None, MetricType::Gauge)?;
        ConstGauge::new(1i64).encode(metric.encode_family(&[("driver", self.driver)])?)
    }
}

fn encode_process(encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let Some(usage) = ProcessUsage::read() else { return Ok(()) };
    for (name, help, value) in [
        ("process_resident_memory_bytes", "Memory in RAM.", usage.resident_bytes),
        ("process_private_memory_bytes", "Memory in RAM that no file backs.", usage.private_bytes),
    ] {
        let metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX)).encode(metric)?;
    }
    let help = "Processor time used.";
    let metric =
        encoder.encode_descriptor("process_cpu_seconds", help, None, MetricType::Counter)?;
    ConstCounter::new(usage.cpu_s).encode(metric)
}

fn kind(kind: MetricKind) -> MetricType {
    match kind {
        MetricKind::Gauge => MetricType::Gauge,
        MetricKind::Total => MetricType::Counter,
    }
}

fn encode_value(metric: MetricEncoder<'_>, plain: PlainCounter) -> fmt::Result {
    match plain.kind {
        MetricKind::Gauge => {
            ConstGauge::new(i64::try_from(plain.value).unwrap_or(i64::MAX)).encode(metric)
        }
        MetricKind::Total => ConstCounter::new(plain.value).encode(metric),
    }
}

/// Sums what each shard says of the same names, in the same order.
fn sum<N>(
    shards: &[Arc<ShardCounters>],
    of: impl Fn(&ShardCounters) -> Vec<(N, u64)>,
) -> Vec<(N, u64)> {
    let mut shards = shards.iter().map(|shard| of(shard));
    let mut total = shards.next().unwrap_or_default();
    for shard in shards {
        for ((_, sum), (_, more)) in total.iter_mut().zip(shard) {
            *sum += more;
        }
    }
    total
}

#[cfg(test)]
mod tests {
    use roost_protocol::CloseReason;

    use super::*;

    #[test]
    fn the_text_has_every_shard_and_name() {
        let shards: Vec<Arc<ShardCounters>> = (0..2).map(|_| Arc::default()).collect();
        shards[0].connections.add(3);
        shards[1].connections.add(4);
        shards.iter().for_each(|shard| shard.count_close(CloseReason::BadToken));
        let text = Exposition::new(Sources {
            shards,
            control: Arc::default(),
            gate: Gate::new(1 << 20, 100),
            acceptor: Arc::default(),
            driver: "io_uring",
        })
        .text(|_| {});
        for line in [
            "roost_gateway_connections{shard=\"0\"} 3",
            "roost_gateway_connections{shard=\"1\"} 4",
            "roost_gateway_closes_total{reason=\"bad_token\"} 2",
            "roost_gateway_frames_sent_total{kind=\"DELIVER\"} 0",
            "roost_gateway_control_batches_published_total 0",
            "roost_gateway_inbound_messages 0",
            "roost_gateway_driver{driver=\"io_uring\"} 1",
            "# EOF",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}\n{text}");
        }
        assert!(text.contains("process_resident_memory_bytes "));
    }
}
