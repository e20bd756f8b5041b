//! `chat`: users write to their neighbours at a fixed rate, beside idle connections.
//!
//! Phases: idle connections and users log in; the schedule runs; everything drains; the database
//! is read back; the checker judges. The schedule starts only when everybody is logged in.

mod worker;

use std::fs::File;
use std::io::BufWriter;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use roost_client::core::config::Tuning;

use super::{ChatCounters, Conductor, RAMP_PATIENCE_US, Stage, add_ballast};
use crate::arrival::{Arrivals, Schedule, ToWorker, pace};
use crate::ballast::Ballast;
use crate::checker::{Expectations, History, Record, judge};
use crate::http::HttpError;
use crate::options::Chat;
use crate::priority;
use crate::run::{Outcome, Run};
use crate::user::UserPlan;
use worker::{Worker, WorkerPlan, WorkerResult};

/// Between the last login and the first message.
const LEAD_US: u64 = 200_000;
/// A thread gets room for so many messages at most before the run; beyond, its tables grow.
const ROOM_MESSAGES_MAX: f64 = 10_000_000.0;
/// Connections that read back the database at the same time.
const READERS: usize = 4;

/// Runs all phases.
///
/// # Errors
/// When the server cannot be reached, lets nobody in, or cannot be read back.
pub fn run(options: Chat) -> Result<Outcome> {
    run_with(options, &Arc::default()).map(|run| run.outcome())
}

/// The same, directed by somebody else; everything that the run yielded.
///
/// # Errors
/// As [`run`].
pub fn run_with(options: Chat, conductor: &Arc<Conductor>) -> Result<Run> {
    if !options.rate.is_finite() || options.rate <= 0.0 {
        bail!("--rate has to be a number above 0, it is {}", options.rate);
    }
    let mut stage = Stage::set(options.common.clone())?;
    let priority_note = priority::raise();
    let names: Arc<[String]> =
        (0..options.users).map(|n| format!("load-{:08x}-{n}", stage.run_id)).collect();
    stage.http.create_users(&names)?;
    let mut chat = ChatRun::start(&options, &stage, &names, conductor)?;
    chat.log_in(&mut stage)?;
    chat.send(&mut stage)?;
    chat.drain(&mut stage);
    chat.finish(stage, priority_note)
}

struct ChatRun<'o> {
    options: &'o Chat,
    conductor: Arc<Conductor>,
    counters: Arc<ChatCounters>,
    workers: Vec<Worker>,
    ballast: Option<Ballast>,
    started_us: u64,
    ramp_us: u64,
    offered: u64,
}

impl<'o> ChatRun<'o> {
    fn start(
        options: &'o Chat,
        stage: &Stage,
        names: &Arc<[String]>,
        conductor: &Arc<Conductor>,
    ) -> Result<Self> {
        let counters = Arc::clone(&conductor.counters);
        let plan = Arc::new(UserPlan {
            clock: stage.clock,
            mint: stage.mint.clone(),
            addresses: stage.servers.iter().map(|server| server.to_string().into()).collect(),
            tuning: Arc::new(Tuning::default()),
            payload_bytes: usize::try_from(options.payload).unwrap_or(usize::MAX),
            counters: Arc::clone(&counters),
        });
        let started_us = stage.clock.now_us();
        let ballast = match options.idle {
            0 => None,
            count => Some(stage.ballast(count)?),
        };
        if let Some(ballast) = &ballast {
            ballast.counters().raise_to(options.idle, started_us);
        }
        let per_worker = options.users.div_ceil(options.threads);
        // Both neighbours of a share may be of another worker; a Poisson schedule may have a few more.
        let share = options.rate * options.duration as f64 / f64::from(options.threads);
        let messages = (share * 1.1).min(ROOM_MESSAGES_MAX) as usize;
        let workers = (0..options.users.div_ceil(per_worker))
            .map(|n| {
                let first = n * per_worker;
                Worker::start(WorkerPlan {
                    users: first..(first + per_worker).min(options.users),
                    names: Arc::clone(names),
                    user: Arc::clone(&plan),
                    started_us,
                    ramp: stage.common.ramp,
                    messages,
                })
            })
            .collect::<Result<Vec<_>>>()?;
        let conductor = Arc::clone(conductor);
        let (ramp_us, offered) = (0, 0);
        Ok(Self { options, conductor, counters, workers, ballast, started_us, ramp_us, offered })
    }

    fn idle_held(&self) -> u64 {
        self.ballast.as_ref().map_or(0, |ballast| ballast.counters().held.load(Relaxed))
    }

    fn log_in(&mut self, stage: &mut Stage) -> Result<()> {
        let (users, idle) = (u64::from(self.options.users), self.options.idle);
        let (mut progress, mut progress_us) = (0, self.started_us);
        loop {
            let logins = self.counters.first_logins.load(Relaxed);
            let ballast = self.ballast.as_ref().map(Ballast::counters);
            let idle_done = ballast.is_none_or(|b| b.is_ramped(idle) || b.is_broken());
            if logins == users && idle_done {
                break;
            }
            let held = self.idle_held();
            stage.tick(held + logins, format!("connecting: {logins} users, {held} idle"));
            let now_us = stage.clock.now_us();
            if logins + held > progress {
                (progress, progress_us) = (logins + held, now_us);
            } else if now_us - progress_us > RAMP_PATIENCE_US {
                break;
            }
        }
        let last_us = self.counters.last_login_us.load(Relaxed);
        let idle_us =
            self.ballast.as_ref().map_or(0, |b| b.counters().last_connected_us.load(Relaxed));
        self.ramp_us = last_us.max(idle_us).saturating_sub(self.started_us).max(1);
        if self.counters.first_logins.load(Relaxed) < users {
            let why = self.stop_and_explain();
            bail!("{} of {users} users could log in: {why}", {
                self.counters.first_logins.load(Relaxed)
            });
        }
        Ok(())
    }

    fn stop_and_explain(&mut self) -> String {
        self.counters.is_stopped.store(true, Relaxed);
        let workers = std::mem::take(&mut self.workers);
        let reasons: Vec<String> = workers
            .into_iter()
            .filter_map(|worker| worker.finish().ok())
            .flat_map(|result| result.disconnects.into_keys())
            .collect();
        if reasons.is_empty() { "no answer".to_owned() } else { reasons.join("; ") }
    }

    fn send(&mut self, stage: &mut Stage) -> Result<()> {
        let options = self.options;
        let start_us = stage.clock.now_us() + LEAD_US;
        let to_workers: Vec<ToWorker> =
            self.workers.iter_mut().map(|worker| worker.begin(start_us)).collect::<Result<_>>()?;
        let duration = Duration::from_secs(options.duration);
        let schedule = Schedule::new(
            options.arrivals,
            options.rate,
            duration,
            options.users,
            (start_us, options.seed),
        );
        let (clock, conductor) = (stage.clock, Arc::clone(&self.conductor));
        let per_worker = options.users.div_ceil(options.threads);
        let pacer = std::thread::Builder::new()
            .name("pacer".into())
            .spawn(move || pace(schedule, clock, per_worker, to_workers, || conductor.is_over()))?;
        while !pacer.is_finished() {
            self.tick(stage, "sending");
        }
        let paced = pacer.join().map_err(|_| anyhow!("the pacer panicked"))?;
        self.offered = paced.context("a worker ended before the schedule")?;
        Ok(())
    }

    fn tick(&self, stage: &mut Stage, what: &str) {
        let counters = &self.counters;
        let online = counters.online.load(Relaxed);
        let message = format!(
            "{what}: {} sent, {} acked, {} delivered, {online} users and {} idle online",
            counters.sent.load(Relaxed),
            counters.acked.load(Relaxed),
            counters.delivered.load(Relaxed),
            self.idle_held(),
        );
        stage.tick(online + self.idle_held(), message);
    }

    /// Until every message is answered, every acknowledged one displayed and every user online.
    fn drain(&self, stage: &mut Stage) {
        let counters = &self.counters;
        let end_us = stage.clock.now_us() + self.options.drain * 1_000_000;
        loop {
            let answered = counters.acked.load(Relaxed) + counters.refused.load(Relaxed);
            let is_complete = answered >= counters.sent.load(Relaxed)
                && counters.sent.load(Relaxed) >= self.offered
                && counters.delivered.load(Relaxed) >= counters.acked.load(Relaxed)
                && counters.online.load(Relaxed) >= u64::from(self.options.users);
            if is_complete || stage.clock.now_us() >= end_us {
                return;
            }
            self.tick(stage, "draining");
        }
    }

    fn finish(mut self, mut stage: Stage, note: Option<String>) -> Result<Run> {
        self.tick(&mut stage, "stopping");
        let online = self.counters.online.load(Relaxed);
        self.counters.is_stopped.store(true, Relaxed);
        let mut run = Run {
            scenario: "chat",
            summary: self.summary(),
            connections_wanted: u64::from(self.options.users),
            connections_held: online,
            offered: self.offered,
            sent: self.counters.sent.load(Relaxed),
            delivered: self.counters.delivered.load(Relaxed),
            notes: note.into_iter().collect(),
            ..Run::default()
        };
        let mut history = History::new();
        for worker in std::mem::take(&mut self.workers) {
            add_worker(&mut run, &mut history, worker.finish()?);
        }
        if let Some(ballast) = self.ballast.take() {
            add_ballast(&mut run, self.options.idle, &ballast.finish()?);
        }
        run.connect_rate = run.connect.count() as f64 / (self.ramp_us as f64 / 1e6);
        for (at, took_effect) in self.conductor.kills() {
            history.record(stage.clock.us_of(at), Record::Kill { took_effect });
        }
        history.record(stage.clock.now_us(), Record::Healed);
        stage.tick(0, "reading back the database".to_owned());
        let read = read_database(&stage, &mut history);
        if let Some(path) = &self.options.history {
            let file =
                File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
            history.append_to(&mut BufWriter::new(file))?;
        }
        read?;
        stage.tick(0, format!("judging {} events", history.count()));
        let expected = Expectations { settled_min: 1, healed: true, ..Expectations::default() };
        run.verdict = Some(judge(&history, &expected));
        run.history = history;
        self.find_lag(&mut run);
        stage.finish(run)
    }

    fn summary(&self) -> String {
        let Chat { users, rate, duration, payload, idle, .. } = self.options;
        let arrivals = match self.options.arrivals {
            Arrivals::Poisson => "Poisson",
            Arrivals::Constant => "constant",
        };
        format!(
            "{users} users, {rate} messages a second for {duration} s ({arrivals} arrivals), \
             {payload} byte bodies, {idle} idle connections"
        )
    }

    fn find_lag(&self, run: &mut Run) {
        let limit_us = self.options.lag_limit_ms * 1_000;
        let lag = &run.generator_lag;
        // With few samples the longest lag has to stand for the percentile.
        let measured = lag.at_quantile(0.99).or(lag.max()).unwrap_or(0);
        if measured > limit_us {
            run.void_reasons.push(format!(
                "the generator lagged: {:.1} ms at p99, limit {} ms; give it more threads, more \
                 cores or less load",
                measured as f64 / 1e3,
                self.options.lag_limit_ms
            ));
        }
        if run.sent < run.offered {
            run.void_reasons.push(format!(
                "{} of {} messages of the schedule were not sent",
                run.offered - run.sent,
                run.offered
            ));
        }
    }
}

fn add_worker(run: &mut Run, history: &mut History, result: WorkerResult) {
    history.absorb(&result.history);
    run.ack.add(&result.ack);
    run.delivery.add(&result.delivery);
    run.generator_lag.add(&result.generator_lag);
    run.connect.add(&result.connect);
    run.absences.extend(result.absences);
    for (reason, n) in result.refusals {
        run.failures.push(format!("{n} messages refused: {reason}"));
    }
    for (reason, n) in result.disconnects {
        run.notes.push(format!("{n} connections of users ended and were made again: {reason}"));
    }
}

/// Reads every conversation to its end, some at a time.
fn read_database(stage: &Stage, history: &mut History) -> Result<(), HttpError> {
    let names: Vec<String> = history.conversations().map(|(_, name)| name.to_owned()).collect();
    let at_us = stage.clock.now_us();
    let read_some = |names: &[String]| -> Result<History, HttpError> {
        let mut part = History::new();
        for name in names {
            let conversation = part.conversation(name);
            stage.http.read_conversation(&mut part, conversation, name, (at_us, 1))?;
        }
        Ok(part)
    };
    let share = names.len().div_ceil(READERS).max(1);
    let parts: Vec<Result<History, HttpError>> = std::thread::scope(|scope| {
        let readers: Vec<_> =
            names.chunks(share).map(|some| scope.spawn(move || read_some(some))).collect();
        readers.into_iter().map(|reader| reader.join().expect("reading does not panic")).collect()
    });
    for part in parts {
        history.absorb(&part?);
    }
    Ok(())
}
