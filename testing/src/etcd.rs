//! An etcd server: one member with its own data folder and ports.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use crate::host::{Port, need_package, scratch_folder, wait_until};
use crate::process::Process;

const SERVER: &str = "/usr/bin/etcd";
const CTL: &str = "/usr/bin/etcdctl";
/// Two seconds on a quiet machine.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// Of the user root, once there are accounts.
const PASSWORD: &str = "roost";

/// A running server, without accounts at first.
#[derive(Debug)]
pub struct Etcd {
    server: Process,
    folder: TempDir,
    clients: Port,
    peers: Port,
    has_accounts: bool,
}

impl Etcd {
    /// Starts a server and waits until it answers.
    ///
    /// # Panics
    /// When it does not; with the end of its log.
    pub fn start() -> Self {
        need_package(SERVER, "etcd-server");
        need_package(CTL, "etcd-client");
        let folder = scratch_folder("etcd");
        let (clients, peers) = (Port::free(), Port::free());
        let server = start(folder.path(), &clients, &peers);
        let mut etcd = Self { server, folder, clients, peers, has_accounts: false };
        etcd.wait_ready();
        etcd
    }

    /// Where clients connect.
    pub fn url(&self) -> String {
        url(&self.clients)
    }

    /// From now on only the user root with the password roost may do anything.
    ///
    /// # Panics
    /// When that fails.
    pub fn add_accounts(&mut self) {
        self.ctl(&["user", "add", &format!("root:{PASSWORD}")]);
        self.ctl(&["user", "grant-role", "root", "root"]);
        self.ctl(&["auth", "enable"]);
        self.has_accounts = true;
    }

    /// Its process.
    pub fn process(&self) -> &Process {
        &self.server
    }

    /// Where it listens for clients.
    pub fn port(&self) -> u16 {
        self.clients.number()
    }

    /// kill -9.
    pub fn kill(&mut self) {
        self.server.kill();
    }

    /// SIGSTOP.
    pub fn pause(&self) {
        self.server.pause();
    }

    /// SIGCONT.
    pub fn resume(&self) {
        self.server.resume();
    }

    /// Starts it again on the same ports with the same data, after [`Etcd::kill`].
    ///
    /// # Panics
    /// When it does not become ready.
    pub fn restart(&mut self) {
        self.server.kill();
        self.server = start(self.folder.path(), &self.clients, &self.peers);
        self.wait_ready();
    }

    /// `etcdctl`, with its output.
    ///
    /// # Panics
    /// When it fails.
    pub fn ctl(&self, arguments: &[&str]) -> String {
        let done = self.run_ctl(arguments);
        let errors = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "etcdctl {arguments:?}: {errors}");
        String::from_utf8_lossy(&done.stdout).trim_end().to_owned()
    }

    fn run_ctl(&self, arguments: &[&str]) -> std::process::Output {
        let mut command = Command::new(CTL);
        command.env("ETCDCTL_API", "3").args(["--endpoints", &self.url()]);
        if self.has_accounts {
            command.args(["--user", &format!("root:{PASSWORD}")]);
        }
        command.args(arguments).output().expect("etcdctl starts")
    }

    fn wait_ready(&mut self) {
        let log = self.folder.path().join("server.log");
        wait_until("etcd answers", READY_WITHIN, || {
            self.server.must_run(&log);
            self.clients.is_open() && self.run_ctl(&["get", "ready"]).status.success()
        });
    }
}

fn url(port: &Port) -> String {
    format!("http://127.0.0.1:{}", port.number())
}

fn start(folder: &Path, clients: &Port, peers: &Port) -> Process {
    let mut command = Command::new(SERVER);
    let (clients, peers) = (url(clients), url(peers));
    command.arg("--data-dir").arg(folder.join("data")).args(["--name", "roost"]);
    command.args(["--listen-client-urls", &clients, "--advertise-client-urls", &clients]);
    command.args(["--listen-peer-urls", &peers, "--initial-advertise-peer-urls", &peers]);
    command.args(["--initial-cluster", &format!("roost={peers}")]);
    Process::start(&command, &folder.join("server.log"))
}
