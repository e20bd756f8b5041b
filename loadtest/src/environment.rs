//! Where a run happened: what a reader needs to know before comparing two reports.
//!
//! Everything is read, nothing is guessed: what cannot be read is `unknown`.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde::Serialize;

/// The sysctls that move the results of a run with many connections.
const SYSCTLS: [&str; 10] = [
    "net.core.somaxconn",
    "net.core.rmem_max",
    "net.core.wmem_max",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_congestion_control",
    "net.ipv4.tcp_max_syn_backlog",
    "net.ipv4.tcp_mem",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
    "net.netfilter.nf_conntrack_max",
];

/// The fingerprint of a report.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Environment {
    /// Of the load tester's repository; `-dirty` when it had changes.
    pub commit: String,
    /// `debug` or `release`.
    pub build: String,
    /// Release of the kernel.
    pub kernel: String,
    /// How the server talks to the kernel, as it says itself.
    pub driver: String,
    /// Model name.
    pub cpu: String,
    /// Cores online.
    pub cores: usize,
    /// Megabytes.
    pub memory_mb: u64,
    /// Settings of the kernel.
    pub sysctls: Vec<(String, String)>,
    /// The command line of the load tester.
    pub command: String,
}

impl Environment {
    /// Reads the fingerprint of this machine; `driver` comes from the server.
    #[must_use]
    pub fn read(driver: Option<String>) -> Self {
        Self {
            commit: commit(),
            build: if cfg!(debug_assertions) { "debug" } else { "release" }.to_owned(),
            kernel: read_line("/proc/sys/kernel/osrelease"),
            driver: driver.unwrap_or_else(|| "unknown".to_owned()),
            cpu: field("/proc/cpuinfo", "model name"),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_mb: memory_mb(),
            sysctls: SYSCTLS.iter().filter_map(|name| sysctl(name)).collect(),
            command: std::env::args().collect::<Vec<_>>().join(" "),
        }
    }
}

fn sysctl(name: &str) -> Option<(String, String)> {
    let path = format!("/proc/sys/{}", name.replace('.', "/"));
    let value = fs::read_to_string(path).ok()?;
    Some((name.to_owned(), value.split_whitespace().collect::<Vec<_>>().join(" ")))
}

fn read_line(path: &str) -> String {
    fs::read_to_string(path).map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned())
}

/// The first value of `name : value` lines.
fn field(path: &str, name: &str) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    let mut lines = text.lines().filter_map(|line| line.split_once(':'));
    let found = lines.find(|(key, _)| key.trim() == name);
    found.map_or_else(|| "unknown".to_owned(), |(_, value)| value.trim().to_owned())
}

fn memory_mb() -> u64 {
    let total = field("/proc/meminfo", "MemTotal");
    total.split_whitespace().next().and_then(|kb| kb.parse::<u64>().ok()).unwrap_or(0) / 1024
}

/// Asks git beside the program file, then in the current folder.
fn commit() -> String {
    let beside = std::env::current_exe().ok().and_then(|exe| Some(exe.parent()?.to_owned()));
    let folders = beside.into_iter().chain(std::env::current_dir());
    folders.into_iter().find_map(|folder| git_commit(&folder)).unwrap_or_else(|| "unknown".into())
}

fn git_commit(folder: &Path) -> Option<String> {
    let git = |args: &[&str]| {
        let output = Command::new("git").arg("-C").arg(folder).args(args).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let hash = git(&["rev-parse", "--short=12", "HEAD"])?;
    let changes = git(&["status", "--porcelain", "--untracked-files=no"])?;
    Some(if changes.is_empty() { hash } else { format!("{hash}-dirty") })
}
