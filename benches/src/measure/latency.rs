//! What latency does a message have at 20,000 a second beside very many idle connections?
//!
//! Expected: p99 of our gateway at most 1.5 times, p99.9 twice, p99.99 three times the io_uring
//! floor's with the same idle connections on as many rings.
//!
//! Latency counts from the time a message was due. A round is made of slices of three seconds, which
//! the subjects take in turns, all beside their idle connections, and a slice that others on the
//! machine disturbed is measured again: what a hypervisor takes away comes in bursts. Undisturbed
//! slices are merged before percentiles are taken, and a percentile needs a hundred samples beyond
//! it.

use std::thread::sleep;
use std::time::Duration;

use anyhow::Result;
use serde::Serialize;

use super::spread::{percentile, percentile_of};
use super::{Settings, void_reason};
use crate::ballast;
use crate::generator::{Load, Nanoseconds, Outcome, Pace, histogram};
use crate::subject::{Ballast, Server, Subject, generate};

const SUBJECTS: [Subject; 4] =
    [Subject::UringEcho, Subject::Gateway, Subject::GatewayEpoll, Subject::MonoioEcho];
const RATE: u32 = 20_000;
const ACTIVE: usize = 1000;
const SLICE: Duration = Duration::from_secs(3);
/// Not counted at the begin of each slice.
const WARMUP: Duration = Duration::from_millis(500);
/// A round has up to this many times the slices that it needs to get as many undisturbed ones.
const ATTEMPTS_MAX: usize = 4;
const QUANTILES: [f64; 4] = [0.50, 0.99, 0.999, 0.9999];

/// One subject.
#[derive(Debug, Serialize)]
pub(super) struct Row {
    subject: &'static str,
    idle: usize,
    rings: usize,
    rate: u32,
    /// p50, p99, p99.9, p99.99 from the time due, microseconds; absent: too few samples.
    intended_to_received_us: [Option<f64>; 4],
    /// Over the floor's.
    ratio: [Option<f64>; 4],
    /// The same from the time sent.
    sent_to_received_us: [Option<f64>; 4],
    /// p99 of the generator's own delay.
    lag_p99_us: Option<f64>,
    max_us: f64,
    /// What the figures are made of.
    slices: usize,
    /// Disturbed by others on the machine; not part of the figures.
    void_slices: usize,
}

/// The slices of one subject.
#[derive(Default)]
struct Slices {
    undisturbed: Vec<Outcome>,
    void: usize,
}

/// A subject under way, with its idle connections.
struct Stand {
    subject: Subject,
    server: Server,
    _ballast: Ballast,
}

/// In each round all subjects hold their connections at the same time, and slices go round among
/// them: what happens on the machine happens to all.
pub(super) fn measure(settings: &Settings, void: &mut Vec<String>) -> Result<Vec<Row>> {
    let rings = (settings.idle + ACTIVE).div_ceil(ballast::CONNECTIONS_MAX);
    // On plain descriptors a process holds no more than it may open.
    let on_direct_descriptors = [Subject::UringEcho, Subject::Gateway];
    let fits = |subject: &Subject| rings == 1 || on_direct_descriptors.contains(subject);
    let subjects: Vec<Subject> = settings.subjects(&SUBJECTS).into_iter().filter(fits).collect();
    let wanted = (settings.duration * 2).div_duration_f64(SLICE).ceil().max(1.0) as usize;
    let mut all: Vec<Slices> = subjects.iter().map(|_| Slices::default()).collect();
    for round in 1..=settings.rounds {
        let stand = |&subject: &Subject| Stand::up(settings, subject, rings);
        let stands: Vec<Stand> = subjects.iter().map(stand).collect::<Result<_>>()?;
        // What so many logins leave to do is not what is asked here.
        sleep(settings.settle);
        for _ in 0..wanted * ATTEMPTS_MAX {
            for (stand, slices) in stands.iter().zip(&mut all) {
                if slices.undisturbed.len() < wanted * round {
                    stand.slice(settings, slices)?;
                }
            }
        }
    }
    let mut rows: Vec<Row> = Vec::new();
    for (&subject, slices) in subjects.iter().zip(&all) {
        let (valid, wanted) = (slices.undisturbed.len(), wanted * settings.rounds);
        if valid < wanted {
            void.push(format!("latency, {subject}: {valid} of {wanted} slices undisturbed"));
        }
        rows.push(summarise(settings, subject, rings, slices, rows.first()));
    }
    print(&rows);
    Ok(rows)
}

impl Stand {
    fn up(settings: &Settings, subject: Subject, rings: usize) -> Result<Self> {
        let server = Server::start(subject, rings, settings.placement)?;
        let mut ballast = Ballast::start(&server, settings.idle, settings.placement)?;
        ballast.hold(settings.idle)?;
        Ok(Self { subject, server, _ballast: ballast })
    }

    fn slice(&self, settings: &Settings, slices: &mut Slices) -> Result<()> {
        let load = Load {
            targets: self.server.targets.clone(),
            connections: ACTIVE,
            framing: self.subject.framing(),
            pace: Pace::PerSecond(RATE),
            warmup: WARMUP,
            duration: SLICE,
            realtime: settings.placement.realtime,
            server_pid: Some(self.server.process.pid()),
        };
        let outcome = generate(&load, settings.placement)?;
        let reason = void_reason(&outcome, settings);
        print_slice(self.subject, &outcome, reason.as_deref());
        match reason {
            None => slices.undisturbed.push(outcome),
            Some(_) => slices.void += 1,
        }
        Ok(())
    }
}

fn summarise(
    settings: &Settings,
    subject: Subject,
    rings: usize,
    slices: &Slices,
    floor: Option<&Row>,
) -> Row {
    let (mut intended, mut sent, mut lag) = (histogram(), histogram(), histogram());
    for outcome in &slices.undisturbed {
        outcome.intended_to_received.add_to(&mut intended);
        outcome.sent_to_received.add_to(&mut sent);
        outcome.lag.add_to(&mut lag);
    }
    let quantiles = |all: &Nanoseconds| {
        QUANTILES.map(|quantile| percentile_of(all, quantile).map(|value| value / 1000.0))
    };
    let intended_to_received_us = quantiles(&intended);
    let ratio = std::array::from_fn(|index| match floor {
        None => intended_to_received_us[index].map(|_| 1.0),
        Some(floor) => {
            Some(intended_to_received_us[index]? / floor.intended_to_received_us[index]?)
        }
    });
    Row {
        subject: subject.name(),
        idle: settings.idle,
        rings,
        rate: RATE,
        intended_to_received_us,
        ratio,
        sent_to_received_us: quantiles(&sent),
        lag_p99_us: percentile_of(&lag, 0.99).map(|value| value / 1000.0),
        max_us: intended.max() as f64 / 1000.0,
        slices: slices.undisturbed.len(),
        void_slices: slices.void,
    }
}

fn print_slice(subject: Subject, outcome: &Outcome, void: Option<&str>) {
    let microseconds = |quantile| match percentile(&outcome.intended_to_received, quantile) {
        Some(value) => format!("{:.0}", value / 1000.0),
        None => "-".to_owned(),
    };
    let (p50, p99) = (microseconds(0.50), microseconds(0.99));
    let void = void.map(|reason| format!(", void: {reason}")).unwrap_or_default();
    println!("latency, {subject}: {p50} / {p99} us{void}");
}

fn print(rows: &[Row]) {
    let Some(first) = rows.first() else { return };
    println!(
        "\nlatency: {} messages/s on {ACTIVE} connections beside {} idle, {} rings; \
         us from the time due (ratio)",
        first.rate, first.idle, first.rings
    );
    println!(
        "{:<14} {:>16} {:>16} {:>16} {:>16} {:>9} {:>9} {:>6} {:>5}",
        "subject", "p50", "p99", "p99.9", "p99.99", "max", "lag p99", "slices", "void"
    );
    for row in rows {
        print!("{:<14}", row.subject);
        for (value, ratio) in row.intended_to_received_us.iter().zip(&row.ratio) {
            let text = match (value, ratio) {
                (Some(value), Some(ratio)) => format!("{value:.0} ({ratio:.2})"),
                (Some(value), None) => format!("{value:.0}"),
                (None, _) => "too few".to_owned(),
            };
            print!(" {text:>16}");
        }
        let lag = row.lag_p99_us.unwrap_or_default();
        println!(" {:>9.0} {lag:>9.1} {:>6} {:>5}", row.max_us, row.slices, row.void_slices);
    }
}
