//! The measurements: each starts subjects, loads them in interleaved rounds, prints a table and
//! adds it to the JSON report.

mod echo;
mod latency;
mod memory;
mod sends;
mod spread;

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::generator::Outcome;
use crate::probe::environment::Environment;
use crate::subject::{Placement, Subject};
use crate::sys;

pub use spread::Spread;

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Measurement {
    /// Messages a second, one in flight per connection, 100 and 1,000 connections.
    Echo,
    /// Bytes per idle connection, in the process and in the kernel.
    Memory,
    /// Latency at a fixed rate beside idle connections.
    Latency,
    /// One message to very many sockets.
    Sends,
}

/// How thoroughly to measure.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Empty: all.
    pub only: Vec<Measurement>,
    /// Empty: all.
    pub subjects: Vec<Subject>,
    /// Rounds of each comparison.
    pub rounds: usize,
    /// Counted part of each round.
    pub duration: Duration,
    /// Quiet time before memory is read.
    pub settle: Duration,
    /// Idle connections beside the latency measurement.
    pub idle: usize,
    /// Cores and priority.
    pub placement: Placement,
}

impl Settings {
    fn wants(&self, measurement: Measurement) -> bool {
        self.only.is_empty() || self.only.contains(&measurement)
    }

    /// Those of `candidates` that were asked for and are installed, the floor first.
    fn subjects(&self, candidates: &[Subject]) -> Vec<Subject> {
        let asked = |subject: &Subject| {
            self.subjects.is_empty()
                || *subject == Subject::UringEcho
                || self.subjects.contains(subject)
        };
        let mut present = Vec::new();
        for &subject in candidates.iter().filter(|subject| asked(subject)) {
            match subject.absent() {
                None => present.push(subject),
                Some(reason) => println!("{subject} skipped: {reason}"),
            }
        }
        present
    }
}

/// All tables of one run.
#[derive(Debug, Serialize)]
pub struct Report {
    environment: Environment,
    echo: Vec<echo::Row>,
    memory: Option<memory::Table>,
    latency: Vec<latency::Row>,
    sends: Vec<sends::Row>,
    void: Vec<String>,
}

impl Report {
    /// True when others on the machine disturbed a round.
    pub fn is_void(&self) -> bool {
        !self.void.is_empty()
    }

    /// Writes the report as JSON.
    pub fn write(&self, path: &Path) -> Result<()> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
        }
        let text = serde_json::to_string_pretty(self)?;
        fs::write(path, text).with_context(|| format!("writing {}", path.display()))?;
        println!("\nreport    {}", path.display());
        Ok(())
    }
}

/// Measures what the settings ask for.
pub fn run(settings: &Settings) -> Result<Report> {
    let priority = if settings.placement.realtime { "SCHED_FIFO 1" } else { "normal" };
    // The machine's settings: a namespace does not show all of them.
    let mut environment = Environment::read("io_uring", priority);
    environment.network = match isolate_network() {
        Ok(()) => format!("own namespace, {}", sys::CONGESTION_CONTROL),
        Err(error) => format!("the machine's, because a namespace failed: {error:#}"),
    };
    environment.print();
    let mut report = Report {
        environment,
        echo: Vec::new(),
        memory: None,
        latency: Vec::new(),
        sends: Vec::new(),
        void: Vec::new(),
    };
    if settings.wants(Measurement::Memory) {
        report.memory = Some(memory::measure(settings, &mut report.void)?);
    }
    if settings.wants(Measurement::Echo) {
        report.echo = echo::measure(settings, &mut report.void)?;
    }
    if settings.wants(Measurement::Latency) {
        report.latency = latency::measure(settings, &mut report.void)?;
    }
    if settings.wants(Measurement::Sends) {
        report.sends = sends::measure(settings)?;
    }
    for reason in &report.void {
        println!("void: {reason}");
    }
    Ok(report)
}

/// A network namespace in which every listener gets the same congestion control: brokers cannot be
/// told theirs.
fn isolate_network() -> Result<()> {
    sys::enter_own_network()?;
    let path = "/proc/sys/net/ipv4/tcp_congestion_control";
    fs::write(path, sys::CONGESTION_CONTROL).with_context(|| format!("writing {path}"))
}

/// CPU time of others that a round tolerates, as a share of one core. With `--realtime` they only
/// get what subject and generator leave, and disturb less.
const FOREIGN_CPU_MAX: f64 = 0.10;
const FOREIGN_CPU_MAX_REALTIME: f64 = 0.30;
/// Stolen time of the cores in use that a round tolerates, as a share of one core.
const STOLEN_MAX: f64 = 0.02;
/// Lag of the generator, 99th percentile, that an open-loop round tolerates.
const LAG_MAX: Duration = Duration::from_micros(200);
/// The generator has its core for itself: when it is later than this even once, the machine stood still.
const PAUSE_MAX: Duration = Duration::from_millis(20);

/// Why an outcome proves nothing, if it does not.
fn void_reason(outcome: &Outcome, settings: &Settings) -> Option<String> {
    let foreign_max = match settings.placement.realtime {
        true => FOREIGN_CPU_MAX_REALTIME,
        false => FOREIGN_CPU_MAX,
    };
    let stolen = outcome.stolen_seconds / outcome.seconds;
    let lag = spread::percentile(&outcome.lag, 0.99).unwrap_or_default();
    let pause = spread::max(&outcome.lag);
    if outcome.listen_overflows > 0 {
        Some(format!("{} connections met a full listen queue", outcome.listen_overflows))
    } else if stolen > STOLEN_MAX {
        Some(format!("{:.1} % of a core was stolen", stolen * 100.0))
    } else if outcome.foreign_cpu_share() > foreign_max {
        Some(format!("others used {:.0} % of a core", outcome.foreign_cpu_share() * 100.0))
    } else if lag > LAG_MAX.as_nanos() as f64 {
        Some(format!("the generator lagged by {:.0} us (p99)", lag / 1000.0))
    } else if pause > PAUSE_MAX.as_nanos() as f64 {
        Some(format!("the generator stood still for {:.0} ms", pause / 1e6))
    } else {
        None
    }
}
