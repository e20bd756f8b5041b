//! The HTML form: one file without any reference to another, readable in light and dark.

use std::fmt::Write;

use super::format::{bytes, count, escape, latency, maybe_latency};
use super::plot::{Axis, Scale, Series, figure, wide_figure};
use crate::checker::Check;
use crate::histogram::{Latency, LatencyHistogram, SecondLatency};
use crate::run::{Outcome, Run};

const STYLE: &str = include_str!("html/style.css");
/// More points than this on a time axis are joined, keeping the worst.
const POINTS_MAX: usize = 300;

/// The whole page.
#[must_use]
pub fn page(run: &Run) -> String {
    let title = format!("roost-load {}", run.scenario);
    let mut body = String::new();
    verdict_box(&mut body, run);
    tiles(&mut body, run);
    body.push_str("<section class=\"plots\">");
    body.push_str(&percentile_curve(run));
    body.push_str(&latency_over_time("Acknowledgement latency over time", &run.ack));
    body.push_str(&latency_over_time("Delivery latency over time", &run.delivery));
    body.push_str(&connections_over_time(run));
    body.push_str(&memory_over_time(run));
    body.push_str("</section>");
    latency_table(&mut body, run);
    slo_table(&mut body, run);
    checker_table(&mut body, run);
    fingerprint(&mut body, run);
    format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <meta name=\"color-scheme\" content=\"light dark\"><title>{title}</title>\
         <style>{STYLE}</style></head><body><main>{body}</main></body></html>\n"
    )
}

fn verdict_box(body: &mut String, run: &Run) {
    let (class, word) = match run.outcome() {
        Outcome::Good => ("good", "Good"),
        Outcome::Failed => ("bad", "Failed"),
        Outcome::Void => ("void", "Void"),
    };
    let _ = write!(
        body,
        "<header><p class=\"kind\">roost-load {}</p><div class=\"verdict {class}\"><h1>{word}</h1>\
         <p>{}</p>",
        escape(run.scenario),
        escape(&run.summary)
    );
    let reasons = run.reasons();
    if !reasons.is_empty() {
        let items: Vec<_> = reasons.iter().map(|r| format!("<li>{}</li>", escape(r))).collect();
        let _ = write!(body, "<ul>{}</ul>", items.concat());
    }
    for note in &run.notes {
        let _ = write!(body, "<p>Note: {}</p>", escape(note));
    }
    body.push_str("</div></header>");
}

fn tiles(body: &mut String, run: &Run) {
    let mut tiles = vec![
        ("connections held", count(run.connections_held)),
        ("logins a second", count(run.connect_rate as u64)),
    ];
    if run.offered > 0 {
        let ack = run.ack.from_intended.percentiles();
        let delivery = run.delivery.from_intended.percentiles();
        tiles.push(("acknowledged", count(run.acked())));
        tiles.push(("ack p99", maybe_latency(ack.p99)));
        tiles.push(("delivery p99", maybe_latency(delivery.p99)));
        let broken = run.lost() + run.duplicates() + run.inversions();
        tiles.push(("lost, doubled, inverted", count(broken)));
    }
    if let Some(server) = run.server {
        tiles.push(("server memory", bytes(server.rss_bytes as f64)));
        tiles.push(("server CPU", format!("{:.1} s", server.cpu_s)));
    }
    if let Some(slope) = run.bytes_per_connection {
        tiles.push(("private bytes each", format!("{slope:.0}")));
    }
    let cells = tiles.iter().map(|(name, value)| {
        format!("<div><span>{}</span><b>{}</b></div>", escape(name), escape(value))
    });
    let _ = write!(body, "<section class=\"tiles\">{}</section>", cells.collect::<String>());
}

fn micros(us: f64) -> String {
    latency(us as u64)
}

/// Ticks are round, so they need no digits after the point.
fn micros_tick(us: f64) -> String {
    latency(us as u64).replace(".00 ", " ").replace(".0 ", " ")
}

fn percentile_curve(run: &Run) -> String {
    const NAMES: [(f64, &str); 6] = [
        (1.0, "p0"),
        (10.0, "p90"),
        (100.0, "p99"),
        (1e3, "p99.9"),
        (1e4, "p99.99"),
        (1e5, "p99.999"),
    ];
    let curves: [(&str, &str, &LatencyHistogram); 3] = [
        ("acknowledged", "s1", &run.ack.from_intended),
        ("delivered", "s2", &run.delivery.from_intended),
        ("generator lag", "s3", &run.generator_lag),
    ];
    let series: Vec<Series> = curves
        .iter()
        .filter(|(_, _, histogram)| histogram.count() > 0)
        .map(|(name, class, histogram)| Series {
            name,
            class,
            points: histogram
                .curve()
                .iter()
                .map(|(quantile, us)| (1.0 / (1.0 - quantile), *us as f64))
                .collect(),
            lower: None,
            hint: |beyond, us| format!("p{:.4}: {}", 100.0 - 100.0 / beyond, micros(us)),
        })
        .filter(|series| !series.points.is_empty())
        .collect();
    let points = || series.iter().flat_map(|s| &s.points);
    let Some(range) = range(points().map(|p| p.1)) else { return String::new() };
    let end = points().map(|p| p.0).fold(10.0, f64::max);
    let x = Axis {
        scale: Scale::Logarithmic,
        min: 1.0,
        max: end,
        ticks: NAMES
            .iter()
            .filter(|(at, _)| *at <= end)
            .map(|(at, name)| (*at, (*name).to_owned()))
            .collect(),
        title: "percentile",
    };
    let y = Axis::logarithmic(range, "from intended send time", micros_tick);
    wide_figure("Latency by percentile", &x, &y, &series)
}

fn range(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    values.fold(None, |range, value| {
        let (low, high) = range.unwrap_or((value, value));
        Some((value.min(low), value.max(high)))
    })
}

fn latency_over_time(title: &str, latency: &Latency) -> String {
    let seconds = latency.by_second();
    let joined: Vec<SecondLatency> = seconds
        .chunks(seconds.len().div_ceil(POINTS_MAX).max(1))
        .filter_map(|group| group.iter().copied().max_by_key(|s| s.p99))
        .collect();
    let line = |value: fn(&SecondLatency) -> u64| -> Vec<(f64, f64)> {
        joined.iter().map(|s| (s.second as f64, value(s) as f64)).collect()
    };
    let (p50, p99, max) = (line(|s| s.p50), line(|s| s.p99), line(|s| s.max));
    let Some(range) = range(p50.iter().chain(&max).map(|p| p.1)) else { return String::new() };
    let end = joined.last().map_or(1.0, |s| s.second as f64);
    let x = Axis::linear(end, "seconds", |s| format!("{s}"));
    let y = Axis::logarithmic(range, "from intended send time", micros_tick);
    let hint = |at: f64, us: f64| format!("{at} s: {}", micros(us));
    let series = [
        Series { name: "max", class: "s3", points: max, lower: Some(p99.clone()), hint },
        Series { name: "p99", class: "s2", points: p99, lower: Some(p50.clone()), hint },
        Series { name: "p50", class: "s1", points: p50, lower: None, hint },
    ];
    figure(title, &x, &y, &series)
}

fn timeline(run: &Run, value: impl Fn(&crate::run::Second) -> Option<f64>) -> Vec<(f64, f64)> {
    let every = run.timeline.len().div_ceil(POINTS_MAX).max(1);
    let last = run.timeline.len().saturating_sub(1);
    run.timeline
        .iter()
        .enumerate()
        .filter(|(at, _)| at % every == 0 || *at == last)
        .filter_map(|(_, second)| Some((second.at_s, value(second)?)))
        .collect()
}

fn time_axis(points: &[(f64, f64)]) -> Axis {
    let end = points.last().map_or(1.0, |p| p.0);
    Axis::linear(end, "seconds", |s| format!("{s}"))
}

fn connections_over_time(run: &Run) -> String {
    let points = timeline(run, |second| Some(second.connections as f64));
    if points.len() < 2 {
        return String::new();
    }
    let max = points.iter().map(|p| p.1).fold(0.0, f64::max);
    let x = time_axis(&points);
    let y = Axis::linear(max, "connections", |n| count(n as u64));
    let hint = |at: f64, n: f64| format!("{at:.0} s: {}", count(n as u64));
    let series = Series { name: "logged in", class: "s1", points, lower: None, hint };
    figure("Connections over time", &x, &y, &[series])
}

fn memory_over_time(run: &Run) -> String {
    let resident = timeline(run, |second| second.server.map(|s| s.rss_bytes as f64));
    let private = timeline(run, |second| second.server.map(|s| s.private_bytes as f64));
    if resident.len() < 2 {
        return String::new();
    }
    const MIB: f64 = 1024.0 * 1024.0;
    let to_mib = |points: Vec<(f64, f64)>| -> Vec<(f64, f64)> {
        points.into_iter().map(|(at, n)| (at, n / MIB)).collect()
    };
    let (resident, private) = (to_mib(resident), to_mib(private));
    let max = resident.iter().map(|p| p.1).fold(0.0, f64::max);
    let x = time_axis(&resident);
    let y = Axis::linear(max, "server memory", |mib| bytes(mib * MIB).replace(".0 ", " "));
    let hint = |at: f64, mib: f64| format!("{at:.0} s: {}", bytes(mib * MIB));
    let series = [
        Series { name: "resident", class: "s2", points: resident, lower: None, hint },
        Series { name: "private", class: "s1", points: private, lower: None, hint },
    ];
    figure("Server memory over time", &x, &y, &series)
}

fn latency_table(body: &mut String, run: &Run) {
    let rows: [(&str, &LatencyHistogram); 6] = [
        ("acknowledgement, from intended", &run.ack.from_intended),
        ("acknowledgement, from sent", &run.ack.from_sent),
        ("delivery, from intended", &run.delivery.from_intended),
        ("delivery, from sent", &run.delivery.from_sent),
        ("generator lag", &run.generator_lag),
        ("connect and log in", &run.connect),
    ];
    if rows.iter().all(|(_, histogram)| histogram.count() == 0) {
        return;
    }
    body.push_str("<section><h2>Latency</h2><div class=\"wide\"><table><tr><th></th>");
    for (name, _) in run.generator_lag.percentiles().named() {
        let _ = write!(body, "<th class=\"n\">{name}</th>");
    }
    body.push_str("<th class=\"n\">samples</th></tr>");
    for (name, histogram) in rows.iter().filter(|(_, histogram)| histogram.count() > 0) {
        let _ = write!(body, "<tr><td>{name}</td>");
        for (_, value) in histogram.percentiles().named() {
            let _ = write!(body, "<td class=\"n\">{}</td>", maybe_latency(value));
        }
        let _ = write!(body, "<td class=\"n\">{}</td></tr>", count(histogram.count()));
    }
    body.push_str(
        "</table></div><p class=\"note\">A percentile stands here only when at least 100 samples \
         lie beyond it.</p></section>",
    );
}

fn slo_table(body: &mut String, run: &Run) {
    if run.slo.is_empty() {
        return;
    }
    body.push_str("<section><h2>Thresholds</h2><div class=\"wide\"><table>");
    body.push_str(
        "<tr><th>metric</th><th class=\"n\">measured</th><th class=\"n\">limit</th><th></th></tr>",
    );
    for result in &run.slo {
        let measured = result.measured.map_or("too few samples".to_owned(), figure_of);
        let (class, word) = if result.is_met { ("good", "met") } else { ("bad", "missed") };
        let _ = write!(
            body,
            "<tr><td>{}</td><td class=\"n\">{measured}</td><td class=\"n\">{}</td>\
             <td><span class=\"badge {class}\">{word}</span></td></tr>",
            escape(&result.metric),
            figure_of(result.limit)
        );
    }
    body.push_str("</table></div></section>");
}

fn figure_of(number: f64) -> String {
    if number.fract() == 0.0 { count(number as u64) } else { format!("{number:.2}") }
}

fn checker_table(body: &mut String, run: &Run) {
    let Some(verdict) = &run.verdict else { return };
    let _ = write!(
        body,
        "<section><h2>Promises</h2><p class=\"note\">Judged from {} recorded events.</p>\
         <div class=\"wide\"><table>",
        count(verdict.counts.events)
    );
    for check in Check::ALL {
        let broken = verdict.count_of(check);
        let (class, word) = if broken > 0 {
            ("bad", format!("broken {} times", count(broken)))
        } else if verdict.unjudged.contains(&check) {
            ("none", "nothing to judge".to_owned())
        } else {
            ("good", "kept".to_owned())
        };
        let _ = write!(
            body,
            "<tr><td>{check:?}</td><td>{}</td>\
             <td><span class=\"badge {class}\">{word}</span></td></tr>",
            check.promise()
        );
    }
    body.push_str("</table></div>");
    for violation in &verdict.violations {
        let _ = write!(body, "<h3>{:?} {}</h3><ul class=\"examples\">", violation.check, {
            violation.name
        });
        for e in &violation.examples {
            let _ = write!(
                body,
                "<li><code>{} seq {}</code> {}: {} <code>{}</code></li>",
                escape(&e.conversation),
                e.seq,
                escape(&e.who),
                escape(&e.what),
                escape(&e.message)
            );
        }
        body.push_str("</ul>");
    }
    body.push_str("</section>");
}

fn fingerprint(body: &mut String, run: &Run) {
    let env = &run.environment;
    let machine = format!("{} × {}, {} MB", env.cores, env.cpu, env.memory_mb);
    let rows = [
        ("command", env.command.clone()),
        ("commit", format!("{} ({} build)", env.commit, env.build)),
        ("kernel", env.kernel.clone()),
        ("driver", env.driver.clone()),
        ("machine", machine),
    ];
    let sysctls = env.sysctls.iter().map(|(name, value)| (name.as_str(), value.clone()));
    body.push_str("<section><h2>Fingerprint</h2><div class=\"wide\"><table class=\"prints\">");
    for (name, value) in rows.into_iter().chain(sysctls) {
        let _ = write!(
            body,
            "<tr><td>{}</td><td><code>{}</code></td></tr>",
            escape(name),
            escape(&value)
        );
    }
    body.push_str("</table></div></section>");
}
