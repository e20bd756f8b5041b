//! How many messages of 64 bytes a second can one core echo, one in flight per connection?
//!
//! Expected: monoio 80-90 % of the io_uring floor, brokers 50-60 %, our gateway 85-95 %.
//!
//! When the subject's core is not busy all the time, the generator is the limit, and the second
//! ratio, messages per second of the subject's CPU time, is the one to read.

use anyhow::{Result, ensure};
use serde::Serialize;

use super::spread::{Spread, percentile};
use super::{Settings, void_reason};
use crate::generator::{Load, Outcome, Pace};
use crate::subject::{Server, Subject, generate};

const SUBJECTS: [Subject; 7] = [
    Subject::UringEcho,
    Subject::Gateway,
    Subject::GatewayEpoll,
    Subject::EpollEcho,
    Subject::MonoioEcho,
    Subject::Mosquitto,
    Subject::Nats,
];
const CONNECTIONS: [usize; 2] = [100, 1000];

/// One subject at one number of connections.
#[derive(Debug, Serialize)]
pub(super) struct Row {
    subject: &'static str,
    connections: usize,
    /// Messages a second.
    rate: Spread,
    /// The same of each round, in order.
    rates: Vec<f64>,
    /// Over the floor's of the same round: a machine shared with others changes its speed for many
    /// seconds at a time.
    ratio: Spread,
    /// Messages per second of the subject's CPU time.
    rate_per_core: Spread,
    /// The same of each round, in order.
    rates_per_core: Vec<f64>,
    /// Over the floor's of the same round.
    ratio_per_core: Spread,
    /// Share of its core that the subject used.
    core_share: Spread,
    /// Share of its core that the generator used.
    generator_core_share: Spread,
    /// Round trip, microseconds.
    p50_us: Spread,
    p99_us: Spread,
    void_rounds: usize,
}

/// Interleaved rounds over subjects and numbers of connections.
pub(super) fn measure(settings: &Settings, void: &mut Vec<String>) -> Result<Vec<Row>> {
    let subjects = settings.subjects(&SUBJECTS);
    let mut rows = Vec::new();
    for connections in CONNECTIONS {
        let mut outcomes: Vec<Vec<Outcome>> = subjects.iter().map(|_| Vec::new()).collect();
        for _ in 0..settings.rounds {
            for (&subject, outcomes) in subjects.iter().zip(&mut outcomes) {
                outcomes.push(round(settings, subject, connections)?);
            }
        }
        let first = rows.len();
        for (&subject, outcomes) in subjects.iter().zip(&outcomes) {
            let floor = rows.get(first);
            let mut row = summarise(subject, connections, outcomes, floor);
            for reason in outcomes.iter().filter_map(|outcome| void_reason(outcome, settings)) {
                row.void_rounds += 1;
                void.push(format!("echo, {subject}, {connections} connections: {reason}"));
            }
            rows.push(row);
        }
        print(connections, &rows[first..]);
    }
    Ok(rows)
}

fn round(settings: &Settings, subject: Subject, connections: usize) -> Result<Outcome> {
    let server = Server::start(subject, 1, settings.placement)?;
    let outcome = generate(
        &Load {
            targets: server.targets.clone(),
            connections,
            framing: subject.framing(),
            pace: Pace::OneInFlight,
            warmup: settings.duration / 5,
            duration: settings.duration,
            realtime: settings.placement.realtime,
            server_pid: Some(server.process.pid()),
        },
        settings.placement,
    )?;
    ensure!(
        outcome.messages > 0 && outcome.unanswered <= connections as u64,
        "{subject} answered {} messages and left {} of {connections} connections without answer",
        outcome.messages,
        outcome.unanswered
    );
    Ok(outcome)
}

fn summarise(
    subject: Subject,
    connections: usize,
    outcomes: &[Outcome],
    floor: Option<&Row>,
) -> Row {
    let per_core = |outcome: &Outcome| outcome.messages as f64 / outcome.server_cpu_seconds;
    let quantile = |quantile: f64| {
        let latencies = outcomes.iter().map(|outcome| &outcome.sent_to_received);
        Spread::of(latencies.filter_map(|all| Some(percentile(all, quantile)? / 1000.0)))
    };
    let rates: Vec<f64> = outcomes.iter().map(Outcome::rate).collect();
    let rates_per_core: Vec<f64> = outcomes.iter().map(per_core).collect();
    let ratio = over(&rates, floor.map_or(&rates, |floor| &floor.rates));
    let floor_per_core = floor.map_or(&rates_per_core, |floor| &floor.rates_per_core);
    let ratio_per_core = over(&rates_per_core, floor_per_core);
    Row {
        subject: subject.name(),
        connections,
        rate: Spread::of(rates.iter().copied()),
        rates,
        ratio,
        rate_per_core: Spread::of(rates_per_core.iter().copied()),
        rates_per_core,
        ratio_per_core,
        core_share: Spread::of(
            outcomes.iter().map(|outcome| outcome.server_cpu_seconds / outcome.seconds),
        ),
        generator_core_share: Spread::of(
            outcomes.iter().map(|outcome| outcome.generator_cpu_seconds / outcome.seconds),
        ),
        p50_us: quantile(0.50),
        p99_us: quantile(0.99),
        void_rounds: 0,
    }
}

/// Of each round.
fn over(rates: &[f64], floor: &[f64]) -> Spread {
    Spread::of(rates.iter().zip(floor).map(|(rate, floor)| rate / floor))
}

fn print(connections: usize, rows: &[Row]) {
    println!("\necho: 64 B, one in flight on each of {connections} connections");
    println!(
        "{:<14} {:>25} {:>19} {:>25} {:>19} {:>5} {:>5} {:>7} {:>7} {:>5}",
        "subject",
        "messages/s (min..max)",
        "over the floor",
        "per core-second",
        "over the floor",
        "core",
        "gen.",
        "p50 us",
        "p99 us",
        "void"
    );
    for row in rows {
        println!(
            "{:<14} {:>25} {:>19} {:>25} {:>19} {:>4.0}% {:>4.0}% {:>7.0} {:>7.0} {:>5}",
            row.subject,
            row.rate.to_string(),
            format!("{:.3}", row.ratio),
            row.rate_per_core.to_string(),
            format!("{:.3}", row.ratio_per_core),
            row.core_share.median * 100.0,
            row.generator_core_share.median * 100.0,
            row.p50_us.median,
            row.p99_us.median,
            row.void_rounds
        );
    }
}
