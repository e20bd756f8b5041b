//! Proves that every outcome has a readable report: the page is one file without references to
//! others, names what broke, and the table ends on the result. `REPORT_DIR=dir cargo test` keeps
//! the pages for a look.

use roost_loadtest::checker::{Check, Counts, Example, Verdict, Violation};
use roost_loadtest::environment::Environment;
use roost_loadtest::report;
use roost_loadtest::run::{Run, Second};
use roost_loadtest::server_watch::ServerUsage;
use roost_loadtest::slo;

/// A chat of two minutes with a slow spell at its first minute.
fn chat() -> Run {
    let mut run = Run {
        scenario: "chat",
        summary: "2000 users, 1000 messages a second for 120 s (Poisson arrivals), 64 byte bodies"
            .to_owned(),
        connections_held: 102_000,
        connections_wanted: 102_000,
        connect_rate: 31_415.9,
        environment: Environment::read(Some("io_uring".to_owned())),
        ..Run::default()
    };
    let mut random = fastrand::Rng::with_seed(7);
    for n in 0..120_000_u64 {
        let intended = n * 1_000;
        let slow = if (60_000..61_500).contains(&n) { 20_000 } else { 0 };
        let tail = if random.u32(0..200) == 0 { random.u64(0..9_000) } else { 0 };
        let ack = 600 + random.u64(0..900) + slow + tail;
        let lag = random.u64(10..80);
        run.ack.record(0, intended, intended + lag, intended + ack);
        run.delivery.record(0, intended, intended + lag, intended + ack + random.u64(0..400));
        run.generator_lag.record(lag);
        run.connect.record(200 + random.u64(0..3_000));
    }
    run.offered = 120_000;
    run.sent = 120_000;
    run.delivered = 120_000;
    for second in 0..128_u32 {
        let connections = (u64::from(second) * 31_000).min(102_000);
        let private_bytes = 24_000_000 + connections * 210 + u64::from(second) * 20_000;
        run.timeline.push(Second {
            at_s: f64::from(second),
            connections,
            server: Some(ServerUsage {
                rss_bytes: private_bytes + 9_000_000,
                private_bytes,
                cpu_s: f64::from(second) * 0.4,
            }),
        });
    }
    run.server = run.timeline.last().and_then(|second| second.server);
    run.verdict = Some(Verdict {
        violations: Vec::new(),
        unjudged: vec![Check::C9, Check::C10],
        proves_little: Vec::new(),
        counts: Counts { events: 605_000, sent: 120_000, acked: 120_000, ..Counts::default() },
    });
    let thresholds = slo::parse("ack_us.p99 = 25_000\nlost = 0").unwrap();
    run.slo = slo::judge(&thresholds, &run);
    run
}

fn broken() -> Run {
    let mut run = chat();
    let verdict = run.verdict.as_mut().unwrap();
    verdict.counts.lost = 3;
    verdict.violations.push(Violation {
        check: Check::C1,
        name: "acknowledged_lost",
        count: 3,
        examples: vec![Example {
            conversation: "s:load-1:load-2".to_owned(),
            seq: 17,
            who: "load-1/phone".to_owned(),
            message: format!("load-1:{:032x}", 99),
            at_us: 1,
            what: "acknowledged, but <the> database does not have it at this place".to_owned(),
        }],
    });
    let thresholds = slo::parse("ack_us.p99 = 100\nlost = 0").unwrap();
    run.slo = slo::judge(&thresholds, &run);
    run
}

fn void() -> Run {
    let mut run = chat();
    run.void_reasons.push("the generator lagged: p99 of 48 ms, limit 10 ms".to_owned());
    run
}

fn idle() -> Run {
    let mut run = chat();
    run.scenario = "idle";
    run.summary = "102000 connections held for 60 s".to_owned();
    run.verdict = None;
    run.slo.clear();
    run.offered = 0;
    run.ack = Default::default();
    run.delivery = Default::default();
    run.generator_lag = Default::default();
    run
}

#[track_caller]
fn check(name: &str, run: &Run, expected: &[&str]) {
    let page = report::page(run);
    for part in expected {
        assert!(page.contains(part), "{name} lacks {part}");
    }
    for reference in ["http://", "https://", "src=", "url(", "@import"] {
        assert!(!page.contains(reference), "{name} refers to {reference}");
    }
    let table = report::table(run);
    assert!(table.contains(&format!("result: {}", run.outcome().word())), "{table}");
    if let Ok(folder) = std::env::var("REPORT_DIR") {
        std::fs::write(format!("{folder}/{name}.html"), page).unwrap();
        std::fs::write(format!("{folder}/{name}.txt"), table).unwrap();
    }
}

#[test]
fn a_good_run() {
    check(
        "good",
        &chat(),
        &["<h1>Good</h1>", "Latency by percentile", "Server memory over time", "ack_us.p99"],
    );
}

#[test]
fn a_failed_run_names_what_broke() {
    check(
        "failed",
        &broken(),
        &["<h1>Failed</h1>", "C1 (no acknowledged message lost) broken", "&lt;the&gt; database"],
    );
}

#[test]
fn a_void_run_says_why() {
    check("void", &void(), &["<h1>Void</h1>", "the generator lagged"]);
}

#[test]
fn a_run_without_messages() {
    check("idle", &idle(), &["<h1>Good</h1>", "Connections over time"]);
}
