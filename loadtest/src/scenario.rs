//! What the scenarios share: reaching the server, ballast, the watch, and the report at the end.

pub mod chat;
mod conductor;
pub mod idle;

pub use conductor::Conductor;

use std::fs;
use std::net::{SocketAddr, SocketAddrV4, TcpStream, ToSocketAddrs};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use indicatif::{ProgressBar, ProgressStyle};

use crate::ballast::{Ballast, BallastPlan, BallastResult};
use crate::clock::RunClock;
use crate::credential::TokenMint;
use crate::environment::Environment;
use crate::http::HttpClient;
use crate::options::Common;
use crate::report;
use crate::run::{Run, Second};
use crate::server_watch::{MachineCounters, ServerWatch};
use crate::slo;
use crate::target::Target;

const REACH_TIMEOUT: Duration = Duration::from_secs(5);
/// How often progress is shown and limits are looked at.
const TICK: Duration = Duration::from_millis(100);
/// Nothing connects for this long: what is missing will not come.
const RAMP_PATIENCE_US: u64 = 15_000_000;

/// What all users of a chat count together.
#[derive(Debug, Default)]
pub struct ChatCounters {
    pub(crate) online: AtomicU64,
    pub(crate) first_logins: AtomicU64,
    pub(crate) last_login_us: AtomicU64,
    pub(crate) sent: AtomicU64,
    pub(crate) acked: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) delivered: AtomicU64,
    pub(crate) disconnects: AtomicU64,
    /// Times a sender heard that a message was delivered without a device of the receiver.
    pub(crate) by_server: AtomicU64,
    /// Times all users are to change their network.
    pub(crate) moves: AtomicU64,
    pub(crate) is_stopped: AtomicBool,
}

/// A server that answers, and everything that is set up before the first connection.
pub(crate) struct Stage {
    pub(crate) common: Common,
    pub(crate) clock: RunClock,
    pub(crate) run_id: u32,
    /// Of each gateway, the first that answers first.
    pub(crate) servers: Vec<SocketAddr>,
    pub(crate) http: HttpClient,
    pub(crate) mint: TokenMint,
    thresholds: Vec<slo::Threshold>,
    watch: Option<ServerWatch>,
    machine: MachineCounters,
    timeline: Vec<Second>,
    pub(crate) start_us: u64,
    progress: ProgressBar,
}

impl Stage {
    /// Reads the thresholds and reaches the server, so that mistakes show before any load.
    pub(crate) fn set(common: Common) -> Result<Self> {
        let thresholds = match &common.slo {
            Some(path) => {
                let text = fs::read_to_string(path)
                    .with_context(|| format!("cannot read the SLO file {}", path.display()))?;
                slo::parse(&text).with_context(|| path.display().to_string())?
            }
            None => Vec::new(),
        };
        if !common.ramp.is_finite() || common.ramp <= 0.0 {
            bail!("--ramp has to be a number above 0, it is {}", common.ramp);
        }
        let target = Target::of(&common)?;
        let servers = reach(&target.servers, "--server")?;
        let http_address = resolve(&target.http, "--http")?;
        let clock = RunClock::start();
        Ok(Self {
            run_id: fastrand::u32(..),
            http: HttpClient::new(&target.http, &target.api_key),
            mint: TokenMint::new(&target.app, &target.key_id, &target.key_secret),
            thresholds,
            watch: ServerWatch::find(&[servers[0], http_address]),
            machine: MachineCounters::read(),
            timeline: Vec::new(),
            start_us: clock.now_us(),
            progress: progress_bar(),
            servers,
            clock,
            common,
        })
    }

    /// The ballast, which speaks IPv4 only.
    pub(crate) fn ballast(&self, count: u64) -> Result<Ballast> {
        let of_v4 = |server: &SocketAddr| match server {
            SocketAddr::V4(target) => Some(*target),
            SocketAddr::V6(_) => None,
        };
        let targets: Vec<SocketAddrV4> = self.servers.iter().filter_map(of_v4).collect();
        if targets.is_empty() {
            bail!(
                "idle connections need an IPv4 address of the server, {} is none",
                self.servers[0]
            );
        }
        let (mint, run_id) = (self.mint.clone(), self.run_id);
        let plan = BallastPlan {
            count,
            ramp: self.common.ramp,
            targets,
            comes_back: self.common.reconnect,
            sources: self.common.source.clone(),
            token: Box::new(move |number| mint.token(&format!("idle-{run_id:08x}-{number}"))),
            clock: self.clock,
            run_id,
        };
        Ballast::start(plan).context("cannot start the idle connections")
    }

    /// Memory of the server now, when it is on this machine.
    pub(crate) fn server_private_bytes(&self) -> Option<u64> {
        Some(self.watch.as_ref()?.usage()?.private_bytes)
    }

    /// Lets a tick pass, shows `message`, and once a second looks at the server.
    pub(crate) fn tick(&mut self, connections: u64, message: String) {
        std::thread::sleep(TICK);
        self.progress.set_message(message);
        self.progress.tick();
        let at_s = self.clock.now_us().saturating_sub(self.start_us) as f64 / 1e6;
        if self.timeline.last().is_none_or(|last| at_s - last.at_s >= 1.0) {
            let server = self.watch.as_ref().and_then(ServerWatch::usage);
            self.timeline.push(Second { at_s, connections, server });
        }
    }

    /// Completes the run, writes the reports and prints the table.
    pub(crate) fn finish(mut self, mut run: Run) -> Result<Run> {
        self.progress.finish_and_clear();
        run.server = self
            .watch
            .as_ref()
            .and_then(ServerWatch::usage)
            .or_else(|| self.timeline.iter().rev().find_map(|second| second.server));
        run.timeline = std::mem::take(&mut self.timeline);
        let disturbances = MachineCounters::read().disturbances_since(&self.machine);
        if self.common.shared_machine {
            run.notes.extend(disturbances);
        } else {
            run.void_reasons.extend(disturbances);
        }
        run.environment = Environment::read(self.http.driver());
        run.slo = slo::judge(&self.thresholds, &run);
        println!("{}", report::table(&run));
        if let Some(path) = &self.common.report {
            write(path, &report::page(&run))?;
        }
        if let Some(path) = &self.common.json {
            write(path, &format!("{:#}\n", report::document(&run)))?;
        }
        Ok(run)
    }
}

fn write(path: &std::path::Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    println!("written: {}", path.display());
    Ok(())
}

/// Adds the ballast's share to a run. Connections that failed make the run fail.
pub(crate) fn add_ballast(run: &mut Run, wanted: u64, result: &BallastResult) {
    run.connections_wanted += wanted;
    run.connections_held += result.held;
    run.connect.add(&result.connect);
    run.idle_lost += result.lost;
    run.idle_back.add(&result.back);
    if result.held < wanted {
        let reasons: Vec<String> =
            result.failures.iter().map(|(reason, n)| format!("{n} × {reason}")).collect();
        let why = if reasons.is_empty() {
            "the others were still on their way".to_owned()
        } else {
            reasons.join("; ")
        };
        run.failures.push(format!("{} of {wanted} idle connections held: {why}", result.held));
    }
}

fn resolve(address: &str, option: &str) -> Result<SocketAddr> {
    let all = address
        .to_socket_addrs()
        .map_err(|e| anyhow!("{option} {address} is not an address of the form HOST:PORT: {e}"))?;
    let mut all: Vec<SocketAddr> = all.collect();
    // The ballast speaks IPv4 only, so it comes first.
    all.sort_by_key(SocketAddr::is_ipv6);
    all.first().copied().ok_or_else(|| anyhow!("{option} {address} names no machine"))
}

/// All of them, one that answers first. One is enough: the others may come later.
fn reach(addresses: &[String], option: &str) -> Result<Vec<SocketAddr>> {
    let mut all =
        { addresses }.iter().map(|address| resolve(address, option)).collect::<Result<Vec<_>>>()?;
    let mut why = None;
    for index in 0..all.len() {
        match TcpStream::connect_timeout(&all[index], REACH_TIMEOUT) {
            Ok(_) => {
                all.swap(0, index);
                return Ok(all);
            }
            Err(e) => why = Some(e),
        }
    }
    let why = why.map_or_else(|| "no address".to_owned(), |e| e.to_string());
    bail!(
        "cannot reach the server at {}: {why}. Start one with `roost dev`, or name another with \
         {option} HOST:PORT",
        addresses.join(", ")
    )
}

fn progress_bar() -> ProgressBar {
    let style = ProgressStyle::with_template("{spinner} {elapsed_precise} {msg}")
        .unwrap_or_else(|_| ProgressStyle::default_spinner());
    ProgressBar::new_spinner().with_style(style)
}
