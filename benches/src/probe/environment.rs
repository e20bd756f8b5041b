//! The fingerprint at the head of every report: a figure without it cannot be compared.

use std::fs;
use std::process::Command;

use serde::Serialize;

/// Settings that move the figures.
const SYSCTLS: [&str; 8] = [
    "kernel/io_uring_disabled",
    "kernel/sched_rt_runtime_us",
    "net/core/somaxconn",
    "net/ipv4/ip_local_port_range",
    "net/ipv4/tcp_congestion_control",
    "net/ipv4/tcp_mem",
    "net/ipv4/tcp_rmem",
    "net/ipv4/tcp_wmem",
];

/// What a report is about.
#[derive(Clone, Debug, Serialize)]
pub struct Environment {
    /// Commit of the working tree, `-dirty` when it has changes.
    pub commit: String,
    /// `uname -r`.
    pub kernel: String,
    /// Cores and their model.
    pub processor: String,
    /// MemTotal.
    pub memory_kib: u64,
    /// RLIMIT_NOFILE.
    pub open_files_max: String,
    /// Load average before the first measurement: others on this machine.
    pub load_average: String,
    /// Driver of our gateway.
    pub driver: String,
    /// Scheduling class of subjects and generator.
    pub priority: String,
    /// Where the connections are; filled in once it is known.
    pub network: String,
    /// Name and value.
    pub sysctls: Vec<(String, String)>,
}

impl Environment {
    /// Reads it all; what cannot be read says so in its place.
    pub fn read(driver: &str, priority: &str) -> Self {
        let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
        let open_files =
            limits.lines().find(|line| line.starts_with("Max open files")).unwrap_or_default();
        Self {
            commit: commit(),
            kernel: read("/proc/sys/kernel/osrelease"),
            processor: processor(),
            memory_kib: super::memory::meminfo_kib("MemTotal").unwrap_or_default(),
            open_files_max: open_files.split_whitespace().nth(3).unwrap_or("unknown").to_owned(),
            load_average: read("/proc/loadavg"),
            driver: driver.to_owned(),
            priority: priority.to_owned(),
            network: String::new(),
            sysctls: SYSCTLS
                .iter()
                .map(|name| (name.replace('/', "."), read(&format!("/proc/sys/{name}"))))
                .collect(),
        }
    }

    /// The header of a printed report.
    pub fn print(&self) {
        println!("commit    {}", self.commit);
        println!("kernel    {} · {} · {} KiB", self.kernel, self.processor, self.memory_kib);
        println!("driver    {} · priority {}", self.driver, self.priority);
        println!("limits    {} open files · load {}", self.open_files_max, self.load_average);
        println!("network   {}", self.network);
        for (name, value) in &self.sysctls {
            println!("sysctl    {name} = {value}");
        }
    }
}

fn read(path: &str) -> String {
    match fs::read_to_string(path) {
        Ok(text) => text.split_whitespace().collect::<Vec<_>>().join(" "),
        Err(error) => format!("unreadable: {error}"),
    }
}

fn processor() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let mut models = text.lines().filter_map(|line| line.strip_prefix("model name"));
    let model = models.clone().next().unwrap_or_default().trim_start_matches([' ', '\t', ':']);
    format!("{} x {model}", models.by_ref().count())
}

fn commit() -> String {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        output.status.success().then(|| text.trim().to_owned())
    };
    let Some(commit) = git(&["rev-parse", "--short=12", "HEAD"]) else {
        return "unknown (no git)".to_owned();
    };
    match git(&["status", "--porcelain"]) {
        Some(changes) if changes.is_empty() => commit,
        _ => format!("{commit}-dirty"),
    }
}
