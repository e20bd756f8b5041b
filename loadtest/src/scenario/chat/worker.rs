//! A thread with its share of the users: a monoio runtime that takes arrivals from the pacer.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Range;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use monoio::io::AsyncReadRent;

use crate::arrival::Arrival;
use crate::checker::History;
use crate::histogram::{Latency, LatencyHistogram};
use crate::user::{Ledger, User, UserPlan};

/// How often a worker looks whether it is to stop.
const LOOK: Duration = Duration::from_millis(10);
const RING_ENTRIES: u32 = 4096;
const READ_BYTES: usize = 64 * 1024;

/// What a worker is to do.
pub(super) struct WorkerPlan {
    pub(super) users: Range<u32>,
    pub(super) names: Arc<[String]>,
    pub(super) user: Arc<UserPlan>,
    pub(super) started_us: u64,
    /// Logins a second, of all workers together.
    pub(super) ramp: f64,
}

/// What a worker recorded.
pub(super) struct WorkerResult {
    pub(super) history: History,
    pub(super) ack: Latency,
    pub(super) delivery: Latency,
    pub(super) generator_lag: LatencyHistogram,
    pub(super) connect: LatencyHistogram,
    pub(super) disconnects: BTreeMap<String, u64>,
    pub(super) refusals: BTreeMap<String, u64>,
}

/// A running worker.
pub(super) struct Worker {
    thread: JoinHandle<Result<WorkerResult>>,
    arrivals: Option<UnixStream>,
}

impl Worker {
    /// Starts the thread; its users log in at once.
    pub(super) fn start(plan: WorkerPlan) -> Result<Self> {
        let (to_worker, from_pacer) = UnixStream::pair().context("cannot make a socket pair")?;
        from_pacer.set_nonblocking(true)?;
        let name = format!("users-{}", plan.users.start);
        let thread = std::thread::Builder::new()
            .name(name)
            .spawn(move || run(plan, from_pacer))
            .context("cannot start a thread")?;
        Ok(Self { thread, arrivals: Some(to_worker) })
    }

    /// Says when the schedule starts, and gives what the pacer writes to.
    pub(super) fn begin(&mut self, start_us: u64) -> Result<UnixStream> {
        let mut stream = self.arrivals.take().ok_or_else(|| anyhow!("a worker begins once"))?;
        // An arrival of nobody to nobody: only its time counts.
        let start = Arrival { intended_us: start_us, sender: u32::MAX, receiver: u32::MAX };
        std::io::Write::write_all(&mut stream, &start.to_bytes())?;
        Ok(stream)
    }

    /// Waits for the end, which the shared counters ask for.
    pub(super) fn finish(self) -> Result<WorkerResult> {
        drop(self.arrivals);
        self.thread.join().map_err(|_| anyhow!("a thread of users panicked"))?
    }
}

fn run(plan: WorkerPlan, arrivals: UnixStream) -> Result<WorkerResult> {
    let mut runtime = monoio::RuntimeBuilder::<monoio::FusionDriver>::new()
        .with_entries(RING_ENTRIES)
        .enable_timer()
        .build()
        .context("cannot start the runtime of the users")?;
    let ledger = Rc::new(RefCell::new(Ledger::default()));
    let result = runtime.block_on(serve(plan, arrivals, Rc::clone(&ledger)));
    // Ends the users' tasks, which share the ledger.
    drop(runtime);
    result?;
    let ledger = std::mem::take(&mut *ledger.borrow_mut());
    Ok(WorkerResult {
        history: ledger.history,
        ack: ledger.ack,
        delivery: ledger.delivery,
        generator_lag: ledger.generator_lag,
        connect: ledger.connect,
        disconnects: ledger.disconnects,
        refusals: ledger.refusals,
    })
}

async fn serve(plan: WorkerPlan, arrivals: UnixStream, ledger: Rc<RefCell<Ledger>>) -> Result<()> {
    let mut users = Vec::new();
    for number in plan.users.clone() {
        let name = plan.names[number as usize].clone();
        let user = User::new(name, Arc::clone(&plan.user), Rc::clone(&ledger));
        users.push(user.map_err(|e| anyhow!(e))?);
    }
    let plan = Rc::new(plan);
    monoio::spawn(log_in(Rc::clone(&plan), users.clone()));
    let stream = monoio::net::UnixStream::from_std(arrivals)?;
    monoio::spawn(take_arrivals(Rc::clone(&plan), stream, users.clone(), ledger));
    while !plan.user.counters.is_stopped.load(Relaxed) {
        monoio::time::sleep(LOOK).await;
    }
    users.iter().for_each(|user| user.settle());
    Ok(())
}

/// The users of all workers log in in the order of their numbers, at the pace of the ramp.
async fn log_in(plan: Rc<WorkerPlan>, users: Vec<Rc<User>>) {
    for (user, number) in users.into_iter().zip(plan.users.clone()) {
        let at_us = plan.started_us + (f64::from(number) / plan.ramp * 1e6) as u64;
        let at = plan.user.clock.instant(at_us);
        if at > Instant::now() {
            monoio::time::sleep_until(monoio::time::Instant::from_std(at)).await;
        }
        monoio::spawn(user.live());
    }
}

async fn take_arrivals(
    plan: Rc<WorkerPlan>,
    mut stream: monoio::net::UnixStream,
    users: Vec<Rc<User>>,
    ledger: Rc<RefCell<Ledger>>,
) {
    let mut partial = Vec::new();
    let mut buffer = vec![0; READ_BYTES];
    loop {
        let (result, returned) = stream.read(buffer).await;
        buffer = returned;
        let size = result.unwrap_or(0);
        if size == 0 {
            return;
        }
        partial.extend_from_slice(&buffer[..size]);
        let (whole, rest) = partial.as_chunks::<{ Arrival::BYTES }>();
        for arrival in whole.iter().map(Arrival::from_bytes) {
            if arrival.sender == u32::MAX {
                ledger.borrow_mut().start_us = arrival.intended_us;
                continue;
            }
            let sender = (arrival.sender - plan.users.start) as usize;
            users[sender].send(&plan.names[arrival.receiver as usize], arrival.intended_us);
        }
        partial = rest.to_vec();
    }
}
