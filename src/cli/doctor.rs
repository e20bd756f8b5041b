//! `roost doctor`: what this machine allows, and what to do where it allows too little.

mod disk;

use std::fmt;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use roost_gateway::io::{descriptor_limit, probe};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// First of the ports that `roost dev` would use.
    #[arg(long, default_value_t = super::dev::PORT_BASE)]
    port_base: u16,
    /// Connections this host is meant to hold; limits are judged against it.
    #[arg(long, default_value_t = 100_000)]
    connections: u64,
    /// An existing folder on the disk that is to hold the data; it is watched for two seconds.
    #[arg(long, value_name = "DIR", default_value = ".")]
    data_dir: PathBuf,
}

/// An acknowledgement is to take less.
const COMMIT_P99_MAX: Duration = Duration::from_millis(10);

/// A Roost that runs here has answered by then.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);

/// How a finding is to be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Grade {
    Good,
    /// Works, with less than asked for.
    Warning,
    /// Will not work.
    Bad,
}

struct Finding {
    grade: Grade,
    subject: &'static str,
    value: String,
    /// Empty when there is nothing to do.
    advice: String,
}

impl Finding {
    fn good(subject: &'static str, value: impl Into<String>) -> Self {
        Self { grade: Grade::Good, subject, value: value.into(), advice: String::new() }
    }
    fn judged(
        grade_if_not: Grade,
        holds: bool,
        subject: &'static str,
        value: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        if holds {
            return Self::good(subject, value);
        }
        Self { grade: grade_if_not, subject, value: value.into(), advice: advice.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = match self.grade {
            Grade::Good => "ok  ",
            Grade::Warning => "warn",
            Grade::Bad => "BAD ",
        };
        write!(f, "{mark}  {:<28} {}", self.subject, self.value)?;
        if !self.advice.is_empty() {
            write!(f, "\n      -> {}", self.advice)?;
        }
        Ok(())
    }
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let mut findings = vec![kernel(), io_uring()];
    findings.extend(limits(args.connections));
    findings.extend(sysctls(args.connections));
    findings.extend(ports(args.port_base));
    findings.push(disk(&args.data_dir));
    let mut worst = Grade::Good;
    for finding in &findings {
        println!("{finding}");
        worst = worst.max(finding.grade);
    }
    match worst {
        Grade::Good => println!("\nReady for {} connections.", args.connections),
        Grade::Warning => {
            println!("\nRoost works here; mend the warnings for {} connections.", args.connections)
        }
        Grade::Bad => println!("\nMend the lines marked BAD first."),
    }
    Ok(if worst == Grade::Bad { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn kernel() -> Finding {
    let release = read("/proc/sys/kernel/osrelease").unwrap_or_else(|| "unknown".into());
    let mut numbers = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    Finding::judged(
        Grade::Warning,
        version >= (6, 1),
        "kernel",
        release,
        "the io_uring driver needs Linux 6.1 or newer; older kernels are served by the epoll driver",
    )
}

fn io_uring() -> Finding {
    let report = probe::probe();
    match report.failure() {
        None => Finding::good("io_uring", report.to_string()),
        Some(failure) => Finding {
            grade: Grade::Warning,
            subject: "io_uring",
            value: "not usable: the epoll driver serves, with more system calls per message".into(),
            advice: failure,
        },
    }
}

fn limits(connections: u64) -> Vec<Finding> {
    // `roost` raises its own soft limit to the hard one, as here.
    let files = descriptor_limit::raise().unwrap_or_else(|_| descriptor_limit::current());
    let shards_needed = connections.div_ceil(files.saturating_sub(200).max(1));
    vec![Finding::judged(
        Grade::Warning,
        files > connections + 200,
        "RLIMIT_NOFILE",
        files.to_string(),
        format!(
            "each shard's ring holds at most this many connections: raise it (LimitNOFILE=, /etc/security/limits.conf) or start with \
             --shards {shards_needed}"
        ),
    )]
}

fn sysctls(connections: u64) -> Vec<Finding> {
    let number = |path: &str, index: usize| {
        read(path).and_then(|text| text.split_whitespace().nth(index)?.parse::<u64>().ok())
    };
    // A waiting TCP connection costs about 4 KiB on the server, of which pages of tcp_mem count only queued data: one page in 16
    // connections is generous for chat and needed for broadcasts.
    let rows = [
        (
            "/proc/sys/net/core/somaxconn",
            0,
            "net.core.somaxconn",
            4096,
            "a burst of connects overflows the listen queue",
        ),
        (
            "/proc/sys/net/ipv4/tcp_max_syn_backlog",
            0,
            "net.ipv4.tcp_max_syn_backlog",
            1024,
            "a burst of connects is answered with SYN cookies",
        ),
        (
            "/proc/sys/net/ipv4/tcp_mem",
            2,
            "net.ipv4.tcp_mem (max)",
            connections / 4,
            "a broadcast to all connections runs out of TCP memory",
        ),
        (
            "/proc/sys/net/ipv4/tcp_max_orphans",
            0,
            "net.ipv4.tcp_max_orphans",
            16_384.min(connections),
            "closing many connections at once resets them",
        ),
        (
            "/proc/sys/fs/file-max",
            0,
            "fs.file-max",
            connections + 10_000,
            "the host runs out of files",
        ),
    ];
    let mut findings: Vec<_> = rows
        .into_iter()
        .filter_map(|(path, index, name, wanted, otherwise)| {
            let value = number(path, index)?;
            Some(Finding::judged(
                Grade::Warning,
                value >= wanted,
                name,
                value.to_string(),
                format!(
                    "{otherwise}; sysctl -w {}=... with at least {wanted}",
                    name.trim_end_matches(" (max)")
                ),
            ))
        })
        .collect();
    if let Some(conntrack) = number("/proc/sys/net/netfilter/nf_conntrack_max", 0) {
        findings.push(Finding::judged(
            Grade::Warning,
            conntrack > connections,
            "nf_conntrack_max",
            conntrack.to_string(),
            "connection tracking drops new connections when its table is full: raise net.netfilter.nf_conntrack_max, or exempt the \
             gateway's ports with a notrack rule",
        ));
    }
    findings
}

fn ports(port_base: u16) -> Vec<Finding> {
    let is_roost = roost_runs(port_base.saturating_add(super::dev::PORT_ADMIN));
    [0, super::dev::PORT_FRAMES, super::dev::PORT_ADMIN]
        .into_iter()
        .map(|offset| {
            let Some(port) = port_base.checked_add(offset) else {
                return Finding {
                    grade: Grade::Bad,
                    subject: "port",
                    value: format!("{port_base}+{offset}"),
                    advice: "choose a --port-base below 65526".into(),
                };
            };
            let is_free = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
            let state = match (is_free, is_roost) {
                (true, _) => "is free",
                (false, true) => "is used by the Roost that runs here",
                (false, false) => "is taken",
            };
            Finding::judged(
                Grade::Bad,
                is_free || is_roost,
                "port",
                format!("{port} {state}"),
                format!("stop what listens there (ss -ltnp 'sport = :{port}') or choose another --port-base"),
            )
        })
        .collect()
}

/// Whether `roost dev` is what listens: its admin port says so.
fn roost_runs(admin: u16) -> bool {
    let agent = ureq::Agent::config_builder().timeout_global(Some(ANSWER_WITHIN)).build();
    let answer = ureq::Agent::from(agent).get(format!("http://127.0.0.1:{admin}/metrics")).call();
    let text = answer.and_then(|mut answer| answer.body_mut().read_to_string());
    text.is_ok_and(|text| text.contains("\nroost_"))
}

fn disk(folder: &Path) -> Finding {
    let ms = |duration: Duration| format!("{:.2} ms", duration.as_secs_f64() * 1e3);
    match disk::watch(folder) {
        Ok(disk::Waits { p50, p99, max }) => Finding::judged(
            Grade::Warning,
            p99 <= COMMIT_P99_MAX,
            "disk, a durable commit",
            format!("p50 {}, p99 {}, max {}", ms(p50), ms(p99), ms(max)),
            "every acknowledgement waits for one: keep the data on a disk of its own, one that loses nothing when the power goes and \
             therefore syncs at once",
        ),
        Err(error) => Finding {
            grade: Grade::Bad,
            subject: "disk, a durable commit",
            value: format!("{}: {error}", folder.display()),
            advice: "name a folder with --data-dir that exists and can be written".into(),
        },
    }
}

fn read(path: &str) -> Option<String> {
    std::fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}
