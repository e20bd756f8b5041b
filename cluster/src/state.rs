//! What a cluster leaves on disk about its processes, so that a later command finds them: and nobody else's.
//!
//! A process id alone may belong to somebody else by now; together with its start time it does not. Signals go through a descriptor of the
//! process that was opened before its start time was read, so the two cannot be of different processes.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

use crate::cluster::{Cluster, Part};
use crate::plan::Shape;
use crate::probe::Probe;

const FILE: &str = "cluster.json";

/// A process, for ever distinguishable on this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProcessId {
    pub(crate) pid: u32,
    /// Ticks after the machine's start (proc(5), `stat`, field 22).
    start_ticks: u64,
}

/// What a process does, as the kernel says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Life {
    Running,
    /// By SIGSTOP.
    Stopped,
    Gone,
}

impl ProcessId {
    /// Of a process that runs now.
    pub(crate) fn of(pid: u32) -> Option<Self> {
        let (_, start_ticks) = stat(pid)?;
        Some(Self { pid, start_ticks })
    }

    pub(crate) fn life(self) -> Life {
        match stat(self.pid) {
            Some((state, ticks)) if ticks == self.start_ticks => match state {
                'T' | 't' => Life::Stopped,
                'Z' | 'X' => Life::Gone,
                _ => Life::Running,
            },
            Some(_) | None => Life::Gone,
        }
    }

    /// Signals it, unless it is gone.
    pub(crate) fn signal(self, signal: Signal) {
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw);
        let Some(descriptor) = pid.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok()) else {
            return;
        };
        if self.life() != Life::Gone {
            // It may have ended just now.
            _ = pidfd_send_signal(&descriptor, signal);
        }
    }
}

/// State and start time.
fn stat(pid: u32) -> Option<(char, u64)> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything: fields count from its end, where the state is the first.
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    Some((fields.first()?.chars().next()?, fields.get(19)?.parse().ok()?))
}

/// A process of the cluster.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Member {
    pub(crate) name: String,
    pub(crate) process: ProcessId,
    pub(crate) ports: Vec<u16>,
    pub(crate) probe: Option<Probe>,
}

/// The file.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct State {
    pub(crate) supervisor: ProcessId,
    pub(crate) options: Shape,
    pub(crate) members: Vec<Member>,
}

impl State {
    pub(crate) fn of(cluster: &Cluster) -> Result<Self> {
        let member = |Part { name, ports, id, probe }: Part| {
            let process = ProcessId::of(id).ok_or_else(|| anyhow!("{name} ended"))?;
            Ok(Member { name, process, ports, probe })
        };
        let own = ProcessId::of(std::process::id()).context("reading /proc/self/stat")?;
        Ok(Self {
            supervisor: own,
            options: cluster.options().clone(),
            members: cluster.parts().into_iter().map(member).collect::<Result<_>>()?,
        })
    }

    /// Whether anything of it still runs.
    pub(crate) fn is_alive(&self) -> bool {
        let all = self.members.iter().map(|member| member.process);
        all.chain([self.supervisor]).any(|process| process.life() != Life::Gone)
    }

    /// Written whole or not at all. It holds a key: its owner alone reads it.
    pub(crate) fn write(&self, folder: &Path) -> Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        serde_json::to_writer_pretty(&mut file, self)?;
        file.persist(path(folder))?;
        Ok(())
    }

    /// The state in `folder`, if there is one.
    pub(crate) fn read(folder: &Path) -> Result<Option<Self>> {
        let path = path(folder);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
        };
        serde_json::from_str(&text).map(Some).with_context(|| format!("reading {}", path.display()))
    }
}

fn path(folder: &Path) -> PathBuf {
    folder.join(FILE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Child, Command};

    fn sleeper() -> Child {
        Command::new("sleep").arg("60").spawn().unwrap()
    }

    #[test]
    fn a_stranger_with_the_same_id_is_left_alone() {
        let mut child = sleeper();
        let known = ProcessId::of(child.id()).unwrap();
        assert_eq!(known.life(), Life::Running);
        let stranger = ProcessId { start_ticks: known.start_ticks + 1, ..known };
        assert_eq!(stranger.life(), Life::Gone);
        stranger.signal(Signal::KILL);
        assert_eq!(known.life(), Life::Running);
        known.signal(Signal::KILL);
        child.wait().unwrap();
        assert_eq!(known.life(), Life::Gone);
    }

    #[test]
    fn a_stopped_process_is_told_from_a_running_one() {
        let mut child = sleeper();
        let known = ProcessId::of(child.id()).unwrap();
        known.signal(Signal::STOP);
        let until = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while known.life() != Life::Stopped {
            assert!(std::time::Instant::now() < until);
            std::thread::yield_now();
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
