//! The processes of a bench: what is measured, and how each is started and ended.

use std::fmt;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::ballast;
use crate::generator::{Framing, Load, Outcome, Pace};

/// A peer must listen within this after its start.
const START_DEADLINE: Duration = Duration::from_secs(10);

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Subject {
    /// The floor every ratio is against.
    UringEcho,
    /// Our gateway on io_uring.
    Gateway,
    /// Our gateway on epoll.
    GatewayEpoll,
    /// The classic way.
    EpollEcho,
    /// A runtime instead of one's own ring.
    MonoioEcho,
    /// Connections alone.
    AcceptHold,
    /// A broker in C, when installed.
    Mosquitto,
    /// A broker in Go, when installed.
    Nats,
}

impl fmt::Display for Subject {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.name())
    }
}

impl Subject {
    /// As it is called in reports and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::UringEcho => "uring-echo",
            Self::Gateway => "gateway",
            Self::GatewayEpoll => "gateway-epoll",
            Self::EpollEcho => "epoll-echo",
            Self::MonoioEcho => "monoio-echo",
            Self::AcceptHold => "accept-hold",
            Self::Mosquitto => "mosquitto",
            Self::Nats => "nats",
        }
    }

    /// What it speaks.
    pub fn framing(self) -> Framing {
        match self {
            Self::UringEcho | Self::EpollEcho | Self::MonoioEcho | Self::AcceptHold => {
                Framing::Blocks
            }
            Self::Gateway | Self::GatewayEpoll => Framing::Roost,
            Self::Mosquitto => Framing::Mqtt,
            Self::Nats => Framing::Nats,
        }
    }

    /// The program of a broker; ours are roles of this program.
    fn broker(self) -> Option<&'static str> {
        match self {
            Self::UringEcho
            | Self::Gateway
            | Self::GatewayEpoll
            | Self::EpollEcho
            | Self::MonoioEcho
            | Self::AcceptHold => None,
            Self::Mosquitto => Some("mosquitto"),
            Self::Nats => Some("nats-server"),
        }
    }

    /// Why it cannot be measured here, if it cannot.
    pub fn absent(self) -> Option<String> {
        let program = self.broker()?;
        let reason = || format!("{program} is not installed (apt-get install {program})");
        find_program(program).is_none().then(reason)
    }
}

fn find_program(name: &str) -> Option<PathBuf> {
    let folders = std::env::var_os("PATH")?;
    // Debian keeps daemons in sbin, which an ordinary user's PATH lacks.
    std::env::split_paths(&folders)
        .chain([PathBuf::from("/usr/sbin")])
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
}

/// Where and how processes run.
#[derive(Clone, Copy, Debug)]
pub struct Placement {
    /// Core of the subject.
    pub server_cpu: usize,
    /// Core of generator and ballast.
    pub generator_cpu: usize,
    /// Subject and generator before everything else on the machine (`SCHED_FIFO`).
    pub realtime: bool,
}

/// A process that reads lines, writes lines, and is killed when dropped.
pub struct Process {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    name: String,
}

impl Process {
    fn spawn(command: &mut Command, name: &str) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting {name}"))?;
        let input = child.stdin.take();
        let output = child.stdout.take().context("a piped output is there")?;
        Ok(Self { child, input, output: BufReader::new(output), name: name.to_owned() })
    }

    /// This program again, in another role, on one core.
    fn role(arguments: &[String], cpu: usize, realtime: bool) -> Result<Self> {
        let program = std::env::current_exe().context("finding this program")?;
        let mut command = Command::new(program);
        command.args(arguments).arg("--cpu").arg(cpu.to_string());
        if realtime {
            command.arg("--realtime");
        }
        Self::spawn(&mut command, &arguments.join(" "))
    }

    /// Sends a line and waits for the answer.
    pub fn ask(&mut self, line: &str) -> Result<String> {
        let input = self.input.as_mut().context("input is open until the process is dropped")?;
        writeln!(input, "{line}").with_context(|| format!("{} is gone", self.name))?;
        self.read_line()
    }

    fn read_line(&mut self) -> Result<String> {
        let mut line = String::new();
        let length = self.output.read_line(&mut line)?;
        ensure!(length > 0, "{} ended without an answer; see its message above", self.name);
        Ok(line.trim_end().to_owned())
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.input.take());
        // Either fails only when the process has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A subject that accepts connections.
pub struct Server {
    /// Which.
    pub subject: Subject,
    /// Its process.
    pub process: Process,
    /// Its listeners.
    pub targets: Vec<SocketAddrV4>,
}

impl Server {
    /// Starts a subject on `rings` rings or shards, where it has such.
    pub fn start(subject: Subject, rings: usize, placement: Placement) -> Result<Self> {
        if let Some(program) = subject.broker() {
            return start_broker(subject, program, placement);
        }
        let arguments = format!("floor {subject} --rings {rings}");
        let (process, targets) = start_floor(&arguments, placement)?;
        Ok(Self { subject, process, targets })
    }
}

fn words(line: &str) -> Vec<String> {
    line.split_whitespace().map(str::to_owned).collect()
}

/// Starts a floor by its command line and reads where it listens.
pub fn start_floor(arguments: &str, placement: Placement) -> Result<(Process, Vec<SocketAddrV4>)> {
    let mut process = Process::role(&words(arguments), placement.server_cpu, placement.realtime)?;
    let line = process.read_line()?;
    let ports = line
        .strip_prefix("listening ")
        .with_context(|| format!("{arguments} said {line:?}, expected `listening PORT`"))?;
    let targets = ports
        .split(',')
        .map(|port| Ok(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port.parse()?)))
        .collect::<Result<_>>()?;
    Ok((process, targets))
}

/// A broker with nothing written to disk, on the server's core, ended with this process.
fn start_broker(subject: Subject, program: &str, placement: Placement) -> Result<Server> {
    let path = find_program(program).with_context(|| subject.absent().unwrap_or_default())?;
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
    let target = SocketAddrV4::new(Ipv4Addr::LOCALHOST, port);
    let folder = Path::new("target/bench/peers");
    std::fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "taskset", "-c", &placement.server_cpu.to_string()]);
    if placement.realtime {
        command.args(["chrt", "--fifo", "1"]);
    }
    command.arg(path);
    if subject == Subject::Mosquitto {
        let file = folder.join("mosquitto.conf");
        let settings = format!(
            "listener {port} 127.0.0.1\nallow_anonymous true\nset_tcp_nodelay true\n\
             persistence false\nlog_type none\nuser root\n"
        );
        std::fs::write(&file, settings)?;
        command.arg("-c").arg(file);
    } else {
        command.args(["-a", "127.0.0.1", "-p", &port.to_string()]);
        command.arg("-l").arg(folder.join("nats.log"));
    }
    // Its greetings; that it listens is checked.
    command.stderr(Stdio::null());
    let process = Process::spawn(&mut command, subject.name())?;
    let deadline = Instant::now() + START_DEADLINE;
    while TcpStream::connect(target).is_err() {
        ensure!(Instant::now() < deadline, "{subject} does not listen on {target}");
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(Server { subject, process, targets: vec![target] })
}

fn join(targets: &[SocketAddrV4]) -> String {
    targets.iter().map(SocketAddrV4::to_string).collect::<Vec<_>>().join(",")
}

/// Runs the generator in a process of its own.
pub fn generate(load: &Load, placement: Placement) -> Result<Outcome> {
    let pace = match load.pace {
        Pace::OneInFlight => 0,
        Pace::PerSecond(rate) => rate,
    };
    let framing = framing_name(load.framing);
    let mut arguments = words(&format!(
        "load --targets {} --connections {} --framing {framing} --rate {pace} \
         --warmup-ms {} --duration-ms {}",
        join(&load.targets),
        load.connections,
        load.warmup.as_millis(),
        load.duration.as_millis(),
    ));
    if let Some(pid) = load.server_pid {
        arguments.extend(["--server-pid".to_owned(), pid.to_string()]);
    }
    let mut process = Process::role(&arguments, placement.generator_cpu, placement.realtime)?;
    let line = process.read_line()?;
    serde_json::from_str(&line).with_context(|| format!("the generator said {line:?}"))
}

fn framing_name(framing: Framing) -> String {
    use clap::ValueEnum;
    framing.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
}

/// Idle connections in as many processes as RLIMIT_NOFILE makes necessary.
pub struct Ballast {
    processes: Vec<Process>,
}

impl Ballast {
    /// Starts processes enough for `connections`, and opens none yet.
    pub fn start(server: &Server, connections: usize, placement: Placement) -> Result<Self> {
        let count = connections.div_ceil(ballast::CONNECTIONS_MAX).max(1);
        let framing = framing_name(server.subject.framing());
        let processes = (0..count)
            .map(|family| {
                let targets = join(&server.targets);
                let arguments =
                    format!("ballast --targets {targets} --framing {framing} --family {family}");
                Process::role(&words(&arguments), placement.generator_cpu, placement.realtime)
            })
            .collect::<Result<_>>()?;
        Ok(Self { processes })
    }

    /// Opens this many more, shared among the processes.
    pub fn hold(&mut self, connections: usize) -> Result<()> {
        let (processes, mut left) = (self.processes.len(), connections);
        for (index, process) in self.processes.iter_mut().enumerate() {
            let share = left.div_ceil(processes - index);
            left -= share;
            let answer = process.ask(&format!("hold {share}"))?;
            ensure!(answer == "held", "ballast said {answer:?}");
        }
        Ok(())
    }

    /// Makes the clients' halves disappear without a packet.
    pub fn vanish(&mut self) -> Result<()> {
        for process in &mut self.processes {
            let answer = process.ask("vanish")?;
            ensure!(answer == "vanished", "ballast said {answer:?}");
        }
        Ok(())
    }
}
