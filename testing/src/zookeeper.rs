//! A ZooKeeper server: one node with its own data folder and port.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use crate::host::{Port, need_package, scratch_folder, wait_until};
use crate::process::Process;

const JAVA: &str = "/usr/bin/java";
/// With everything it needs in its manifest. Not the package `zookeeper`: that one brings a desktop's Java.
const JAR: &str = "/usr/share/java/zookeeper.jar";
const MAIN: &str = "org.apache.zookeeper.server.ZooKeeperServerMain";
/// Three seconds on a quiet machine.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// A running server.
#[derive(Debug)]
pub struct ZooKeeper {
    server: Process,
    folder: TempDir,
    port: Port,
}

impl ZooKeeper {
    /// Starts a server and waits until it answers.
    ///
    /// # Panics
    /// When it does not; with the end of its log.
    pub fn start() -> Self {
        need_package(JAVA, "default-jre-headless");
        need_package(JAR, "libzookeeper-java");
        let folder = scratch_folder("zookeeper");
        let port = Port::free();
        let settings = format!(
            "tickTime=200\nminSessionTimeout=400\nmaxSessionTimeout=60000\ndataDir={}\nclientPortAddress=127.0.0.1\n\
             clientPort={}\nadmin.enableServer=false\n4lw.commands.whitelist=srvr\n",
            folder.path().join("data").display(),
            port.number()
        );
        std::fs::write(folder.path().join("zoo.cfg"), settings).expect("a file in the folder");
        let mut zookeeper = Self { server: start(folder.path()), folder, port };
        zookeeper.wait_ready();
        zookeeper
    }

    /// Where clients connect: `host:port`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port.number())
    }

    /// Its process.
    pub fn process(&self) -> &Process {
        &self.server
    }

    /// Where it listens for clients.
    pub fn port(&self) -> u16 {
        self.port.number()
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

    /// Starts it again on the same port with the same data, after [`ZooKeeper::kill`].
    ///
    /// # Panics
    /// When it does not become ready.
    pub fn restart(&mut self) {
        self.server.kill();
        self.server = start(self.folder.path());
        self.wait_ready();
    }

    fn wait_ready(&mut self) {
        let log = self.folder.path().join("server.log");
        wait_until("ZooKeeper answers", READY_WITHIN, || {
            self.server.must_run(&log);
            serves(self.port.number()).unwrap_or(false)
        });
    }
}

/// Whether it says its mode, which it does when it takes sessions; it listens before.
fn serves(port: u16) -> std::io::Result<bool> {
    let mut socket = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    socket.set_read_timeout(Some(Duration::from_secs(5)))?;
    socket.write_all(b"srvr")?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer)?;
    Ok(answer.contains("Mode: standalone"))
}

fn start(folder: &Path) -> Process {
    let mut command = Command::new(JAVA);
    command.args(["-Xmx128m", "-Djava.awt.headless=true", "-cp", JAR, MAIN]);
    command.arg(folder.join("zoo.cfg")).current_dir(folder);
    Process::start(&command, &folder.join("server.log"))
}
