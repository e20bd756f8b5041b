//! `bench`: what an acknowledgement takes in a whole cluster, at a fixed rate, with each database in turn.
//!
//! Services, both tiers and the load share the cores that this process may use: restrict it (`taskset`) before it starts. All clusters are
//! up from the beginning and rounds go from one to the next, so that a disturbance of the machine meets all of them. The load is
//! `roost-load` as a person runs it, and its checker judges every round.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use roost_loadtest::environment::Environment;
use serde_json::Value;

use crate::cluster::Cluster;
use crate::goals::{self, Figure, Unit};
use crate::plan::{Membership, Shape, StoreKind};

/// Ports of Roost: of the first cluster, and how far the next one is.
const PORT_BASE: u16 = 17_400;
const PORT_STEP: u16 = 100;
/// Of `roost-load`: the run cannot be trusted.
const EXIT_VOID: i32 = 2;

/// `bench`.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Rounds; the median counts
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub rounds: usize,
    /// Seconds of each round
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub seconds: u64,
    /// Users of the load
    #[arg(long, value_name = "N", default_value_t = 2_000)]
    pub users: u32,
    /// Messages a second
    #[arg(long, value_name = "N", default_value_t = 2_000)]
    pub rate: u32,
    /// Databases
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        value_name = "STORE",
        default_value = "mariadb,postgres"
    )]
    pub store: Vec<StoreKind>,
    /// Ordered shares of the conversations
    #[arg(long, value_name = "N", default_value_t = 32)]
    pub partitions: u16,
}

/// One cluster and what its rounds yielded.
struct Subject {
    name: String,
    file: PathBuf,
    rounds: Vec<Round>,
    _cluster: Cluster,
}

/// Milliseconds.
#[derive(Debug, Clone, Copy)]
struct Round {
    ack_p50: Option<f64>,
    ack_p99: Option<f64>,
    delivery_p99: Option<f64>,
    is_void: bool,
}

/// Measures with the program `roost` and the `roost-load` beside it; fails when a goal was missed or a promise broken.
///
/// # Errors
/// What was missed.
pub fn run(options: &Options, roost: &Path) -> Result<()> {
    let load = roost.with_file_name("roost-load");
    ensure!(
        load.is_file(),
        "{} is missing: cargo build --release -p roost-loadtest",
        load.display()
    );
    let folder = tempfile::Builder::new()
        .prefix("roost-bench-")
        // Services have users of their own, who must be able to enter.
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .tempdir()?;
    let environment = Environment::read(None);
    println!(
        "commit {}, {} build, {}, kernel {}, cores {}, load average {}",
        environment.commit,
        environment.build,
        environment.cpu,
        environment.kernel,
        own_cores(),
        load_average()
    );
    let mut subjects = Vec::new();
    for (index, &store) in (0..).zip(&options.store) {
        subjects.push(Subject::start(options, store, (index, folder.path()), roost)?);
    }
    for round in 1..=options.rounds {
        for subject in &mut subjects {
            let done = subject.run_round(options, &load, folder.path())?;
            println!("round {round}, {}: {done:?}, load average {}", subject.name, load_average());
            subject.rounds.push(done);
        }
    }
    goals::conclude(&subjects.iter().flat_map(|it| it.figures(options)).collect::<Vec<_>>())
}

impl Subject {
    fn start(
        options: &Options,
        store: StoreKind,
        (index, folder): (u16, &Path),
        roost: &Path,
    ) -> Result<Self> {
        let shape = Shape {
            gateways: 1,
            logic: 1,
            store,
            databases: 1,
            membership: Membership::Static,
            port_base: PORT_BASE + index * PORT_STEP,
            shards: 1,
            partitions: options.partitions,
        };
        let name = format!("{store:?}");
        let place = folder.join(&name);
        std::fs::create_dir(&place)?;
        let cluster = Cluster::start(&shape, &place, roost, &mut |line| println!("{line}"))?;
        Ok(Self { name, file: cluster.client_file(), rounds: Vec::new(), _cluster: cluster })
    }

    fn run_round(&self, options: &Options, load: &Path, folder: &Path) -> Result<Round> {
        let json = folder.join("round.json");
        let mut command = Command::new(load);
        command.arg("chat").arg("--config").arg(&self.file).arg("--json").arg(&json);
        for (name, value) in [
            ("--users", u64::from(options.users)),
            ("--rate", u64::from(options.rate)),
            ("--duration", options.seconds),
        ] {
            command.args([name, &value.to_string()]);
        }
        let done = command.arg("--shared-machine").output().context("starting roost-load")?;
        let said = String::from_utf8_lossy(&done.stdout);
        let is_void = match done.status.code() {
            Some(0) => false,
            Some(EXIT_VOID) => true,
            _ => bail!("{}: {said}{}", self.name, String::from_utf8_lossy(&done.stderr)),
        };
        let figures: Value = serde_json::from_slice(&std::fs::read(&json)?)?;
        let at = |latency: &str, quantile: &str| Some(figures[latency][quantile].as_f64()? / 1e3);
        Ok(Round {
            ack_p50: at("ack_us", "p50"),
            ack_p99: at("ack_us", "p99"),
            delivery_p99: at("delivery_us", "p99"),
            is_void,
        })
    }

    fn figures(&self, options: &Options) -> [Figure; 3] {
        let void = self.rounds.iter().filter(|round| round.is_void).count();
        let note = match void {
            0 => String::new(),
            void => format!(" ({void} of {} rounds void)", self.rounds.len()),
        };
        let of = |what: &str, take: fn(&Round) -> Option<f64>| {
            let rounds: Vec<Option<f64>> = self.rounds.iter().map(take).collect();
            let what = format!("{what} at {}/s{note}", options.rate);
            Figure::of_rounds(&self.name, &what, Unit::Milliseconds, &rounds)
        };
        [
            of("ack p50", |round| round.ack_p50),
            of("ack p99", |round| round.ack_p99).must(25.0).stretch(12.0),
            of("delivery p99", |round| round.delivery_p99),
        ]
    }
}

/// As the kernel lists them.
fn own_cores() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mut lines = status.lines().filter_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    lines.next().unwrap_or("unknown").trim().to_owned()
}

/// Of the last minute.
fn load_average() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or("unknown").to_owned()
}
