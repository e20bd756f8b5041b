//! The command line: `up`, `status`, `restart`, `down`, `chaos`, `recovery` and `bench`.

use std::fs::{self, File};
use std::io::{ErrorKind, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use clap::{Args, Parser, Subcommand};
use rustix::process::Signal;

use crate::plan::Shape;
use crate::probe::Readiness;
use crate::state::{Life, State};
use crate::supervisor::{self, Order, READY};
use crate::{bench, chaos, recovery};

/// How often the log of a start is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// Processes that were killed by their ids are gone after this.
const GONE_WITHIN: Duration = Duration::from_secs(10);

/// A whole cluster on this machine.
#[derive(Debug, Parser)]
#[command(name = "roost-cluster", bin_name = "cargo xtask cluster", version)]
pub struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Start every service and every process of Roost; they stay until `down`
    Up {
        #[command(flatten)]
        options: Shape,
        #[command(flatten)]
        place: Place,
    },
    /// Each process: whether it runs, its ports, whether it is ready and what it misses
    Status {
        #[command(flatten)]
        place: Place,
    },
    /// Restart every process of Roost, one at a time, waiting until each is ready
    Restart {
        /// One at a time; the only way there is
        #[arg(long, required = true)]
        rolling: bool,
        #[command(flatten)]
        place: Place,
    },
    /// End everything and remove the folder
    Down {
        /// Leave the folder: configuration, logs, data
        #[arg(long)]
        keep: bool,
        #[command(flatten)]
        place: Place,
    },
    /// Break a cluster of its own under load, and judge what was kept
    Chaos(chaos::Options),
    /// Take each part of a cluster of its own away under load, and measure for how long that is felt
    Recovery(recovery::Options),
    /// Latency of a cluster of its own at a fixed rate, with each database in turn
    Bench(bench::Options),
    /// The process that `up` leaves behind
    #[command(hide = true)]
    Supervise {
        #[command(flatten)]
        options: Shape,
        #[command(flatten)]
        place: Place,
    },
}

#[derive(Debug, Args)]
struct Place {
    /// Folder of the cluster: made by `up`, removed by `down`. System users of the services must be able to enter it
    #[arg(long = "dir", value_name = "DIR", default_value_os_t = std::env::temp_dir().join("roost-cluster"))]
    folder: PathBuf,
}

/// Runs the command line, with the server's program beside this one.
///
/// # Errors
/// What went wrong and what to do.
pub fn run(arguments: &Arguments) -> Result<()> {
    let own = std::env::current_exe()?;
    run_with(arguments, &own.with_file_name("roost"))
}

/// The same with the server's program `roost`.
///
/// # Errors
/// As [`run`].
pub fn run_with(arguments: &Arguments, roost: &Path) -> Result<()> {
    match &arguments.verb {
        Verb::Up { options, place } => up(options, &absolute(&place.folder)?),
        Verb::Status { place } => status(&absolute(&place.folder)?),
        Verb::Restart { place, .. } => {
            let folder = absolute(&place.folder)?;
            known(&folder)?;
            supervisor::order(&folder, Order::Restart)
        }
        Verb::Down { keep, place } => down(&absolute(&place.folder)?, *keep),
        Verb::Chaos(options) => chaos::run(options, existing(roost)?),
        Verb::Recovery(options) => recovery::run(options, existing(roost)?),
        Verb::Bench(options) => bench::run(options, existing(roost)?),
        Verb::Supervise { options, place } => {
            supervisor::run(options, &place.folder, existing(roost)?)
        }
    }
}

fn existing(roost: &Path) -> Result<&Path> {
    ensure!(
        roost.is_file(),
        "{} is missing: cargo build --release --package roost",
        roost.display()
    );
    Ok(roost)
}

fn absolute(folder: &Path) -> Result<PathBuf> {
    std::path::absolute(folder).with_context(|| folder.display().to_string())
}

fn known(folder: &Path) -> Result<State> {
    State::read(folder)?.with_context(|| {
        format!("no cluster in {}: `cargo xtask cluster up --dir DIR` makes one", folder.display())
    })
}

fn up(options: &Shape, folder: &Path) -> Result<()> {
    options.check()?;
    claim(folder)?;
    let path = supervisor::log(folder);
    let log = File::create(&path)?;
    let mut command = Command::new("setsid");
    command.arg(std::env::current_exe()?).arg("supervise").args(arguments_of(options)?);
    command.arg("--dir").arg(folder).current_dir(folder);
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    let mut supervisor = command.spawn().context("starting the supervisor by setsid")?;
    let started = follow(&mut supervisor, &path);
    if started.is_err() {
        // The supervisor has ended, and its processes with it.
        fs::remove_dir_all(folder)?;
    }
    started
}

/// Makes the folder for this cluster alone.
fn claim(folder: &Path) -> Result<()> {
    let shown = folder.display();
    let Err(error) = fs::create_dir(folder) else { return Ok(()) };
    ensure!(error.kind() == ErrorKind::AlreadyExists, "cannot make {shown}: {error}");
    match State::read(folder)? {
        Some(state) if state.is_alive() => bail!(
            "a cluster runs in {shown}: `cargo xtask cluster status --dir {shown}` shows it, `down` ends it; or choose another --dir and \
             --port-base"
        ),
        Some(_) => bail!(
            "{shown} has the files of a cluster that has ended: `cargo xtask cluster down --dir {shown}` removes them"
        ),
        None => bail!(
            "{shown} exists and is no cluster (or one that is just being started): choose another --dir"
        ),
    }
}

/// The options as `supervise` reads them.
fn arguments_of(options: &Shape) -> Result<Vec<String>> {
    let mut arguments = Vec::new();
    let serde_json::Value::Object(values) = serde_json::to_value(options)? else {
        bail!("options are an object");
    };
    for (name, value) in values {
        arguments.push(format!("--{}", name.replace('_', "-")));
        arguments.push(value.as_str().map_or_else(|| value.to_string(), str::to_owned));
    }
    Ok(arguments)
}

/// Prints the supervisor's log until it is ready.
fn follow(supervisor: &mut Child, log: &Path) -> Result<()> {
    let mut file = File::open(log)?;
    let (mut text, mut shown) = (String::new(), 0);
    loop {
        let ended = supervisor.try_wait()?;
        file.read_to_string(&mut text)?;
        while let Some(length) = text[shown..].find('\n') {
            let line = &text[shown..shown + length];
            println!("{line}");
            if line == READY {
                return Ok(());
            }
            shown += length + 1;
        }
        if let Some(status) = ended {
            bail!("the cluster did not start ({status}); see above");
        }
        std::thread::sleep(LOOK_AGAIN);
    }
}

fn status(folder: &Path) -> Result<()> {
    let state = known(folder)?;
    let mut missing = 0;
    for member in &state.members {
        let life = member.process.life();
        let readiness = match (life, &member.probe) {
            (Life::Gone, _) => "GONE".to_owned(),
            (Life::Stopped, _) => "STOPPED by a signal".to_owned(),
            (Life::Running, None) => "runs".to_owned(),
            (Life::Running, Some(probe)) => probe.ask().to_string(),
        };
        let is_well = readiness == Readiness::Ready.to_string() || readiness == "runs";
        missing += usize::from(!is_well);
        let ports: Vec<String> = member.ports.iter().map(u16::to_string).collect();
        println!(
            "{:<11} process {:<8} ports {:<12} {readiness}",
            member.name,
            member.process.pid,
            ports.join(",")
        );
    }
    if state.supervisor.life() == Life::Gone {
        println!("the supervisor is gone: what is left can be ended with `down`, not restarted");
    }
    ensure!(missing == 0, "{missing} of {} are not well", state.members.len());
    Ok(())
}

fn down(folder: &Path, keep: bool) -> Result<()> {
    let state = known(folder)?;
    if let Err(error) = supervisor::order(folder, Order::End) {
        println!("{error:#}; its processes are killed by their ids");
    }
    let all: Vec<_> =
        state.members.iter().map(|member| member.process).chain([state.supervisor]).collect();
    let until = Instant::now() + GONE_WITHIN;
    while all.iter().any(|process| process.life() != Life::Gone) {
        all.iter().for_each(|process| process.signal(Signal::KILL));
        ensure!(Instant::now() < until, "not everything ended within {GONE_WITHIN:?}");
        std::thread::sleep(LOOK_AGAIN);
    }
    if keep {
        println!("everything has ended; the files are in {}", folder.display());
    } else {
        fs::remove_dir_all(folder).with_context(|| format!("removing {}", folder.display()))?;
        println!("everything has ended");
    }
    Ok(())
}
