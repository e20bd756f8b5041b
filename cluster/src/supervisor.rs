//! The process that owns a cluster between `up` and `down`. Commands reach it over a socket in the cluster's folder: one line in; lines of
//! progress out, the last of which is `ok` or begins with `error: `.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use crate::cluster::Cluster;
use crate::plan::Shape;
use crate::state::State;

/// The last line of a start that went well; in the supervisor's log, and printed by `up`.
pub(crate) const READY: &str = "ready";

/// What can be asked of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// A rolling restart.
    Restart,
    /// End everything and itself; files stay.
    End,
}

impl Order {
    fn word(self) -> &'static str {
        match self {
            Self::Restart => "restart",
            Self::End => "end",
        }
    }
}

fn socket(folder: &Path) -> PathBuf {
    folder.join("control")
}

/// Starts the cluster, says so, and serves orders until it is told to end.
pub(crate) fn run(options: &Shape, folder: &Path, roost: &Path) -> Result<()> {
    let mut cluster = Cluster::start(options, folder, roost, &mut |line| println!("{line}"))?;
    State::of(&cluster)?.write(folder)?;
    let listener = UnixListener::bind(socket(folder))
        .with_context(|| format!("{}: is its path too long for a socket?", folder.display()))?;
    for line in welcome(&cluster, folder) {
        println!("{line}");
    }
    println!("{READY}");
    for stream in listener.incoming() {
        let Ok(stream) = stream else { continue };
        // Somebody who asks and goes away is no reason to end.
        if serve(&mut cluster, folder, &stream).unwrap_or(false) {
            // Without destructors: they would remove the services' folders, which is for `down` to decide.
            std::process::exit(0);
        }
    }
    Ok(())
}

/// True when everything has ended.
fn serve(cluster: &mut Cluster, folder: &Path, stream: &UnixStream) -> Result<bool> {
    let mut word = String::new();
    BufReader::new(stream).read_line(&mut word)?;
    let mut out = stream;
    let mut say = |line: &str| {
        // The work goes on when nobody listens any more.
        _ = writeln!(out, "{line}");
    };
    let outcome = match word.trim_end() {
        "restart" => {
            let outcome = cluster.rolling_restart(&mut say);
            State::of(cluster).and_then(|state| state.write(folder)).and(outcome)
        }
        "end" => {
            cluster.end(&mut say);
            say("ok");
            return Ok(true);
        }
        other => Err(anyhow::anyhow!("no such order: {other:?}")),
    };
    match outcome {
        Ok(()) => say("ok"),
        Err(error) => say(&format!("error: {error:#}")),
    }
    Ok(false)
}

/// Gives an order and prints what it says on the way.
pub(crate) fn order(folder: &Path, order: Order) -> Result<()> {
    let path = socket(folder);
    let stream = UnixStream::connect(&path)
        .with_context(|| format!("the supervisor does not answer at {}", path.display()))?;
    writeln!(&stream, "{}", order.word())?;
    for line in BufReader::new(&stream).lines() {
        let line = line?;
        if line == "ok" {
            return Ok(());
        }
        if let Some(error) = line.strip_prefix("error: ") {
            bail!("{error}");
        }
        println!("{line}");
    }
    bail!("the supervisor ended before it was done; its log: {}", log(folder).display())
}

/// Where the supervisor writes.
pub(crate) fn log(folder: &Path) -> PathBuf {
    folder.join("supervisor.log")
}

/// Where everything is, and what to try.
fn welcome(cluster: &Cluster, folder: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    for part in cluster.parts() {
        let ports: Vec<String> =
            part.ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
        lines.push(format!("{:<11} {:<32} process {}", part.name, ports.join("  "), part.id));
    }
    let file = cluster.client_file();
    let file = file.display();
    lines.push(format!("folder      {}  (configuration, logs, data)", folder.display()));
    lines.push(format!("try         roost tail --config {file} --as bob --from-start"));
    lines.push(format!("            roost send --config {file} --as alice --to bob \"hello\""));
    lines.push(format!(
        "            roost-load chat --config {file} --users 200 --rate 500 --duration 30"
    ));
    let dir = folder.display();
    lines.push(format!("            cargo xtask cluster status --dir {dir}"));
    lines.push(format!("            cargo xtask cluster restart --rolling --dir {dir}"));
    lines.push(format!("            cargo xtask cluster down --dir {dir}"));
    lines
}
