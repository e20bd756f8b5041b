//! The attacks on a cluster under load. Each waits for what proves its effect.

use std::path::Path;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::Parser as _;
use roost_loadtest::options::{Chat, Command, Options};
use roost_loadtest::scenario::Conductor;

use super::super::partition::{Cut, NarrowPath};
use super::super::schedule::Way;
use crate::cluster::{Cluster, Service};

/// Users of a load.
const USERS: u64 = 100;
/// Messages a second.
const RATE: u64 = 300;
/// Of those whose outbox is to overflow.
const SLOW_USERS: u64 = 40;
const SLOW_RATE: u64 = 200;
const SLOW_PAYLOAD: u64 = 16_000;
/// Messages that an attack has to meet.
const MET_MIN: u64 = 60;
/// An effect shows within.
const EFFECT_WITHIN: Duration = Duration::from_secs(30);
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// What [`Attack::GatewayAway`] misses.
pub(super) const NOT_TOLD: &str =
    "no sender heard that a receiver is offline, while that receiver's gateway was gone";

const GATEWAY: Service = Service::Gateway(0);
const LOGIC: Service = Service::Logic(0);

/// What is done to a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Attack {
    /// The database is killed while a commit waits for its disk.
    StoreDiesInCommit,
    /// Logic is killed after it has committed, and before the broker has taken what it says.
    LogicDiesBeforePush,
    /// A gateway is killed and stays away.
    GatewayAway,
    /// What a gateway sends is dropped, until its outboxes overflow; nothing follows what was dropped.
    SlowReaders,
    /// All users come back over another network; the gateway does not hear of the end of half of the former connections before.
    UsersMove,
    /// A device sends over its former connection what is late: see `two_sessions`.
    TwoSessions,
    /// Gateways are killed with answers that nobody has seen, so everything is sent again.
    AnswersLost,
    /// The same, of a database that does not refuse a message twice.
    AnswersLostWithoutIndex,
}

impl Attack {
    /// Settings of the processes.
    pub(super) fn variables(self) -> &'static [(&'static str, &'static str)] {
        match self {
            // As while a ring changes: two gateways take the same users.
            Self::TwoSessions => &[("ROOST_CLUSTER__REDIRECT", "false")],
            // The pushes of one batch reach the broker's socket, and so the broker when it goes on: there have to be more batches.
            Self::LogicDiesBeforePush => &[("ROOST_LOGIC__BATCH_OPERATIONS_MAX", "16")],
            Self::StoreDiesInCommit
            | Self::GatewayAway
            | Self::SlowReaders
            | Self::UsersMove
            | Self::AnswersLost
            | Self::AnswersLostWithoutIndex => &[],
        }
    }

    /// Before the load. What it returns holds until the end.
    pub(super) fn prepare(self, cluster: &Cluster) -> Result<Option<NarrowPath>> {
        match self {
            Self::SlowReaders => NarrowPath::make(cluster.port_of(GATEWAY)).map(Some),
            Self::AnswersLostWithoutIndex => {
                cluster.sql("ALTER TABLE roost.messages DROP INDEX IF EXISTS messages_identity");
                Ok(None)
            }
            Self::StoreDiesInCommit
            | Self::LogicDiesBeforePush
            | Self::GatewayAway
            | Self::UsersMove
            | Self::TwoSessions
            | Self::AnswersLost => Ok(None),
        }
    }

    /// While the load runs, which ends with it.
    pub(super) fn act(self, scene: &mut Scene<'_>) -> Result<()> {
        match self {
            Self::StoreDiesInCommit => scene.kill_store_in_commit(),
            Self::LogicDiesBeforePush => scene.kill_logic_before_push(),
            Self::GatewayAway => scene.take_gateway_away(),
            Self::SlowReaders => scene.slow_readers(),
            Self::UsersMove => scene.move_users(),
            Self::AnswersLost | Self::AnswersLostWithoutIndex => scene.lose_answers(),
            Self::TwoSessions => bail!("it has no load"),
        }
    }
}

/// The load of an attack.
pub(super) fn load(client_file: &Path, attack: Attack, patience: Duration) -> Result<Chat> {
    let (users, rate, payload) = match attack {
        Attack::SlowReaders => (SLOW_USERS, SLOW_RATE, SLOW_PAYLOAD),
        Attack::StoreDiesInCommit
        | Attack::LogicDiesBeforePush
        | Attack::GatewayAway
        | Attack::UsersMove
        | Attack::TwoSessions
        | Attack::AnswersLost
        | Attack::AnswersLostWithoutIndex => (USERS, RATE, 64),
    };
    let arguments = [
        "roost-load".to_owned(),
        "chat".to_owned(),
        format!("--config={}", client_file.display()),
        format!("--users={users}"),
        format!("--rate={rate}"),
        format!("--payload={payload}"),
        // The attack ends the schedule; this only bounds it.
        "--duration=300".to_owned(),
        format!("--drain={}", patience.as_secs()),
        "--shared-machine".to_owned(),
    ];
    let Command::Chat(load) = Options::try_parse_from(arguments)?.command else {
        bail!("the command line of a chat is one of a chat");
    };
    Ok(load)
}

/// A cluster under load.
pub(super) struct Scene<'a> {
    pub(super) cluster: &'a mut Cluster,
    pub(super) conductor: &'a Conductor,
    pub(super) load: &'a JoinHandle<Result<roost_loadtest::run::Run>>,
    pub(super) missed: Vec<&'static str>,
}

impl Scene<'_> {
    /// Waits until it is so.
    pub(super) fn wait(
        &self,
        limit: Duration,
        what: &str,
        is_so: impl Fn(&Self) -> bool,
    ) -> Result<()> {
        let until = Instant::now() + limit;
        while !is_so(self) {
            if self.load.is_finished() {
                bail!("the load ended by itself before {what}");
            }
            if Instant::now() > until {
                bail!("not within {limit:?}: {what}");
            }
            std::thread::sleep(LOOK_AGAIN);
        }
        Ok(())
    }

    fn unanswered(&self) -> u64 {
        self.conductor.sent().saturating_sub(self.conductor.acked())
    }

    fn wait_unanswered(&self, count: u64) -> Result<()> {
        self.wait(EFFECT_WITHIN, "messages wait for an answer", |s| s.unanswered() >= count)
    }

    fn wait_acked(&self, count: u64) -> Result<()> {
        let from = self.conductor.acked();
        self.wait(EFFECT_WITHIN, "messages flow", |s| s.conductor.acked() >= from + count)
    }

    /// Rows of the log.
    fn stored(&self) -> u64 {
        self.cluster.sql("SELECT COUNT(*) FROM roost.messages").trim().parse().unwrap_or(0)
    }

    fn wait_stored(&self, count: u64) -> Result<()> {
        self.wait(EFFECT_WITHIN, "messages are committed", |s| s.stored() >= count)
    }

    fn gateways(&self) -> impl Iterator<Item = Service> + use<> {
        (0..usize::from(self.cluster.options().gateways)).map(Service::Gateway)
    }

    fn kill_store_in_commit(&mut self) -> Result<()> {
        // The switch does not outlive the server.
        self.cluster.sql(
            "SET GLOBAL long_query_time = 77; \
             CREATE TRIGGER roost.slow_disk BEFORE INSERT ON roost.messages FOR EACH ROW \
             SET @waited = IF(@@GLOBAL.long_query_time = 77, SLEEP(60), 0)",
        );
        self.wait_unanswered(MET_MIN)?;
        self.cluster.kill(Service::Store);
        self.cluster.restart(Service::Store)?;
        self.cluster.sql("DROP TRIGGER roost.slow_disk");
        self.wait_acked(MET_MIN)
    }

    fn kill_logic_before_push(&mut self) -> Result<()> {
        self.cluster.pause(LOGIC);
        self.wait_unanswered(MET_MIN)?;
        self.cluster.pause(Service::RabbitMq);
        // Nothing comes after them that would show a gap.
        self.conductor.end();
        let stored = self.stored();
        self.cluster.resume(LOGIC);
        let committed = self.wait_stored(stored + MET_MIN / 2);
        self.cluster.kill(LOGIC);
        self.cluster.resume(Service::RabbitMq);
        committed?;
        self.cluster.restart(LOGIC)
    }

    fn take_gateway_away(&mut self) -> Result<()> {
        self.cluster.kill(GATEWAY);
        let told = self.conductor.by_server();
        self.wait_acked(MET_MIN)?;
        if self.conductor.by_server() == told {
            self.missed.push(NOT_TOLD);
        }
        self.cluster.restart(GATEWAY)?;
        self.wait_acked(MET_MIN)
    }

    fn slow_readers(&mut self) -> Result<()> {
        let cut = Cut::make(self.cluster.port_of(GATEWAY), Way::From)?;
        let admin = self.cluster.options().admin(0);
        let overflowed = self.wait(EFFECT_WITHIN, "outboxes overflow", |_| {
            metric(admin, "roost_gateway_deliveries_dropped_to_hint") >= MET_MIN as f64
        });
        // Nothing comes after them that would show a gap.
        self.conductor.end();
        drop(cut);
        overflowed
    }

    fn move_users(&mut self) -> Result<()> {
        let shape = self.cluster.options();
        let admins: Vec<u16> = (0..shape.gateways).map(|index| shape.admin(index)).collect();
        let sum = |name| admins.iter().map(|admin| metric(*admin, name)).sum::<f64>();
        // Until then a gateway gets every delivery, and routes of the first logins may still come.
        self.wait(EFFECT_WITHIN, "routes are complete", |_| {
            sum("roost_gateway_control_routes_complete") >= admins.len() as f64
                && sum("roost_gateway_control_routes_written") >= USERS as f64
        })?;
        let from = self.conductor.sent();
        self.conductor.move_users();
        // Users are back within a second.
        self.wait(EFFECT_WITHIN, "users move", |s| s.conductor.sent() >= from + RATE * 3 / 2)
    }

    fn lose_answers(&mut self) -> Result<()> {
        self.cluster.pause(LOGIC);
        self.wait_unanswered(MET_MIN)?;
        let stored = self.stored();
        self.gateways().for_each(|gateway| self.cluster.pause(gateway));
        self.cluster.resume(LOGIC);
        let committed = self.wait_stored(stored + MET_MIN / 2);
        self.gateways().for_each(|gateway| self.cluster.kill(gateway));
        committed?;
        self.gateways().try_for_each(|gateway| self.cluster.restart(gateway))?;
        self.wait_acked(MET_MIN)
    }
}

/// A metric of the process with this admin port, of all its series together; 0 when it does not say.
fn metric(admin: u16, name: &str) -> f64 {
    let read = || -> Result<f64> {
        let url = format!("http://127.0.0.1:{admin}/metrics");
        let text = ureq::get(&url).call()?.body_mut().read_to_string().context("metrics")?;
        let lines = text.lines().filter(|line| line.starts_with(name));
        Ok(lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum())
    };
    read().unwrap_or(0.0)
}
