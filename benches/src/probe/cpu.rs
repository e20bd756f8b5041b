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

/// The cores that a process may run on (`Cpus_allowed_list` in `/proc/PID/status`, for example
/// `0,2-3`).
pub fn cores_of(pid: u32) -> Result<Vec<usize>> {
    let path = format!("/proc/{pid}/status");
    let status = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    let list = list.with_context(|| format!("{path} has no Cpus_allowed_list"))?;
    let mut cores = Vec::new();
    for part in list.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let core = |text: &str| text.parse::<usize>().with_context(|| format!("{path}: {list:?}"));
        cores.extend(core(first)?..=core(last)?);
    }
    Ok(cores)
}

/// What cores did since boot, in seconds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Machine {
    /// All of them: everything but idle, waiting for a disk, and stolen.
    pub busy: f64,
    /// Those asked for: given to other machines by the hypervisor.
    pub stolen: f64,
}

/// `/proc/stat`, with the stolen time of these cores alone: a core that nobody uses is taken away
/// from nobody.
pub fn machine(cores: &[usize]) -> Result<Machine> {
    let stat = fs::read_to_string("/proc/stat").context("reading /proc/stat")?;
    let mut machine = Machine::default();
    for line in stat.lines().take_while(|line| line.starts_with("cpu")) {
        let mut fields = line.split_whitespace();
        let name = fields.next().unwrap_or_default();
        let ticks: Vec<f64> = fields.filter_map(|text| text.parse().ok()).collect();
        let [user, nice, system, _idle, _iowait, irq, softirq, stolen, ..] = ticks[..] else {
            anyhow::bail!("/proc/stat has {line:?}, expected a cpu line of proc(5)");
        };
        match name.trim_start_matches("cpu").parse::<usize>() {
            Ok(core) if cores.contains(&core) => machine.stolen += stolen / TICKS_PER_SECOND,
            Ok(_) => {}
            Err(_) => {
                machine.busy = (user + nice + system + irq + softirq) / TICKS_PER_SECOND;
            }
        }
    }
    Ok(machine)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_cores_make_the_machine() {
        let cores = cores_of(std::process::id()).unwrap();
        assert!(!cores.is_empty());
        let before = machine(&cores).unwrap();
        assert!(before.busy > 0.0);
        assert!(machine(&[]).unwrap().stolen.abs() < f64::EPSILON);
        assert!(machine(&cores).unwrap().stolen >= before.stolen);
    }
}
