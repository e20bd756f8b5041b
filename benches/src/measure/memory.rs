//! What does an idle connection cost, in the process and in the kernel?
//!
//! Expected: the raw floors no private memory, monoio about 1,000 bytes, our gateway at most 256;
//! in the kernel about 3.9 KB for the accepted socket, 192 B more waiting with epoll, 864 B more
//! with a receive.
//!
//! Both ends are on this machine, so the clients' halves are taken away before the kernel's memory
//! is read: idle clients connect (and log in, where the subject knows that), then their sockets
//! vanish without a packet (`TCP_REPAIR`), which the server cannot notice. What remains is the
//! server's half alone. This is repeated for growing N, each time from a new source address, and
//! every cost is the least-squares slope over N, never a total over N:
//! * private: `Private_*` of the subject's `/proc/PID/smaps_rollup`;
//! * kernel: objects in `/proc/slabinfo`, see [`memory::kernel_connection_bytes`];
//! * server: their sum, which is what a connection costs the machine;
//! * machine: everything in use by `/proc/meminfo`, the cross-check that needs a quiet machine.
//!
//! The client's half is the difference before and after the vanishing.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use super::Settings;
use super::spread::Spread;
use crate::probe::memory::{self, slope};
use crate::subject::{Ballast, Server, Subject};

const SUBJECTS: [Subject; 8] = [
    Subject::UringEcho,
    Subject::AcceptHold,
    Subject::Gateway,
    Subject::GatewayEpoll,
    Subject::EpollEcho,
    Subject::MonoioEcho,
    Subject::Mosquitto,
    Subject::Nats,
];
/// Idle connections at each reading.
const STEPS: [usize; 5] = [2_000, 6_000, 10_000, 14_000, 18_000];

/// A subject's sockets must be gone this long after its end: the next one's slope starts there.
const TEARDOWN_DEADLINE: Duration = Duration::from_secs(60);
/// What the kernel frees late (RCU) is free after this.
const VANISHING: Duration = Duration::from_secs(1);
/// Sockets of others that may come meanwhile.
const SOCKETS_SLACK: u64 = 500;
/// A reading this far from the line, as a share of the range, makes the slope void.
const DEVIATION_MAX: f64 = 0.05;

/// Less private memory a connection is no line: a page more or less is its whole range.
const PRIVATE_BYTES_MIN: f64 = 16.0;

/// One subject; bytes per connection.
#[derive(Debug, Serialize)]
pub(super) struct Row {
    subject: &'static str,
    private: f64,
    /// What the slope is of: (connections, private bytes of the process).
    private_readings: Vec<(f64, f64)>,
    /// Farthest reading from the line, as a share of the readings' range.
    private_deviation: f64,
    kernel: f64,
    kernel_deviation: f64,
    server: f64,
    machine: f64,
    machine_deviation: f64,
    /// The client's half, in the kernel.
    client: Spread,
}

/// All subjects.
#[derive(Debug, Serialize)]
pub(super) struct Table {
    steps: Vec<usize>,
    settle_seconds: f64,
    rows: Vec<Row>,
}

/// One subject after the other.
pub(super) fn measure(settings: &Settings, void: &mut Vec<String>) -> Result<Table> {
    let sockets_before = memory::tcp_sockets()?;
    let mut rows = Vec::new();
    let subjects = settings.subjects(&SUBJECTS);
    print_head();
    for subject in subjects {
        wait_for_teardown(sockets_before)?;
        sleep(settings.settle);
        let row =
            climb(settings, subject).with_context(|| format!("measuring memory of {subject}"))?;
        if row.kernel_deviation > DEVIATION_MAX {
            let percent = row.kernel_deviation * 100.0;
            void.push(format!("memory, {subject}: a reading is {percent:.0} % off the line"));
        }
        if row.private > PRIVATE_BYTES_MIN && row.private_deviation > DEVIATION_MAX {
            let percent = row.private_deviation * 100.0;
            void.push(format!(
                "memory, {subject}: a reading of private memory is {percent:.0} % off the line"
            ));
        }
        print(&row);
        rows.push(row);
    }
    Ok(Table { steps: STEPS.to_vec(), settle_seconds: settings.settle.as_secs_f64(), rows })
}

fn wait_for_teardown(sockets_before: u64) -> Result<()> {
    let deadline = Instant::now() + TEARDOWN_DEADLINE;
    while memory::tcp_sockets()? > sockets_before + SOCKETS_SLACK {
        ensure!(Instant::now() < deadline, "sockets remain a minute after their process ended");
        sleep(Duration::from_millis(100));
    }
    Ok(())
}

fn climb(settings: &Settings, subject: Subject) -> Result<Row> {
    let server = Server::start(subject, 1, settings.placement)?;
    let mut ballast = Ballast::start(&server, STEPS[STEPS.len() - 1], settings.placement)?;
    let (mut private, mut kernel, mut machine) = (Vec::new(), Vec::new(), Vec::new());
    let mut clients = Vec::new();
    let mut held = 0;
    for step in STEPS {
        ballast.hold(step - held)?;
        sleep(settings.settle);
        let both = memory::kernel_connection_bytes()? as f64;
        ballast.vanish()?;
        sleep(VANISHING);
        let one = memory::kernel_connection_bytes()? as f64;
        clients.push((both - one) / (step - held) as f64);
        held = step;
        let at = step as f64;
        private.push((at, memory::private_bytes(server.process.pid())? as f64));
        kernel.push((at, one));
        machine.push((at, memory::used_bytes()? as f64));
    }
    let private_readings = private;
    let (private, private_deviation) = slope(&private_readings)?;
    let (kernel, kernel_deviation) = slope(&kernel)?;
    let (machine, machine_deviation) = slope(&machine)?;
    Ok(Row {
        subject: subject.name(),
        private,
        private_readings,
        private_deviation,
        kernel,
        kernel_deviation,
        server: private + kernel,
        machine,
        machine_deviation,
        client: Spread::of(clients),
    })
}

fn print_head() {
    println!("\nmemory: bytes per idle connection, slope over N = {STEPS:?}");
    println!(
        "{:<14} {:>9} {:>7} {:>9} {:>7} {:>9} {:>9} {:>7} {:>22}",
        "subject",
        "private",
        "dev",
        "kernel",
        "dev",
        "server",
        "machine",
        "dev",
        "client (min..max)"
    );
}

fn print(row: &Row) {
    println!(
        "{:<14} {:>9.0} {:>6.1}% {:>9.0} {:>6.1}% {:>9.0} {:>9.0} {:>6.1}% {:>22}",
        row.subject,
        row.private,
        row.private_deviation * 100.0,
        row.kernel,
        row.kernel_deviation * 100.0,
        row.server,
        row.machine,
        row.machine_deviation * 100.0,
        row.client.to_string()
    );
}
