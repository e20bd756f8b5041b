//! Starts and stops real `roost` processes for tests, each on its own ports and folder.
#![allow(dead_code, unreachable_pub, missing_docs, reason = "each test file uses its own share")]

pub mod cluster;
pub mod collector;
pub mod tiers;
pub mod wire;

use std::ffi::OsString;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// Nothing in these tests takes longer unless it is broken.
pub const DEADLINE: Duration = Duration::from_secs(30);

pub const DRIVERS: [&str; 2] = ["io_uring", "epoll"];

pub fn roost() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_roost"));
    command.stdin(Stdio::null()).env_remove("RUST_LOG");
    command
}

/// A base whose ports +0, +1, +2 and +9 are free. Test processes start at different places, by their id.
pub fn free_port_base() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    for _ in 0..500 {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let base =
            10_000 + ((std::process::id() as u16).wrapping_mul(37) % 1_000 + step) % 1_000 * 10;
        if [0, 1, 2, 9].iter().all(|o| TcpListener::bind((Ipv4Addr::LOCALHOST, base + o)).is_ok()) {
            return base;
        }
    }
    panic!("no free block of ports");
}

pub struct Server {
    child: Child,
    pub port_base: u16,
    /// Everything printed up to and with `ready`.
    pub banner: Vec<String>,
    pub started_in: Duration,
}

#[derive(Clone)]
pub struct Options {
    pub data_dir: PathBuf,
    pub driver: &'static str,
    pub port_base: u16,
    pub arguments: Vec<String>,
    pub environment: Vec<(String, String)>,
    pub log: Stdlog,
    /// A program that becomes the server, with its first arguments; empty: none.
    pub wrapper: Vec<OsString>,
}

#[derive(Clone)]
pub enum Stdlog {
    Inherit,
    Discard,
    /// Appended to.
    File(PathBuf),
}

impl Options {
    pub fn new(data_dir: &Path) -> Self {
        Self {
            data_dir: data_dir.to_owned(),
            driver: "auto",
            port_base: free_port_base(),
            arguments: Vec::new(),
            environment: Vec::new(),
            log: Stdlog::Inherit,
            wrapper: Vec::new(),
        }
    }
    pub fn driver(mut self, driver: &'static str) -> Self {
        self.driver = driver;
        self
    }
    pub fn command(&self) -> Command {
        let mut command = match self.wrapper.split_first() {
            None => roost(),
            Some((program, first)) => {
                let mut command = Command::new(program);
                command.args(first).arg(env!("CARGO_BIN_EXE_roost"));
                command.stdin(Stdio::null()).env_remove("RUST_LOG");
                command
            }
        };
        command.arg("dev").arg("--data-dir").arg(&self.data_dir);
        command.args(["--driver", self.driver, "--port-base", &self.port_base.to_string()]);
        command.args(&self.arguments).envs(self.environment.iter().cloned());
        command
    }
}

impl Server {
    pub fn start(options: &Options) -> Self {
        let started = Instant::now();
        let mut command = options.command();
        command.stdout(Stdio::piped());
        match &options.log {
            Stdlog::Inherit => {}
            Stdlog::Discard => _ = command.stderr(Stdio::null()),
            Stdlog::File(path) => {
                let file = File::options().create(true).append(true).open(path).expect("a log");
                command.stderr(file);
            }
        }
        let mut child = command.spawn().expect("start roost dev");
        let stdout = child.stdout.take().expect("piped");
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let mut banner = Vec::new();
        while banner.last().is_none_or(|line| line != "ready") {
            match lines.recv_timeout(DEADLINE) {
                Ok(line) => banner.push(line),
                Err(error) => {
                    let _ = child.kill();
                    panic!("roost dev did not get ready ({error}); it printed {banner:#?}");
                }
            }
        }
        Self { child, port_base: options.port_base, banner, started_in: started.elapsed() }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }
    pub fn http(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port_base).into()
    }
    pub fn frames(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port_base + 1).into()
    }
    pub fn admin(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port_base + 9).into()
    }
    pub fn signal(&self, signal: &str) {
        let status = Command::new("kill").args([signal, &self.pid().to_string()]).status();
        assert!(status.expect("kill").success());
    }
    /// SIGTERM, and the exit status.
    pub fn stop(mut self) -> ExitStatus {
        self.signal("-TERM");
        wait_exit(&mut self.child)
    }
    /// SIGKILL.
    pub fn kill_nine(mut self) {
        self.child.kill().expect("kill");
        self.child.wait().expect("wait");
    }
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("wait").is_none()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn wait_exit(child: &mut Child) -> ExitStatus {
    wait_for("the process to exit", || child.try_wait().expect("wait"))
}

/// Polls `condition` until it yields, or fails the test.
#[track_caller]
pub fn wait_for<T>(what: &str, condition: impl FnMut() -> Option<T>) -> T {
    wait_at_most(DEADLINE, what, condition)
}

/// The same with another deadline, for what is meant to take longer.
#[track_caller]
pub fn wait_at_most<T>(limit: Duration, what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < deadline, "waited {limit:?} for {what}");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

/// Runs to the end, within the deadline.
pub fn run(mut command: Command) -> Output {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("start");
    let mut stderr = child.stderr.take().expect("piped");
    let errors = std::thread::spawn(move || {
        let mut text = Vec::new();
        let _ = stderr.read_to_end(&mut text);
        text
    });
    let mut stdout = child.stdout.take().expect("piped");
    let output = std::thread::spawn(move || {
        let mut text = Vec::new();
        let _ = stdout.read_to_end(&mut text);
        text
    });
    let status = wait_exit(&mut child);
    Output {
        status,
        stdout: output.join().expect("reader"),
        stderr: errors.join().expect("reader"),
    }
}

/// Runs and expects success; its standard output.
#[track_caller]
pub fn run_ok(command: Command) -> String {
    let output = run(command);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {errors}", output.status);
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// Runs and expects `code` and a standard error that contains every one of `fragments`, and no panic.
#[track_caller]
pub fn run_fails(command: Command, code: i32, fragments: &[&str]) {
    let output = run(command);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{errors}");
    for fragment in fragments {
        assert!(errors.contains(fragment), "{errors:?} should contain {fragment:?}");
    }
    assert!(!errors.contains("panicked"), "{errors}");
}

pub fn send(server: &Server, from: &str, to: &str, text: &str) -> Command {
    let mut command = roost();
    command.args(["send", "--server", &server.frames().to_string()]);
    command.args(["--as", from, "--to", to, text]);
    command
}

pub fn tail(server: &Server, user: &str, arguments: &[&str]) -> Command {
    let mut command = roost();
    command.args(["tail", "--server", &server.frames().to_string(), "--as", user]);
    command.args(arguments);
    command
}

/// Creates users over HTTP, as an integrator's server does.
pub fn create_users(server: &Server, names: &[String]) {
    for chunk in names.chunks(1_000) {
        ureq::post(format!("http://{}/v1/users", server.http()))
            .header("authorization", format!("Bearer {}", roost_logic::auth::dev::API_KEY))
            .send_json(serde_json::json!({ "users": chunk }))
            .expect("users are created");
    }
}

/// The body of a GET.
pub fn get(url: &str) -> String {
    ureq::get(url).call().expect(url).body_mut().read_to_string().expect("text")
}

/// Sum of all samples of the Prometheus page at `url` whose line starts with `name`.
pub fn metric(url: &str, name: &str) -> f64 {
    let page = get(url);
    let samples = page.lines().filter(|line| line.starts_with(name));
    samples.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}
