//! `chaos`: a cluster of its own under load, broken in a seeded order; then healed, read back and judged.
//!
//! * Every fault has to prove its effect (a process that was gone, a connection that was refused, packets that were dropped); one that cannot
//!   does not count. After each, messages have to be acknowledged again within a deadline.
//! * The verdict is the history checker's over every message from its sender to every device and the database, and that of the broker's queues:
//!   empty, nothing dead.
//! * A run that proves little fails: too few acknowledgements, too few effective faults, none that met messages in flight, no final reading.
//!
//! The seed decides which faults happen, in which order, to whom and for how long; what they meet is decided by the machine.

mod describe;
mod disk;
mod fault;
mod partition;
pub mod planted;
mod report;
mod republish;
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

use crate::cluster::{Cluster, Seams};
use crate::plan;
use describe::describe;
use disk::Disk;
use fault::Breaker;
use report::{Done, Report};
use schedule::{Kind, Planned, Schedule};

/// Not before the load runs: creating users and logging in are not what is broken here.
const STARTED_ACKS: u64 = 200;
const STARTED_WITHIN: Duration = Duration::from_secs(120);
/// Users come back after at most half a minute of back-off, and resend after as much.
const RECOVERS_WITHIN: Duration = Duration::from_secs(120);
/// So many acknowledgements say that messages flow again.
const RECOVERED_ACKS: u64 = 20;
/// For everything to be delivered after the last fault: a busy machine has much to catch up with, and a lost push is found by a heartbeat.
const DRAIN_SECONDS: u64 = 600;
/// The queues of the broker are empty this long after the load at the latest.
const EMPTY_WITHIN: Duration = Duration::from_secs(60);
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// `chaos`.
#[derive(Debug, Clone, clap::Args)]
#[command(mut_arg("logic", |arg| arg.default_value("2")))]
#[command(mut_arg("membership", |arg| arg.default_value("etcd")))]
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
    /// So many messages have to be acknowledged, and faults go on until they are
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub messages: u64,
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

    fn has_all_kinds(&self) -> bool {
        self.only.is_empty() && !self.kills_only
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
    disk::remove_leftovers();
    let disk =
        kinds.contains(&Kind::Disk).then(|| Disk::mount(&folder.join("disk"))).transpose()?;
    let seams = Seams {
        links: kinds.iter().any(|kind| matches!(kind, Kind::Slow | Kind::Repeat)),
        clocks: kinds.contains(&Kind::Clock),
        data_folder: disk.as_ref().map(|disk| disk.folder().to_owned()),
    };
    let (shape, places) = (&options.cluster, (folder, roost));
    let cluster = Cluster::start_with(shape, &seams, places, &mut |line| println!("{line}"))?;
    let conductor = Arc::<Conductor>::default();
    let load = start_load(options, &cluster, &conductor)?;
    wait(STARTED_WITHIN, &load, || conductor.acked() >= STARTED_ACKS)
        .context("the load did not start")?;
    let schedule = Schedule::new(seed, kinds, &cluster, options.minutes);
    let breaker = Breaker::new(cluster, disk, Arc::clone(&conductor));
    let (begin, report) = (Instant::now(), Report::new(seed));
    let mut attack = Attack { options, kinds, conductor, load, breaker, begin, report };
    attack.go_on(schedule)?;
    attack.finish()
}

/// A cluster under load while it is broken.
struct Attack<'a> {
    options: &'a Options,
    kinds: &'a [Kind],
    conductor: Arc<Conductor>,
    load: JoinHandle<Result<Run>>,
    breaker: Breaker,
    begin: Instant,
    report: Report,
}

impl Attack<'_> {
    /// Until the time is over and enough is proven, or something failed. Whole rounds, so that no kind is left out.
    fn go_on(&mut self, mut schedule: Schedule) -> Result<()> {
        while self.is_time() || !self.report.has_enough(self.options, self.kinds) {
            for planned in schedule.round() {
                self.apply(&planned)?;
                if self.report.has_failed() {
                    return Ok(());
                }
            }
            if schedule.rounds() > schedule::ROUNDS_MAX {
                break;
            }
        }
        Ok(())
    }

    fn is_time(&self) -> bool {
        self.begin.elapsed() < Duration::from_secs_f64(self.options.minutes * 60.0)
            || self.conductor.acked() < self.options.messages
    }

    fn apply(&mut self, planned: &Planned) -> Result<()> {
        let what = |fault| (describe(&self.breaker.cluster, fault), fault.kind());
        let what: Vec<(String, Kind)> = planned.faults.iter().map(what).collect();
        // The end of the time is waited for by those alone that still have to prove something.
        if !self.is_time() && !self.report.needs(&what, self.options) {
            return Ok(());
        }
        if self.wait_for_acks(planned.calm_acks(self.options.rate)).is_none() {
            self.report.fail(format!("messages stopped flowing before: {what:?}"));
            return Ok(());
        }
        let effects = self.breaker.apply(planned)?;
        let recovered = self.wait_for_acks(RECOVERED_ACKS);
        let done = what.into_iter().zip(effects);
        let done: Vec<Done> = done.map(|((what, kind), effect)| (what, kind, effect)).collect();
        self.report.add(self.begin, done, recovered);
        Ok(())
    }

    /// How long so many further ones took.
    fn wait_for_acks(&self, count: u64) -> Option<Duration> {
        let (since, enough) = (Instant::now(), self.conductor.acked() + count);
        let waited = wait(RECOVERS_WITHIN, &self.load, || self.conductor.acked() >= enough);
        waited.is_ok().then(|| since.elapsed())
    }

    fn finish(self) -> Result<Report> {
        let mut report = self.report;
        report.faulty_for = self.begin.elapsed();
        println!("healed; waiting until everything is delivered and read back");
        self.conductor.end();
        report.run = Some(self.load.join().map_err(|_| anyhow!("the load panicked"))??);
        report.left_over = left_over(&self.breaker.cluster);
        if let Err(error) = self.breaker.cluster.check_ready() {
            report.fail(format!("after the end, {error:#}"));
        }
        Ok(report)
    }
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
