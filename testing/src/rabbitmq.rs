//! A RabbitMQ broker: one node with its own epmd, cookie, data and ports.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::host::{Port, need_package, scratch_folder, wait_until};
use crate::process::Process;

const SERVER: &str = "/usr/lib/rabbitmq/bin/rabbitmq-server";
const CTL: &str = "/usr/lib/rabbitmq/bin/rabbitmqctl";
/// Five seconds on a quiet machine.
const READY_WITHIN: Duration = Duration::from_secs(120);

/// A running broker with the user guest, password guest.
#[derive(Debug)]
pub struct RabbitMq {
    node: Process,
    folder: TempDir,
    port: Port,
    distribution: Port,
    // Last: it goes when the node is gone.
    names: NameServer,
}

/// `rabbitmqctl` that could not become a node is started again so often.
const CTL_ATTEMPTS: u32 = 3;

/// epmd, which Erlang would otherwise start as a daemon that nobody ends.
#[derive(Debug)]
struct NameServer {
    port: Port,
    process: Process,
}

impl RabbitMq {
    /// Starts a broker and waits until it accepts clients.
    ///
    /// # Panics
    /// When it does not; with the end of its log.
    pub fn start() -> Self {
        need_package(SERVER, "rabbitmq-server");
        let folder = scratch_folder("rabbitmq");
        let (port, distribution, names) = (Port::free(), Port::free(), NameServer::start());
        let settings = format!(
            "listeners.tcp.default = 127.0.0.1:{}\nvm_memory_high_watermark.absolute = 2GB\n\
             disk_free_limit.absolute = 10MB\n",
            port.number()
        );
        write(&folder.path().join("rabbitmq.conf"), &settings);
        write(&folder.path().join("enabled_plugins"), "[].");
        let node = start_node(folder.path(), &port, &distribution, &names);
        let mut broker = Self { node, folder, port, distribution, names };
        broker.wait_ready();
        broker
    }

    /// Where clients connect, with credentials.
    pub fn url(&self) -> String {
        format!("amqp://guest:guest@127.0.0.1:{}/%2f", self.port.number())
    }

    /// The same without credentials.
    pub fn url_without_credentials(&self) -> String {
        format!("amqp://127.0.0.1:{}/%2f", self.port.number())
    }

    /// Its process.
    pub fn process(&self) -> &Process {
        &self.node
    }

    /// The process that knows its distribution port.
    pub fn name_server(&self) -> &Process {
        &self.names.process
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// kill -9.
    pub fn kill(&mut self) {
        self.node.kill();
    }

    /// SIGSTOP.
    pub fn pause(&self) {
        self.node.pause();
    }

    /// SIGCONT.
    pub fn resume(&self) {
        self.node.resume();
    }

    /// Starts it again on the same ports with the same data, after [`RabbitMq::kill`].
    ///
    /// # Panics
    /// When it does not become ready.
    pub fn restart(&mut self) {
        self.node.kill();
        self.node = start_node(self.folder.path(), &self.port, &self.distribution, &self.names);
        self.wait_ready();
    }

    /// `rabbitmqctl`, with its output. About a second.
    ///
    /// # Panics
    /// When it fails.
    pub fn ctl(&self, arguments: &[&str]) -> String {
        let mut command = Command::new(CTL);
        environment(&mut command, self.folder.path(), &self.distribution, &self.names);
        command.arg("--quiet").args(arguments);
        let mut done = command.output().expect("rabbitmqctl starts");
        let (started_by, mut attempts_left) = (Instant::now() + READY_WITHIN, CTL_ATTEMPTS);
        loop {
            let errors = String::from_utf8_lossy(&done.stderr);
            // A broker accepts clients a moment before it calls itself started.
            let is_starting = errors.contains("app to be running") && Instant::now() < started_by;
            // It takes one of a hundred names by chance, and ends before it has asked anything when it cannot have it.
            let is_unlucky = errors.contains("Distribution failed") && attempts_left > 0;
            if !is_starting && !is_unlucky {
                break;
            }
            attempts_left -= u32::from(is_unlucky);
            done = command.output().expect("rabbitmqctl starts");
        }
        let text = String::from_utf8_lossy(&done.stdout).into_owned();
        let errors = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "rabbitmqctl {arguments:?}: {text}{errors}");
        text
    }

    /// Evaluates an Erlang expression in the broker; what it yields, as Erlang writes it. Takes a tenth of `rabbitmqctl eval`.
    ///
    /// # Panics
    /// When the broker is not reached or the expression fails.
    pub fn eval(&self, expression: &str) -> String {
        let mut command = Command::new("erl");
        environment(&mut command, self.folder.path(), &self.distribution, &self.names);
        let name = format!("eval{}@localhost", std::process::id());
        let program = format!(
            "{{ok, Tokens, _}} = erl_scan:string({expression:?}), {{ok, Parsed}} = erl_parse:parse_exprs(Tokens), \
             {{value, Value, _}} = rpc:call('roost@localhost', erl_eval, exprs, [Parsed, []]), \
             io:format(\"~p\", [Value]), halt()."
        );
        command.args([
            "-noinput",
            "-hidden",
            "-dist_listen",
            "false",
            "-sname",
            &name,
            "-eval",
            &program,
        ]);
        let done = command.output().expect("erl starts");
        let text = String::from_utf8_lossy(&done.stdout).into_owned();
        let errors = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "{expression}: {text}{errors}");
        text
    }

    fn wait_ready(&mut self) {
        let log = self.folder.path().join("node.log");
        wait_until("RabbitMQ accepts clients", READY_WITHIN, || {
            self.node.must_run(&log);
            self.port.is_open()
        });
    }
}

impl NameServer {
    fn start() -> Self {
        let (port, number);
        port = Port::free();
        number = port.number().to_string();
        let mut command = Command::new("epmd");
        command.args(["-port", &number, "-address", "127.0.0.1"]);
        let process = Process::start(&command, Path::new("/dev/null"));
        wait_until("epmd listens", READY_WITHIN, || port.is_open());
        Self { port, process }
    }
}

fn start_node(folder: &Path, port: &Port, distribution: &Port, names: &NameServer) -> Process {
    let mut command = Command::new(SERVER);
    environment(&mut command, folder, distribution, names);
    // The script then becomes the Erlang machine instead of watching over it: the id is the broker's.
    command.env("RABBITMQ_ALLOW_INPUT", "1").env("RABBITMQ_SERVER_START_ARGS", "-noinput");
    command.env("RABBITMQ_NODE_PORT", port.number().to_string());
    Process::start(&command, &folder.join("node.log"))
}

fn environment(command: &mut Command, folder: &Path, distribution: &Port, names: &NameServer) {
    let inside = |name: &str| folder.join(name);
    command
        .env("HOME", folder)
        .env("ERL_EPMD_PORT", names.port.number().to_string())
        .env("ERL_EPMD_ADDRESS", "127.0.0.1")
        .env("RABBITMQ_NODENAME", "roost@localhost")
        .env("RABBITMQ_DIST_PORT", distribution.number().to_string())
        .env("RABBITMQ_CONF_ENV_FILE", "/dev/null")
        .env("RABBITMQ_CONFIG_FILE", inside("rabbitmq.conf"))
        .env("RABBITMQ_ENABLED_PLUGINS_FILE", inside("enabled_plugins"))
        .env("RABBITMQ_FEATURE_FLAGS_FILE", inside("feature_flags"))
        .env("RABBITMQ_MNESIA_BASE", inside("data"))
        .env("RABBITMQ_LOG_BASE", folder)
        .env("RABBITMQ_LOGS", inside("rabbitmq.log"))
        .env("RABBITMQ_PID_FILE", inside("pid"));
}

fn write(file: &Path, text: &str) {
    std::fs::write(file, text).expect("a file in the scratch folder");
}
