//! Parts that come back, or whose work others take over: one cluster, one load, one fault after the other.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use roost_loadtest::waits::{Outage, Waits, histogram};

use super::load::Load;
use super::{Options, Part, check_promises, ms, seconds};
use crate::cluster::{Cluster, Service};
use crate::goals::{Figure, Unit};

/// Users come back after at most half a minute of back-off, and resend after as much.
const CALM_WITHIN: Duration = Duration::from_secs(120);
/// Watched after the last backlog is gone.
const SETTLE: Duration = Duration::from_secs(5);
/// A part that has to come back is away so long beside its own start.
const SHORTLY: Duration = Duration::from_secs(3);
/// A logic process that was killed is left away so long: its neighbour has taken over by then, or never will.
const TAKEN_OVER: Duration = Duration::from_secs(8);
/// Messages that were due so shortly before a fault meet it.
const BEFORE_US: u64 = 500_000;
/// A shorter wait is not felt, however quick the machine is.
const PATIENCE_US: u64 = 250_000;
/// ... nor is this many times the p99 of calm times.
const PATIENCE_FACTOR: u64 = 4;

/// What happened when, on the clock of the run.
struct Phase {
    part: Part,
    name: String,
    calm_us: u64,
    fault_us: u64,
    /// From when on the recovery counts.
    healed_us: u64,
    end_us: u64,
    refused: u64,
    dropped: u64,
}

pub(super) fn measure(
    options: &Options,
    wanted: &[Part],
    folder: &Path,
    roost: &Path,
) -> Result<Vec<Figure>> {
    let shape = options.shape();
    let mut cluster = Cluster::start(&shape, folder, roost, &mut |line| println!("{line}"))?;
    let load = Load::start(options, &cluster, &[])?;
    let mut phases = Vec::new();
    for &part in wanted.iter().filter(|part| **part != Part::Gateway) {
        let phase = run_phase(options, part, &mut cluster, &load);
        phases.push(phase.with_context(|| format!("{part:?}"))?);
    }
    let run = load.finish()?;
    check_promises(&run)?;
    ensure!(run.failures.is_empty(), "{}", run.failures.join("; "));
    cluster.check_ready()?;
    let waits = Waits::of(&run.history);
    Ok(phases.iter().flat_map(|phase| figures(phase, &waits)).collect())
}

fn run_phase(options: &Options, part: Part, cluster: &mut Cluster, load: &Load) -> Result<Phase> {
    let service = match part {
        Part::Redis => Service::Redis,
        // The other one serves the HTTP API that the load reads back from.
        Part::Logic | Part::Gateway => Service::Logic(1),
        Part::Rabbitmq => Service::RabbitMq,
        Part::Store => Service::Store,
        Part::Registry => Service::Registry,
    };
    let name = cluster.name_of(service);
    load.wait_calm(CALM_WITHIN).context("before the fault")?;
    let calm_us = load.clock.now_us();
    std::thread::sleep(Duration::from_secs(options.calm));
    let conductor = &load.conductor;
    let before = (conductor.refused(), conductor.disconnects());
    println!("killing {name}");
    let fault_us = load.clock.now_us();
    cluster.kill(service);
    conductor.record_kill(Instant::now(), true);
    std::thread::sleep(match part {
        Part::Redis => Duration::from_secs(options.away),
        Part::Registry => Duration::from_secs(options.registry_away),
        Part::Logic | Part::Gateway => TAKEN_OVER,
        Part::Rabbitmq | Part::Store => SHORTLY,
    });
    cluster.restart(service)?;
    let healed_us = match part {
        Part::Logic | Part::Gateway => fault_us,
        Part::Redis | Part::Rabbitmq | Part::Store | Part::Registry => load.clock.now_us(),
    };
    load.wait_calm(CALM_WITHIN).context("after the fault")?;
    std::thread::sleep(SETTLE);
    Ok(Phase {
        part,
        name,
        calm_us,
        fault_us,
        healed_us,
        end_us: load.clock.now_us(),
        refused: conductor.refused() - before.0,
        dropped: conductor.disconnects() - before.1,
    })
}

fn figures(phase: &Phase, waits: &Waits) -> Vec<Figure> {
    let &Phase { calm_us, fault_us, healed_us, end_us, .. } = phase;
    let calm = histogram(waits.between(calm_us, fault_us), end_us, |_| true);
    let calm_p99 = calm.at_quantile(0.99);
    let met = waits.between(fault_us.saturating_sub(BEFORE_US), end_us);
    let patience_us = PATIENCE_US.max(calm_p99.unwrap_or(0) * PATIENCE_FACTOR);
    // When nobody waited for long, the longest wait bounds it.
    let longest_us = met.iter().map(|wait| wait.length_us(end_us)).max().unwrap_or(0);
    let outage = Outage::of(met, healed_us, patience_us, end_us);
    let after = |at_us: Option<u64>| {
        seconds(at_us.map_or(longest_us, |at_us| at_us.saturating_sub(healed_us)))
    };
    let of = |what: &str, unit, measured| Figure::new(&phase.name, what, unit, measured);
    let unanswered = met.iter().filter(|wait| wait.acked_us.is_none()).count() as u64;
    let failed = phase.refused.max(unanswered);
    let time = |what: &str, most: f64| {
        let afterwards = Some(outage.late_afterwards as f64);
        vec![
            of(what, Unit::Seconds, Some(after(outage.last_answer_us))).must(most),
            of("late answers after two seconds without", Unit::Count, afterwards),
            of("last late answer but for these", Unit::Seconds, Some(after(outage.over_us))),
        ]
    };
    let away = |ratio_most: Option<f64>| {
        let during = histogram(waits.between(fault_us, healed_us), end_us, |_| true);
        let p99s = during.at_quantile(0.99).zip(calm_p99);
        let ratio = p99s.map(|(during, calm)| during as f64 / calm as f64);
        let length = seconds(healed_us - fault_us);
        vec![
            of(
                &format!("away for {length:.0} s: messages refused or not answered"),
                Unit::Count,
                Some(failed as f64),
            )
            .must(0.0),
            of("sessions dropped meanwhile", Unit::Count, Some(phase.dropped as f64)).must(0.0),
            of("ack p99 before", Unit::Milliseconds, calm_p99.map(ms)),
            Figure { must: ratio_most, ..of("ack p99 meanwhile, over before", Unit::Ratio, ratio) },
        ]
    };
    match phase.part {
        Part::Logic | Part::Gateway => time("killed: last late answer, after the kill", 1.0),
        Part::Rabbitmq => time("killed: last late answer, after its port opened", 10.0),
        Part::Store => time("killed: last late answer, after it was ready", 5.0),
        Part::Redis => away(Some(2.0)),
        Part::Registry => away(None),
    }
}
