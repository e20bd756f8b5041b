//! A Redis server that keeps nothing on disk.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use crate::host::{Port, need_package, scratch_folder, wait_until};
use crate::process::Process;

const SERVER: &str = "/usr/bin/redis-server";
const CLI: &str = "/usr/bin/redis-cli";
const READY_WITHIN: Duration = Duration::from_secs(30);

/// A running server without a password.
#[derive(Debug)]
pub struct Redis {
    process: Process,
    folder: TempDir,
    port: Port,
}

impl Redis {
    /// Starts a server and waits until it answers.
    ///
    /// # Panics
    /// When it does not.
    pub fn start() -> Self {
        need_package(SERVER, "redis-server");
        let folder = scratch_folder("redis");
        let port = Port::free();
        let server = Self { process: start(folder.path(), &port), folder, port };
        server.wait_ready();
        server
    }

    /// Where clients connect.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port.number())
    }

    /// Its process.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// kill -9.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// SIGSTOP.
    pub fn pause(&self) {
        self.process.pause();
    }

    /// SIGCONT.
    pub fn resume(&self) {
        self.process.resume();
    }

    /// Starts it again on the same port, empty.
    ///
    /// # Panics
    /// When it does not answer.
    pub fn restart(&mut self) {
        self.process.kill();
        self.process = start(self.folder.path(), &self.port);
        self.wait_ready();
    }

    /// `redis-cli`, with its output.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn cli(&self, arguments: &[&str]) -> String {
        let mut command = Command::new(CLI);
        command.args(["-p", &self.port.number().to_string()]).args(arguments);
        let done = command.output().expect("redis-cli starts");
        String::from_utf8_lossy(&done.stdout).trim_end().to_owned()
    }

    fn wait_ready(&self) {
        wait_until("Redis answers", READY_WITHIN, || self.cli(&["PING"]) == "PONG");
    }
}

fn start(folder: &Path, port: &Port) -> Process {
    let mut command = Command::new(SERVER);
    command.args(["--port", &port.number().to_string(), "--bind", "127.0.0.1"]);
    command.args(["--save", "", "--appendonly", "no", "--dir"]).arg(folder);
    Process::start(&command, &folder.join("redis.log"))
}
