//! CPU time of a process, of the machine, and what others took from it.

use std::fs;

use anyhow::{Context, Result};

/// `/proc` counts in ticks of 1/100 s on every Linux of today (`sysconf(_SC_CLK_TCK)`).
const TICKS_PER_SECOND: f64 = 100.0;

/// CPU seconds of a process, all its threads, user and system; without IRQ_TIME_ACCOUNTING in the
/// kernel this includes the softirq work done in its context (`/proc/PID/stat`, proc(5)).
pub fn process_seconds(pid: u32) -> Result<f64> {
    let path = format!("/proc/{pid}/stat");
    let stat = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    // The command, field 2, may contain anything but ends with the last parenthesis.
    let fields = stat.rsplit(')').next().unwrap_or_default();
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let ticks = |field: usize| -> Result<f64> {
        // `fields` begins with field 3 of proc(5).
        let text = fields.get(field - 3).with_context(|| format!("{path}: no field {field}"))?;
        text.parse().with_context(|| format!("{path}: field {field} is {text:?}"))
    };
    Ok((ticks(14)? + ticks(15)?) / TICKS_PER_SECOND)
}

/// What all cores did since boot, in seconds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Machine {
    /// Everything but idle, waiting for a disk, and stolen.
    pub busy: f64,
    /// Given to other machines by the hypervisor.
    pub stolen: f64,
}

/// The first line of `/proc/stat`.
pub fn machine() -> Result<Machine> {
    let stat = fs::read_to_string("/proc/stat").context("reading /proc/stat")?;
    let line = stat.lines().next().unwrap_or_default();
    let ticks: Vec<f64> =
        line.split_whitespace().skip(1).filter_map(|text| text.parse().ok()).collect();
    let [user, nice, system, _idle, _iowait, irq, softirq, stolen, ..] = ticks[..] else {
        anyhow::bail!("/proc/stat begins with {line:?}, expected the cpu line of proc(5)");
    };
    Ok(Machine {
        busy: (user + nice + system + irq + softirq) / TICKS_PER_SECOND,
        stolen: stolen / TICKS_PER_SECOND,
    })
}

/// `ListenOverflows` of `/proc/net/netstat`: connections dropped because an accept queue was full.
pub fn listen_overflows() -> Result<u64> {
    let netstat = fs::read_to_string("/proc/net/netstat").context("reading /proc/net/netstat")?;
    let mut lines = netstat.lines().filter(|line| line.starts_with("TcpExt:"));
    let (names, values) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    let position = names.split_whitespace().position(|name| name == "ListenOverflows");
    position
        .and_then(|index| values.split_whitespace().nth(index)?.parse().ok())
        .context("/proc/net/netstat has no TcpExt ListenOverflows")
}
