//! The load of a measurement: `roost-load chat` within this process, so that its history can be looked at.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use clap::Parser as _;
use roost_loadtest::clock::RunClock;
use roost_loadtest::options::{Command, Options as LoadOptions};
use roost_loadtest::run::Run;
use roost_loadtest::scenario::{Conductor, chat};

use super::Options;
use crate::cluster::Cluster;

/// The schedule is ended by who measures; this only bounds it.
const BOUND_SECONDS: u64 = 7_200;
/// Everybody logs in before the first message.
const STARTED_WITHIN: Duration = Duration::from_secs(180);
/// For everything to be delivered after the last fault: a lost push is found by a heartbeat.
const DRAIN_SECONDS: u64 = 180;
const LOOK_AGAIN: Duration = Duration::from_millis(10);
/// This share of a second's messages may be unanswered in calm times.
const CALM_SHARE: u64 = 4;

pub(super) struct Load {
    pub(super) conductor: Arc<Conductor>,
    pub(super) clock: RunClock,
    thread: JoinHandle<Result<Run>>,
    users: u64,
    rate: u64,
}

impl Load {
    /// Starts it with further arguments, and waits until messages flow.
    pub(super) fn start(options: &Options, cluster: &Cluster, further: &[String]) -> Result<Self> {
        let arguments = [
            "roost-load".to_owned(),
            "chat".to_owned(),
            format!("--config={}", cluster.client_file().display()),
            format!("--users={}", options.users),
            format!("--rate={}", options.rate),
            format!("--duration={BOUND_SECONDS}"),
            format!("--drain={DRAIN_SECONDS}"),
            "--shared-machine".to_owned(),
        ];
        let arguments = arguments.iter().chain(further);
        let Command::Chat(chat) = LoadOptions::try_parse_from(arguments)?.command else {
            bail!("the command line of a chat is one of a chat");
        };
        let conductor = Arc::<Conductor>::default();
        let directed = Arc::clone(&conductor);
        let thread = std::thread::Builder::new()
            .name("load".to_owned())
            .spawn(move || chat::run_with(chat, &directed))?;
        let (users, rate) = (u64::from(options.users), u64::from(options.rate));
        let load = Self { conductor, clock: RunClock::start(), thread, users, rate };
        load.wait(STARTED_WITHIN, |conductor| conductor.acked() > 0)
            .context("the load did not start")?;
        Ok(load)
    }

    /// Waits until everybody is logged in and no backlog is left.
    pub(super) fn wait_calm(&self, limit: Duration) -> Result<()> {
        self.wait(limit, |conductor| {
            let in_flight = conductor.sent().saturating_sub(conductor.acked());
            conductor.online() == self.users && in_flight <= self.rate / CALM_SHARE
        })
    }

    fn wait(&self, limit: Duration, is_so: impl Fn(&Conductor) -> bool) -> Result<()> {
        let until = Instant::now() + limit;
        while !is_so(&self.conductor) {
            if self.thread.is_finished() {
                bail!("the load ended by itself");
            }
            if Instant::now() > until {
                bail!("not within {limit:?}");
            }
            std::thread::sleep(LOOK_AGAIN);
        }
        Ok(())
    }

    /// Ends the schedule; everything is delivered, read back and judged.
    pub(super) fn finish(self) -> Result<Run> {
        self.conductor.end();
        self.thread.join().map_err(|_| anyhow!("the load panicked"))?
    }
}
