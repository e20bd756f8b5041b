//! Watches the server's process and the machine while a run goes on.
//!
//! The server's memory and CPU are known only when it runs on this machine; its process is found
//! by its listening ports. What makes a run void is read here as well: stolen CPU and overflowing
//! listen queues. Everything comes from `/proc`; what cannot be read is absent.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use serde::Serialize;

/// Ticks a second in `/proc/*/stat`; fixed for all programs on Linux (proc(5)).
const TICKS_PER_SECOND: f64 = 100.0;
/// A run with more of its CPU time stolen is void.
const STEAL_RATIO_MAX: f64 = 0.02;

/// What the server's process uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct ServerUsage {
    /// Resident memory.
    pub rss_bytes: u64,
    /// Resident memory that is its own, without shared pages of files.
    pub private_bytes: u64,
    /// CPU seconds since the watch began.
    pub cpu_s: f64,
}

/// A process on this machine.
#[derive(Clone, Debug)]
pub struct ServerWatch {
    pid: u32,
    cpu_s_at_start: f64,
}

impl ServerWatch {
    /// Finds the process that listens on one of `ports` of this machine.
    #[must_use]
    pub fn find(addresses: &[SocketAddr]) -> Option<Self> {
        let local = addresses.iter().filter(|address| is_local(address.ip()));
        let pid = local.into_iter().find_map(|address| pid_listening_on(address.port()))?;
        Some(Self { pid, cpu_s_at_start: cpu_s(pid)? })
    }

    /// The process id.
    #[must_use]
    pub const fn pid(&self) -> u32 {
        self.pid
    }

    /// What it uses now, or nothing when it is gone.
    #[must_use]
    pub fn usage(&self) -> Option<ServerUsage> {
        let rollup = fs::read_to_string(format!("/proc/{}/smaps_rollup", self.pid)).ok()?;
        let bytes = |name: &str| {
            let line = rollup.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().next()?.parse::<u64>().ok().map(|kb| kb * 1024)
        };
        Some(ServerUsage {
            rss_bytes: bytes("Rss:")?,
            private_bytes: bytes("Private_Clean:")? + bytes("Private_Dirty:")?,
            cpu_s: cpu_s(self.pid)? - self.cpu_s_at_start,
        })
    }
}

fn is_local(ip: IpAddr) -> bool {
    // Binding to an address succeeds exactly when it is one of this machine.
    ip.is_loopback() || std::net::UdpSocket::bind((ip, 0)).is_ok()
}

fn pid_listening_on(port: u16) -> Option<u32> {
    let inodes: Vec<String> = ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .filter_map(|path| fs::read_to_string(path).ok())
        .flat_map(|table| listening_inodes(&table, port))
        .map(|inode| format!("socket:[{inode}]"))
        .collect();
    if inodes.is_empty() {
        return None;
    }
    let processes = fs::read_dir("/proc").ok()?.filter_map(Result::ok);
    let mut pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.find(|pid| holds_socket(*pid, &inodes))
}

/// Inodes of sockets in state LISTEN on `port`, from a table of proc(5) `net/tcp`.
fn listening_inodes(table: &str, port: u16) -> Vec<u64> {
    const LISTEN: &str = "0A";
    let of_line = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let local_port = fields.get(1)?.rsplit(':').next()?;
        let is_it = u16::from_str_radix(local_port, 16).ok()? == port && *fields.get(3)? == LISTEN;
        is_it.then(|| fields.get(9)?.parse().ok()).flatten()
    };
    table.lines().skip(1).filter_map(of_line).collect()
}

fn holds_socket(pid: u32, inodes: &[String]) -> bool {
    let Ok(fds) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    fds.filter_map(Result::ok)
        .filter_map(|fd| fs::read_link(fd.path()).ok())
        .any(|target| inodes.iter().any(|inode| target == Path::new(inode)))
}

fn cpu_s(pid: u32) -> Option<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything, so fields count from its end: utime is the 12th.
    let after_name = stat.rsplit_once(')')?.1;
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    let ticks = |at: usize| fields.get(at)?.parse::<f64>().ok();
    Some((ticks(11)? + ticks(12)?) / TICKS_PER_SECOND)
}

/// Counters of the whole machine whose growth disturbs a run.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct MachineCounters {
    cpu_ticks: u64,
    stolen_ticks: u64,
    listen_overflows: u64,
}

impl MachineCounters {
    /// Reads them now.
    #[must_use]
    pub fn read() -> Self {
        let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
        let netstat = fs::read_to_string("/proc/net/netstat").unwrap_or_default();
        Self::parse(&stat, &netstat)
    }

    fn parse(stat: &str, netstat: &str) -> Self {
        let ticks: Vec<u64> = stat
            .lines()
            .find(|line| line.starts_with("cpu "))
            .map(|line| line.split_whitespace().skip(1).filter_map(|t| t.parse().ok()).collect())
            .unwrap_or_default();
        let counter = |name| tcp_ext(netstat, name).unwrap_or(0);
        Self {
            // User and nice contain the guests' time, so the first eight are all there is.
            cpu_ticks: ticks.iter().take(8).sum(),
            stolen_ticks: ticks.get(7).copied().unwrap_or(0),
            listen_overflows: counter("ListenOverflows"),
        }
    }

    /// What happened since `before` that a run's figures cannot be trusted after, whoever did it.
    #[must_use]
    pub fn disturbances_since(&self, before: &Self) -> Vec<String> {
        let mut reasons = Vec::new();
        let all = self.cpu_ticks.saturating_sub(before.cpu_ticks);
        let stolen = self.stolen_ticks.saturating_sub(before.stolen_ticks);
        let ratio = stolen as f64 / all.max(1) as f64;
        if ratio > STEAL_RATIO_MAX {
            reasons.push(format!(
                "{:.1} % of the CPU time was stolen by other guests of this host (limit {:.0} %)",
                ratio * 100.0,
                STEAL_RATIO_MAX * 100.0
            ));
        }
        let overflows = self.listen_overflows.saturating_sub(before.listen_overflows);
        if overflows > 0 {
            reasons.push(format!(
                "a listen queue of this machine overflowed {overflows} times: raise \
                 net.core.somaxconn or lower --ramp"
            ));
        }
        reasons
    }
}

/// A counter of the `TcpExt:` pair of lines: names, then values.
fn tcp_ext(netstat: &str, name: &str) -> Option<u64> {
    let mut lines = netstat.lines().filter(|line| line.starts_with("TcpExt:"));
    let (names, values) = (lines.next()?, lines.next()?);
    let at = names.split_whitespace().position(|n| n == name)?;
    values.split_whitespace().nth(at)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_process_that_listens() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let watch = ServerWatch::find(&[listener.local_addr().unwrap()]).unwrap();
        assert_eq!(watch.pid(), std::process::id());
        let usage = watch.usage().unwrap();
        assert!(usage.rss_bytes > usage.private_bytes && usage.private_bytes > 0);
        drop(listener);
    }

    #[test]
    fn a_quiet_machine_disturbs_nothing() {
        let stat = "cpu  100 0 50 800 0 0 0 10 0 0\n";
        let netstat = "TcpExt: SyncookiesSent ListenOverflows\nTcpExt: 0 7\n";
        let before = MachineCounters::parse(stat, netstat);
        assert_eq!(before.disturbances_since(&before), Vec::<String>::new());
    }

    #[test]
    fn stolen_time_and_overflows_disturb_a_run() {
        let netstat = |n: u32| format!("TcpExt: A ListenOverflows\nTcpExt: 0 {n}\n");
        let before = MachineCounters::parse("cpu  100 0 50 800 0 0 0 10 0 0\n", &netstat(7));
        let after = MachineCounters::parse("cpu  150 0 60 820 0 0 0 30 0 0\n", &netstat(9));
        let said = after.disturbances_since(&before).join("\n");
        assert!(said.contains("20.0 % of the CPU time was stolen"), "{said}");
        assert!(said.contains("overflowed 2 times"), "{said}");
    }
}
