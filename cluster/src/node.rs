//! One process of Roost itself: a gateway or a logic worker, with its file, its log and its condition of readiness.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use roost_testing::Process;

use crate::clock;
use crate::probe::{Probe, Readiness};

/// Start to readiness; a database that was killed may have to recover first.
const READY_WITHIN: Duration = Duration::from_secs(90);
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// `RestartSec=` of the units.
const RESTART_PAUSE: Duration = Duration::from_secs(1);
/// One that cannot start at all is found out soon.
const STARTS_MAX: u32 = 5;

/// Which tier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tier {
    Gateway,
    Logic,
}

/// A process of one tier. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) tier: Tier,
    pub(crate) ports: Vec<u16>,
    pub(crate) probe: Probe,
    file: PathBuf,
    log: PathBuf,
    program: PathBuf,
    variables: Vec<(String, String)>,
    process: Process,
}

/// What a process is started with.
#[derive(Debug)]
pub(crate) struct Start<'a> {
    pub(crate) name: String,
    pub(crate) tier: Tier,
    pub(crate) ports: Vec<u16>,
    pub(crate) probe: Probe,
    pub(crate) folder: &'a Path,
    pub(crate) program: &'a Path,
    pub(crate) text: String,
    /// Of its environment.
    pub(crate) variables: Vec<(String, String)>,
}

impl Node {
    /// Writes the file and starts the process; it is not ready yet.
    pub(crate) fn start(start: Start<'_>) -> Result<Self> {
        let Start { name, tier, ports, probe, folder, program, text, variables } = start;
        let file = folder.join(format!("{name}.toml"));
        write_secret(&file, &text)?;
        let log = folder.join(format!("{name}.log"));
        let process = launch(program, &variables, (tier, &file), &log);
        let program = program.to_owned();
        Ok(Self { name, tier, ports, probe, file, log, program, variables, process })
    }

    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    pub(crate) fn file(&self) -> &Path {
        &self.file
    }

    /// Waits until it is ready. One that ends meanwhile is started again, as its supervisor does (`Restart=` of the units in deploy/): what it
    /// needs, or its name at the registry, may be there a moment later. Its last words when it goes on ending.
    pub(crate) fn wait_ready(&mut self) -> Result<()> {
        let until = Instant::now() + READY_WITHIN;
        let mut starts = 1;
        loop {
            if let Some(status) = self.process.ended() {
                if starts == STARTS_MAX || Instant::now() > until {
                    bail!("{} ended at its start ({status}):\n{}", self.name, self.last_words());
                }
                println!("{} ended at its start ({status}), and is started again", self.name);
                std::thread::sleep(RESTART_PAUSE);
                starts += 1;
                self.launch();
            }
            let readiness = self.probe.ask();
            if readiness == Readiness::Ready {
                return Ok(());
            }
            if Instant::now() > until {
                bail!(
                    "{} is not ready within {READY_WITHIN:?}: {readiness}; its log: {}",
                    self.name,
                    self.log.display()
                );
            }
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    /// kill -9. Returns when it is gone.
    pub(crate) fn kill(&mut self) {
        self.process.kill();
        clock::clean_up_after(self.id());
    }

    /// SIGTERM; kill -9 when it does not end.
    pub(crate) fn end(&mut self) {
        self.process.end();
        clock::clean_up_after(self.id());
    }

    pub(crate) fn pause(&self) {
        self.process.pause();
    }

    pub(crate) fn resume(&self) {
        self.process.resume();
    }

    /// Starts it again with the same file and waits until it is ready.
    pub(crate) fn restart(&mut self) -> Result<()> {
        self.launch();
        self.wait_ready()
    }

    /// Starts it again as another program, with variables over its file; it is not ready yet.
    pub(crate) fn launch_as(&mut self, program: &Path, variables: &[(String, String)]) {
        (self.program, self.variables) = (program.to_owned(), variables.to_vec());
        self.launch();
    }

    fn launch(&mut self) {
        self.kill();
        self.process = launch(&self.program, &self.variables, (self.tier, &self.file), &self.log);
    }

    fn last_words(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let tail = text.floor_char_boundary(text.len().saturating_sub(1_500));
        text[tail..].to_owned()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}

fn launch(
    program: &Path,
    variables: &[(String, String)],
    (tier, file): (Tier, &Path),
    log: &Path,
) -> Process {
    let verb = match tier {
        Tier::Gateway => "gateway",
        Tier::Logic => "logic",
    };
    // By `env`, so that they are for this program alone and not for those that start it.
    let mut command = Command::new("env");
    command.args(variables.iter().map(|(name, value)| format!("{name}={value}")));
    command.arg(program).args([verb, "--config"]).arg(file);
    for (name, _) in std::env::vars_os() {
        // The file says everything here.
        if name.to_string_lossy().starts_with("ROOST_") {
            command.env_remove(name);
        }
    }
    Process::start(&command, log)
}

/// The file holds keys: its owner alone reads it.
fn write_secret(file: &Path, text: &str) -> Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut options = std::fs::OpenOptions::new();
    options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(file)?
        .write_all(text.as_bytes())?;
    Ok(())
}
