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

/// A running server, without a password unless its arguments say otherwise.
#[derive(Debug)]
pub struct Redis {
    process: Process,
    folder: TempDir,
    port: Port,
    arguments: Vec<String>,
}

impl Redis {
    /// Starts a server and waits until it answers.
    ///
    /// # Panics
    /// When it does not.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// The same with further arguments of `redis-server`.
    ///
    /// # Panics
    /// When it does not answer.
    pub fn start_with(arguments: &[&str]) -> Self {
        need_package(SERVER, "redis-server");
        let folder = scratch_folder("redis");
        let port = Port::free();
        let arguments: Vec<String> = arguments.iter().map(|&text| text.to_owned()).collect();
        let process = start(folder.path(), &port, &arguments);
        let server = Self { process, folder, port, arguments };
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
        self.process = start(self.folder.path(), &self.port, &self.arguments);
        self.wait_ready();
    }

    /// `redis-cli`, with its output.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn cli(&self, arguments: &[&str]) -> String {
        cli(self.port.number(), arguments)
    }

    fn wait_ready(&self) {
        wait_until("Redis answers", READY_WITHIN, || {
            let answer = self.cli(&["PING"]);
            answer == "PONG" || answer.starts_with("NOAUTH")
        });
    }
}

fn cli(port: u16, arguments: &[&str]) -> String {
    let mut command = Command::new(CLI);
    command.args(["-p", &port.to_string()]).args(arguments);
    let done = command.output().expect("redis-cli starts");
    String::from_utf8_lossy(&done.stdout).trim_end().to_owned()
}

fn start(folder: &Path, port: &Port, arguments: &[String]) -> Process {
    let mut command = Command::new(SERVER);
    command.args(["--port", &port.number().to_string(), "--bind", "127.0.0.1"]);
    command.args(["--save", "", "--appendonly", "no", "--dir"]).arg(folder).args(arguments);
    Process::start(&command, &folder.join("redis.log"))
}

/// Three masters that divide the keys.
#[derive(Debug)]
pub struct RedisCluster {
    /// The servers.
    pub masters: Vec<Redis>,
    _bus_ports: Vec<Port>,
}

impl RedisCluster {
    /// Starts it and waits until every server takes commands.
    ///
    /// # Panics
    /// When it does not.
    pub fn start() -> Self {
        let bus_ports: Vec<Port> = (0..3).map(|_| Port::free()).collect();
        let master = |bus: &Port| {
            let bus = bus.number().to_string();
            let timeout = ["--cluster-node-timeout", "2000"];
            let enabled = ["--cluster-enabled", "yes", "--cluster-port", &bus];
            Redis::start_with(&[enabled.as_slice(), &timeout].concat())
        };
        let masters: Vec<Redis> = bus_ports.iter().map(master).collect();
        let addresses: Vec<String> =
            masters.iter().map(|master| format!("127.0.0.1:{}", master.port())).collect();
        let mut create = vec!["--cluster", "create"];
        create.extend(addresses.iter().map(String::as_str));
        create.push("--cluster-yes");
        let said = masters[0].cli(&create);
        let cluster = Self { masters, _bus_ports: bus_ports };
        wait_until(&format!("the cluster is one: {said}"), READY_WITHIN, || cluster.is_well());
        cluster
    }

    /// All servers, as the configuration takes them.
    pub fn url(&self) -> String {
        let url = |master: &Redis| format!("redis://127.0.0.1:{}", master.port());
        self.masters.iter().map(url).collect::<Vec<_>>().join(",")
    }

    /// Whether every server takes commands.
    pub fn is_well(&self) -> bool {
        let is_ok = |master: &Redis| master.cli(&["CLUSTER", "INFO"]).contains("cluster_state:ok");
        self.masters.iter().all(is_ok)
    }
}

/// The name of the master that [`Sentinels`] watch.
pub const MASTER_NAME: &str = "main";

/// A master, a replica of it, and three Sentinels that promote the replica when the master is away for half a second.
#[derive(Debug)]
pub struct Sentinels {
    /// The two servers; which of them is the master changes.
    pub servers: [Redis; 2],
    sentinels: Vec<(Process, Port)>,
    _folder: TempDir,
}

impl Sentinels {
    /// Starts them and waits until the Sentinels know each other and the replica.
    ///
    /// # Panics
    /// When they do not.
    pub fn start() -> Self {
        let master = Redis::start();
        let port = master.port().to_string();
        let replica = Redis::start_with(&["--replicaof", "127.0.0.1", &port]);
        let folder = scratch_folder("sentinel");
        let sentinel = |index: usize| {
            let own = Port::free();
            let file = folder.path().join(format!("sentinel-{index}.conf"));
            let text = format!(
                "port {}\nbind 127.0.0.1\ndir {}\nsentinel monitor {MASTER_NAME} 127.0.0.1 {port} 2\n\
                 sentinel down-after-milliseconds {MASTER_NAME} 500\nsentinel failover-timeout {MASTER_NAME} 3000\n",
                own.number(),
                folder.path().display(),
            );
            std::fs::write(&file, text).expect("a configuration of a Sentinel");
            let mut command = Command::new(SERVER);
            command.arg(&file).arg("--sentinel");
            (Process::start(&command, &folder.path().join(format!("sentinel-{index}.log"))), own)
        };
        let sentinels: Vec<(Process, Port)> = (0..3).map(sentinel).collect();
        let all = Self { servers: [master, replica], sentinels, _folder: folder };
        wait_until("the Sentinels are ready", READY_WITHIN, || {
            all.sentinels.iter().all(|(_, port)| knows_all(port.number()))
        });
        all
    }

    /// The Sentinels, as the configuration takes them.
    pub fn url(&self) -> String {
        let url = |(_, port): &(Process, Port)| format!("redis://127.0.0.1:{}", port.number());
        self.sentinels.iter().map(url).collect::<Vec<_>>().join(",")
    }

    /// The position of the master, as the Sentinels see it.
    ///
    /// # Panics
    /// When they name none of the servers.
    pub fn master(&self) -> usize {
        let port = self.sentinels[0].1.number();
        let named = cli(port, &["SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER_NAME]);
        let is_named = |server: &Redis| named.ends_with(&server.port().to_string());
        self.servers.iter().position(is_named).expect("one of the servers")
    }
}

/// Whether a Sentinel sees two others and a replica in order.
fn knows_all(port: u16) -> bool {
    let master = cli(port, &["SENTINEL", "MASTER", MASTER_NAME]);
    let lines: Vec<&str> = master.lines().collect();
    let is = |name, value| lines.windows(2).any(|pair| pair == [name, value]);
    is("num-other-sentinels", "2") && is("num-slaves", "1") && is("flags", "master")
}
