//! One process of a service, by its id, until its value is dropped.

use std::fs::File;
use std::io;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, OnceLock, mpsc};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};

/// How long a process may take to end when it is asked to.
const END_WITHIN: Duration = Duration::from_secs(20);

/// A running process. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    child: Child,
    name: String,
}

impl Process {
    /// Starts `command` with its output in the file `log`.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start(command: &Command, log: &Path) -> Self {
        let name = command.get_program().to_string_lossy().into_owned();
        let output = File::options().create(true).append(true).open(log).expect("a log file");
        let errors = output.try_clone().expect("the log file once more");
        let mut wrapped = Command::new("setpriv");
        wrapped.args(["--pdeathsig", "KILL", "--"]).arg(command.get_program());
        wrapped.args(command.get_args());
        for (variable, value) in command.get_envs() {
            match value {
                Some(value) => wrapped.env(variable, value),
                None => wrapped.env_remove(variable),
            };
        }
        if let Some(folder) = command.get_current_dir() {
            wrapped.current_dir(folder);
        }
        wrapped.stdin(Stdio::null()).stdout(output).stderr(errors);
        let child = spawn(wrapped);
        Self { child: child.unwrap_or_else(|error| panic!("{name} does not start: {error}")), name }
    }

    /// Its id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, when it did.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// While it becomes ready.
    ///
    /// # Panics
    /// When it has ended; with the end of its log.
    pub fn must_run(&mut self, log: &Path) {
        if let Some(status) = self.ended() {
            let text = std::fs::read_to_string(log).unwrap_or_default();
            let tail = text.floor_char_boundary(text.len().saturating_sub(2000));
            panic!("{} ended at its start ({status}): {}", self.name, &text[tail..]);
        }
    }

    /// kill -9. Returns when it is gone.
    pub fn kill(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }

    /// Asks it to end (SIGTERM) and waits; kills it when it does not.
    pub fn end(&mut self) {
        self.end_by(Signal::TERM);
    }

    /// Ends at once, but in its own way (SIGQUIT); kills it when it does not.
    pub fn quit(&mut self) {
        self.end_by(Signal::QUIT);
    }

    fn end_by(&mut self, signal: Signal) {
        if self.ended().is_some() {
            return;
        }
        self.signal(signal);
        let until = Instant::now() + END_WITHIN;
        while self.ended().is_none() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(10));
        }
        self.kill();
    }

    /// SIGSTOP: alive for the kernel, silent for everybody else. Returns when all its threads stand still.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
        let id = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        let stopped = WaitIdOptions::STOPPED | WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        _ = id.map(|id| waitid(WaitId::Pid(id), stopped));
    }

    /// SIGCONT.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// Processes that it started itself and that still run (proc(5), `task/TID/children`).
    pub fn children(&self) -> impl Iterator<Item = Pid> {
        let id = self.child.id();
        let list = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children"));
        let ids: Vec<Pid> = list
            .unwrap_or_default()
            .split_whitespace()
            .filter_map(|id| id.parse().ok().and_then(Pid::from_raw))
            .collect();
        ids.into_iter()
    }

    fn signal(&self, signal: Signal) {
        let id = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        let sent = id.map(|id| kill_process(id, signal));
        assert!(matches!(sent, Some(Ok(()))), "{} cannot be signalled: {sent:?}", self.name);
    }
}

type Order = (Command, mpsc::Sender<io::Result<Child>>);

/// The kernel kills a child when the *thread* that made it ends (PR_SET_PDEATHSIG of prctl(2)): so one thread makes them all, and ends
/// with the process.
fn spawn(command: Command) -> io::Result<Child> {
    static ORDERS: OnceLock<Mutex<mpsc::Sender<Order>>> = OnceLock::new();
    let orders = ORDERS.get_or_init(|| {
        let (orders, taken) = mpsc::channel::<Order>();
        std::thread::spawn(move || {
            for (mut command, made) in taken {
                _ = made.send(command.spawn());
            }
        });
        Mutex::new(orders)
    });
    let gone = || io::Error::other("the thread that starts services has ended");
    let (made, child) = mpsc::channel();
    orders.lock().map_err(|_| gone())?.send((command, made)).map_err(|_| gone())?;
    child.recv().map_err(|_| gone())?
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}
