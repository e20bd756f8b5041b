//! `chaos`: a cluster of its own under load, broken in a seeded order; then healed, read back and judged.
//!
//! * Every fault has to prove its effect (a process that was gone, a connection that was refused, packets that were dropped); one that cannot
//!   does not count. After each, messages have to be acknowledged again within a deadline.
//! * The verdict is the history checker's over every message from its sender to every device and the database, and that of the broker's queues:
//!   empty, nothing dead.
//! * A run that proves little fails: too few acknowledgements, too few effective faults, none that met messages in flight, no final reading.
//!
//! The seed decides which faults happen, in which order, to whom and for how long; what they meet is decided by the machine.

mod fault;
mod partition;
mod report;
mod schedule;

use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use clap::Parser as _;
use roost_loadtest::options::{Command, Options as LoadOptions};
use roost_loadtest::run::Run;
use roost_loadtest::scenario::{Conductor, chat};

use crate::cluster::Cluster;
use crate::plan;
use fault::Breaker;
use report::Report;
use schedule::{Kind, Schedule};

/// Not before the load runs: creating users and logging in are not what is broken here.
const STARTED_ACKS: u64 = 200;
const STARTED_WITHIN: Duration = Duration::from_secs(120);
/// Users come back after at most half a minute of back-off, and resend after as much.
const RECOVERS_WITHIN: Duration = Duration::from_secs(120);
/// So many acknowledgements say that messages flow again.
const RECOVERED_ACKS: u64 = 20;
/// For everything to be delivered after the last fault: a lost push is found by a heartbeat.
const DRAIN_SECONDS: u64 = 180;
/// The queues of the broker are empty this long after the load at the latest.
const EMPTY_WITHIN: Duration = Duration::from_secs(60);
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// `chaos`.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Minutes of faults; rounds of all kinds go on until they are over and every kind has taken effect often enough
    #[arg(long, value_name = "N", default_value_t = 5.0)]
    pub minutes: f64,
    /// Repeats the faults of an earlier run; random otherwise
    #[arg(long, value_name = "S")]
    pub seed: Option<u64>,
    /// Only kill -9 and restart
    #[arg(long)]
    pub kills_only: bool,
    /// Only these kinds of faults
    #[arg(long, value_enum, value_delimiter = ',', value_name = "KIND")]
    pub only: Vec<Kind>,
    /// Each kind of process has to be killed with effect so often, and every other kind of fault has to take effect once, or the run proves
    /// little
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub kills: u32,
    /// Users of the load
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub users: u32,
    /// Messages a second
    #[arg(long, value_name = "N", default_value_t = 300)]
    pub rate: u32,
    /// What is broken
    #[command(flatten)]
    pub cluster: plan::Shape,
}

impl Options {
    fn kinds(&self) -> Vec<Kind> {
        let wanted = |kind: &Kind| {
            (self.only.is_empty() || self.only.contains(kind))
                && (!self.kills_only || *kind == Kind::Kill)
        };
        Kind::ALL.into_iter().filter(wanted).collect()
    }
}

/// Runs it with the program `roost`, prints everything, and fails when a promise was broken or little was proven.
///
/// # Errors
/// The reasons why the run is no success.
pub fn run(options: &Options, roost: &Path) -> Result<()> {
    let kinds = options.kinds();
    if kinds.is_empty() {
        bail!("--kills-only and --only leave no kind of fault");
    }
    let seed = options.seed.unwrap_or_else(|| fastrand::u64(..));
    println!("seed {seed}");
    let folder = scratch_folder()?;
    let report = conduct(options, &kinds, (folder.path(), roost), seed);
    match report.and_then(|report| report.conclude(options, &kinds)) {
        Ok(()) => Ok(()),
        Err(error) => {
            let kept = folder.keep();
            Err(error.context(format!("seed {seed}; logs and data are kept in {}", kept.display())))
        }
    }
}

/// Services have users of their own, who must be able to enter.
fn scratch_folder() -> Result<tempfile::TempDir> {
    let everybody = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    Ok(tempfile::Builder::new().prefix("roost-chaos-").permissions(everybody).tempdir()?)
}

fn conduct(
    options: &Options,
    kinds: &[Kind],
    (folder, roost): (&Path, &Path),
    seed: u64,
) -> Result<Report> {
    partition::remove_leftovers();
    let cluster = Cluster::start(&options.cluster, folder, roost, &mut |line| println!("{line}"))?;
    let conductor = Arc::<Conductor>::default();
    let load = start_load(options, &cluster, &conductor)?;
    wait(STARTED_WITHIN, &load, || conductor.acked() >= STARTED_ACKS)
        .context("the load did not start")?;
    let begin = Instant::now();
    let end = begin + Duration::from_secs_f64(options.minutes * 60.0);
    let mut schedule = Schedule::new(seed, kinds, &cluster, options.minutes);
    let mut breaker = Breaker::new(cluster, Arc::clone(&conductor));
    let mut report = Report::new(seed);
    // Whole rounds, so that no kind is left out.
    while Instant::now() < end || !report.has_enough(options, kinds) {
        if report.has_failed() || schedule.rounds() > schedule::ROUNDS_MAX {
            break;
        }
        for planned in schedule.round() {
            let what = breaker.describe(&planned.fault);
            // The end of the time is waited for by those alone that still have to prove something.
            if Instant::now() >= end && !report.needs(&what, planned.kind, options) {
                continue;
            }
            let from = conductor.acked();
            let calm = planned.calm_acks(options.rate);
            if wait(RECOVERS_WITHIN, &load, || conductor.acked() >= from + calm).is_err() {
                report.fail(format!("messages stopped flowing before: {what}"));
                break;
            }
            let effect = breaker.apply(&planned.fault);
            let healed = Instant::now();
            let from = conductor.acked();
            let recovered =
                wait(RECOVERS_WITHIN, &load, || conductor.acked() >= from + RECOVERED_ACKS);
            let took = recovered.is_ok().then(|| healed.elapsed());
            report.add(begin, what, planned.kind, effect, took);
            if took.is_none() {
                break;
            }
        }
    }
    report.faulty_for = begin.elapsed();
    println!("healed; waiting until everything is delivered and read back");
    conductor.end();
    report.run = Some(load.join().map_err(|_| anyhow!("the load panicked"))??);
    report.left_over = left_over(&breaker.cluster);
    if let Err(error) = breaker.cluster.check_ready() {
        report.fail(format!("after the end, {error:#}"));
    }
    Ok(report)
}

fn start_load(
    options: &Options,
    cluster: &Cluster,
    conductor: &Arc<Conductor>,
) -> Result<JoinHandle<Result<Run>>> {
    // The faults end the schedule; this only bounds it.
    let bound = (options.minutes * 60.0 * 4.0) as u64 + 1_800;
    let arguments = [
        "roost-load".to_owned(),
        "chat".to_owned(),
        format!("--config={}", cluster.client_file().display()),
        format!("--users={}", options.users),
        format!("--rate={}", options.rate),
        format!("--duration={bound}"),
        format!("--drain={DRAIN_SECONDS}"),
        "--shared-machine".to_owned(),
    ];
    let Command::Chat(load) = LoadOptions::try_parse_from(arguments)?.command else {
        bail!("the command line of a chat is one of a chat");
    };
    let conductor = Arc::clone(conductor);
    Ok(std::thread::Builder::new()
        .name("load".to_owned())
        .spawn(move || chat::run_with(load, &conductor))?)
}

/// Waits until `is_so`; fails at the deadline, or when the load has ended by itself.
fn wait<T>(limit: Duration, load: &JoinHandle<T>, is_so: impl Fn() -> bool) -> Result<()> {
    let until = Instant::now() + limit;
    while !is_so() {
        if load.is_finished() {
            bail!("the load ended by itself");
        }
        if Instant::now() > until {
            bail!("not within {limit:?}");
        }
        std::thread::sleep(LOOK_AGAIN);
    }
    Ok(())
}

/// Messages in queues that should be empty, when they do not become so.
fn left_over(cluster: &Cluster) -> Vec<String> {
    let until = Instant::now() + EMPTY_WITHIN;
    loop {
        let listed = cluster.broker().ctl(&["list_queues", "-p", plan::VHOST, "name", "messages"]);
        let left: Vec<String> = listed
            .lines()
            .filter_map(|line| line.split_once('\t'))
            .filter(|(name, count)| name.starts_with("roost.") && *count != "0")
            // Markers of bodies that were handed out again; they expire.
            .filter(|(name, _)| !name.starts_with("roost.attempts."))
            .map(|(name, count)| format!("{name} still holds {count}"))
            .collect();
        if left.is_empty() || Instant::now() > until {
            return left;
        }
        std::thread::sleep(LOOK_AGAIN);
    }
}
