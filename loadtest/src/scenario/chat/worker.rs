//! A thread with its share of the users: a runtime that takes arrivals from the pacer.

use std::collections::BTreeMap;
use std::ops::Range;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use tokio::io::AsyncReadExt;
use tokio::task::{LocalSet, spawn_local};

use crate::arrival::{Arrival, ToWorker};
use crate::checker::History;
use crate::histogram::{Latency, LatencyHistogram};
use crate::user::{Absence, Shared, User, UserPlan};

/// How often a worker looks whether it is to stop.
const LOOK: Duration = Duration::from_millis(10);
/// How late a timer of a user may be: all are looked at together.
const ALARM_INTERVAL: Duration = Duration::from_millis(2);
/// Rings of the pacer that are read at once.
const BELL_BYTES: usize = 4096;

/// What a worker is to do.
pub(super) struct WorkerPlan {
    pub(super) users: Range<u32>,
    pub(super) names: Arc<[String]>,
    pub(super) user: Arc<UserPlan>,
    pub(super) started_us: u64,
    /// Logins a second, of all workers together.
    pub(super) ramp: f64,
    /// Messages that its users are likely to see.
    pub(super) messages: usize,
}

/// What a worker recorded.
pub(super) struct WorkerResult {
    pub(super) history: History,
    pub(super) ack: Latency,
    pub(super) delivery: Latency,
    pub(super) generator_lag: LatencyHistogram,
    pub(super) connect: LatencyHistogram,
    pub(super) disconnects: BTreeMap<String, u64>,
    pub(super) absences: Vec<Absence>,
    pub(super) refusals: BTreeMap<String, u64>,
}

/// The worker's end of the way from the pacer.
struct FromPacer {
    arrivals: Receiver<Arrival>,
    rung: UnixStream,
}

/// A running worker.
pub(super) struct Worker {
    thread: JoinHandle<Result<WorkerResult>>,
    begin: Option<ToWorker>,
}

impl Worker {
    /// Starts the thread; its users log in at once.
    pub(super) fn start(plan: WorkerPlan) -> Result<Self> {
        let (bell, rung) = UnixStream::pair().context("cannot make a socket pair")?;
        bell.set_nonblocking(true)?;
        rung.set_nonblocking(true)?;
        let (to_worker, arrivals) = channel();
        let from_pacer = FromPacer { arrivals, rung };
        let name = format!("users-{}", plan.users.start);
        let thread = std::thread::Builder::new()
            .name(name)
            .spawn(move || run(plan, from_pacer))
            .context("cannot start a thread")?;
        let to_worker = ToWorker { arrivals: to_worker, bell };
        Ok(Self { thread, begin: Some(to_worker) })
    }

    /// Says when the schedule starts, and gives what the pacer needs.
    pub(super) fn begin(&mut self, start_us: u64) -> Result<ToWorker> {
        let to_worker = self.begin.take().ok_or_else(|| anyhow!("a worker begins once"))?;
        let start = Arrival::start(start_us);
        to_worker.arrivals.send(start).map_err(|_| anyhow!("a thread of users ended"))?;
        Ok(to_worker)
    }

    /// Waits for the end, which the shared counters ask for.
    pub(super) fn finish(self) -> Result<WorkerResult> {
        drop(self.begin);
        self.thread.join().map_err(|_| anyhow!("a thread of users panicked"))?
    }
}

fn run(plan: WorkerPlan, pacer: FromPacer) -> Result<WorkerResult> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime of the users")?;
    let FromPacer { arrivals, rung } = pacer;
    let shared = Rc::new(Shared::new(plan.users.start, Arc::clone(&plan.names), arrivals));
    shared.ledger.borrow_mut().reserve(plan.messages);
    let tasks = LocalSet::new();
    let result = tasks.block_on(&runtime, serve(plan, rung, Rc::clone(&shared)));
    // Ends the users' tasks, which share the ledger.
    drop(tasks);
    result?;
    let ledger = shared.ledger.take();
    Ok(WorkerResult {
        history: ledger.history,
        ack: ledger.ack,
        delivery: ledger.delivery,
        generator_lag: ledger.generator_lag,
        connect: ledger.connect,
        disconnects: ledger.disconnects,
        absences: ledger.absences,
        refusals: ledger.refusals,
    })
}

async fn serve(plan: WorkerPlan, rung: UnixStream, shared: Rc<Shared>) -> Result<()> {
    let mut users = Vec::new();
    for (index, number) in plan.users.clone().enumerate() {
        let name = plan.names[number as usize].clone();
        let user = User::new(name, index, Arc::clone(&plan.user), Rc::clone(&shared));
        users.push(user.map_err(|e| anyhow!(e))?);
    }
    let plan = Rc::new(plan);
    let users: Rc<[Rc<User>]> = users.into();
    shared.users.replace(Rc::clone(&users));
    spawn_local(log_in(Rc::clone(&plan), Rc::clone(&users)));
    spawn_local(ring_alarms(Rc::clone(&shared), Rc::clone(&users)));
    let rung = tokio::net::UnixStream::from_std(rung)?;
    spawn_local(answer_bell(rung, Rc::clone(&shared)));
    let counters = &plan.user.counters;
    let mut moves = 0;
    while !counters.is_stopped.load(Relaxed) {
        tokio::time::sleep(LOOK).await;
        if moves < counters.moves.load(Relaxed) {
            moves += 1;
            users.iter().for_each(|user| user.change_network());
        }
    }
    users.iter().for_each(|user| user.settle());
    // They point at each other.
    shared.users.replace(Rc::default());
    Ok(())
}

/// The users of all workers log in in the order of their numbers, at the pace of the ramp.
async fn log_in(plan: Rc<WorkerPlan>, users: Rc<[Rc<User>]>) {
    for (user, number) in users.iter().zip(plan.users.clone()) {
        let at_us = plan.started_us + (f64::from(number) / plan.ramp * 1e6) as u64;
        let at = plan.user.clock.instant(at_us);
        if at > Instant::now() {
            tokio::time::sleep_until(at.into()).await;
        }
        user.start();
    }
}

async fn ring_alarms(shared: Rc<Shared>, users: Rc<[Rc<User>]>) {
    loop {
        tokio::time::sleep(ALARM_INTERVAL).await;
        let now = Instant::now();
        while let Some((at, index)) = shared.alarms.take_due(now) {
            shared.send_due();
            users[index].on_alarm(at);
        }
    }
}

/// The pacer rings when something is due; a thread that is busy anyway looks by itself.
async fn answer_bell(mut rung: tokio::net::UnixStream, shared: Rc<Shared>) {
    let mut buffer = vec![0; BELL_BYTES];
    while let Ok(1..) = rung.read(&mut buffer).await {
        shared.send_due();
    }
}
