//! Gateways of a cluster as their clients and operators see them, and receivers that stay connected.
#![allow(dead_code, unreachable_pub, missing_docs, reason = "each test file uses its own share")]

use std::collections::HashSet;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use roost_testing::host::Port;

use super::tiers::act;
use super::{get, metric, wait_for};

/// The ports of a gateway, and its configuration file.
pub struct Gateway {
    pub name: String,
    /// Where clients connect.
    pub server: String,
    pub file: PathBuf,
    admin: Port,
    _frames: Port,
}

impl Gateway {
    pub fn new(name: &str, folder: &Path) -> Self {
        let (frames, admin) = (Port::free(), Port::free());
        let server = format!("127.0.0.1:{}", frames.number());
        let file = folder.join(format!("{name}.toml"));
        Self { name: name.to_owned(), server, file, admin, _frames: frames }
    }

    /// Its table in the configuration.
    pub fn table(&self) -> String {
        let (name, server, admin) = (&self.name, &self.server, self.admin.number());
        format!(
            "[gateway]\nname = {name:?}\nlisten = [{server:?}]\nadmin_listen = \"127.0.0.1:{admin}\"\nshards = 1\n"
        )
    }

    /// Where the operator asks.
    pub fn admin(&self) -> String {
        format!("127.0.0.1:{}", self.admin.number())
    }

    pub fn metric(&self, name: &str) -> f64 {
        let url = format!("http://127.0.0.1:{}/metrics", self.admin.number());
        metric(&url, name)
    }

    /// Users of deliveries that have no session here.
    pub fn missed(&self) -> f64 {
        self.metric("roost_gateway_control_users_missed_total")
    }

    pub fn sessions(&self) -> usize {
        self.metric("roost_gateway_sessions") as usize
    }

    pub fn readiness(&self) -> String {
        get(&format!("http://127.0.0.1:{}/readyz?verbose", self.admin.number()))
    }

    pub fn wait_complete(&self) {
        wait_for("all routes are written", || {
            (self.metric("roost_gateway_control_routes_complete") == 1.0).then_some(())
        });
    }
}

/// `roost tail`, line by line.
pub struct Tail {
    process: Child,
    lines: mpsc::Receiver<String>,
    seen: HashSet<String>,
}

impl Tail {
    pub fn start(user: &str, server: &str) -> Self {
        Self::of(act("tail", user, server, &["--from-start"]))
    }

    /// With these arguments.
    pub fn of(mut command: Command) -> Self {
        let mut process = command.stdout(Stdio::piped()).spawn().expect("roost tail starts");
        let output = BufReader::new(process.stdout.take().expect("piped"));
        let (line, lines) = mpsc::channel();
        std::thread::spawn(move || {
            output.lines().map_while(Result::ok).for_each(|text| _ = line.send(text));
        });
        Self { process, lines, seen: HashSet::new() }
    }

    /// A delivery that misses its gateway is found by the next heartbeat, after 26 s at least: too late here.
    pub fn wait(&mut self, text: &str) {
        self.wait_at_most(Duration::from_secs(20), text);
    }

    pub fn wait_at_most(&mut self, limit: Duration, text: &str) {
        while !self.seen.iter().any(|line| line.contains(text)) {
            let line = self.lines.recv_timeout(limit);
            self.seen.insert(line.unwrap_or_else(|_| panic!("{text:?} is seen in time")));
        }
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        _ = self.process.kill();
        _ = self.process.wait();
    }
}
