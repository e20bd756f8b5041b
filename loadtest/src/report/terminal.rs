//! The final table in a terminal.

use std::fmt::Write;

use super::format::{bytes, count, maybe_latency};
use crate::histogram::LatencyHistogram;
use crate::run::Run;

/// Lines of text, ending with the outcome.
#[must_use]
pub fn table(run: &Run) -> String {
    let mut text = String::new();
    let line = |text: &mut String, name: &str, value: String| {
        let _ = writeln!(text, "  {name:<22}{value}");
    };
    let _ = writeln!(text, "\n{}: {}", run.scenario, run.summary);
    line(
        &mut text,
        "connections",
        format!(
            "{} of {} held, {} a second while ramping up",
            count(run.connections_held),
            count(run.connections_wanted),
            count(run.connect_rate as u64)
        ),
    );
    if run.offered > 0 {
        let counts = [
            ("offered", run.offered),
            ("sent", run.sent),
            ("acked", run.acked()),
            ("delivered", run.delivered),
            ("lost", run.lost()),
            ("duplicates", run.duplicates()),
            ("inversions", run.inversions()),
        ];
        let words: Vec<_> =
            counts.iter().map(|(name, n)| format!("{} {name}", count(*n))).collect();
        line(&mut text, "messages", words.join(", "));
    }
    if let Some(server) = run.server {
        line(
            &mut text,
            "server",
            format!(
                "{} resident, {} private, {:.1} s CPU",
                bytes(server.rss_bytes as f64),
                bytes(server.private_bytes as f64),
                server.cpu_s
            ),
        );
    }
    if let Some(slope) = run.bytes_per_connection {
        let value = format!("{slope:.0} bytes private per connection (slope over the levels)");
        line(&mut text, "memory", value);
    }
    latencies(&mut text, run);
    if let Some(verdict) = &run.verdict {
        let _ = writeln!(text, "\n{verdict}");
    }
    for result in &run.slo {
        let word = if result.is_met { "met   " } else { "MISSED" };
        let measured = result.measured.map_or("not measured".to_owned(), |m| m.to_string());
        let _ = writeln!(text, "slo {word} {} = {measured} ({})", result.metric, result.limit);
    }
    let _ = writeln!(text, "\nresult: {}", run.outcome().word());
    for reason in run.reasons() {
        let _ = writeln!(text, "  {reason}");
    }
    for note in &run.notes {
        let _ = writeln!(text, "  note: {note}");
    }
    text
}

fn latencies(text: &mut String, run: &Run) {
    let rows: [(&str, &LatencyHistogram); 7] = [
        ("connect", &run.connect),
        ("idle, lost to back", &run.idle_back),
        ("ack, intended", &run.ack.from_intended),
        ("ack, sent", &run.ack.from_sent),
        ("delivery, intended", &run.delivery.from_intended),
        ("delivery, sent", &run.delivery.from_sent),
        ("generator lag", &run.generator_lag),
    ];
    if rows.iter().all(|(_, histogram)| histogram.count() == 0) {
        return;
    }
    let _ = write!(text, "\n  {:<22}", "latency");
    for (name, _) in LatencyHistogram::default().percentiles().named() {
        let _ = write!(text, "{name:>10}");
    }
    let _ = writeln!(text, "{:>12}", "samples");
    for (name, histogram) in rows.iter().filter(|(_, histogram)| histogram.count() > 0) {
        let _ = write!(text, "  {name:<22}");
        for (_, value) in histogram.percentiles().named() {
            let _ = write!(text, "{:>10}", maybe_latency(value));
        }
        let _ = writeln!(text, "{:>12}", count(histogram.count()));
    }
}
