//! Applies faults, heals them, and says what proves that they took effect.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use roost_loadtest::scenario::Conductor;

use super::partition::Cut;
use super::schedule::{Fault, Way};
use crate::cluster::{Cluster, Service};
use crate::plan::VHOST;
use crate::probe::{Probe, Readiness};
use crate::state::{Life, ProcessId};

/// A stopped process shows as such after this.
const SHOWS_WITHIN: Duration = Duration::from_secs(5);
/// As the runner configures it.
const WATERMARK: &str = "{absolute, \"2GB\"}";

/// Breaks a cluster and heals it.
#[derive(Debug)]
pub(super) struct Breaker {
    pub(super) cluster: Cluster,
    conductor: Arc<Conductor>,
}

impl Breaker {
    pub(super) fn new(cluster: Cluster, conductor: Arc<Conductor>) -> Self {
        Self { cluster, conductor }
    }

    /// Applies a fault and heals it. What proves its effect, or why it has none.
    pub(super) fn apply(&mut self, fault: &Fault) -> Result<String> {
        match *fault {
            Fault::Kill(service, away) => self.kill(service, away),
            Fault::Pause(service, length) => self.pause(service, length),
            Fault::Flush => self.flush(),
            Fault::Purge(gateway, gathers) => self.purge(gateway, gathers),
            Fault::Alarm(length) => self.alarm(length),
            Fault::Partition(service, way, length) => self.partition(service, way, length),
        }
    }

    /// As a line of the report.
    pub(super) fn describe(&self, fault: &Fault) -> String {
        let seconds = |length: &Duration| format!("{:.1} s", length.as_secs_f64());
        let name = |service: &Service| self.cluster.name_of(*service);
        match fault {
            Fault::Kill(service, _) => format!("kill {}", name(service)),
            Fault::Pause(service, length) => format!("pause {} {}", name(service), seconds(length)),
            Fault::Flush => "flush Redis".to_owned(),
            Fault::Purge(..) => "purge all queues".to_owned(),
            Fault::Alarm(length) => format!("memory alarm {}", seconds(length)),
            Fault::Partition(service, way, length) => {
                let way = match way {
                    Way::Both => "from everybody",
                    Way::To => "from what is said to it",
                    Way::From => "from those it answers",
                };
                format!("cut {} {way} {}", name(service), seconds(length))
            }
        }
    }

    fn kill(&mut self, service: Service, away: Duration) -> Result<String> {
        let former = self.process(service)?;
        let (at, in_flight) = (Instant::now(), self.in_flight());
        self.cluster.kill(service);
        let is_gone = former.life() == Life::Gone;
        self.conductor.record_kill(at, is_gone);
        let refused = Probe::Port { port: self.cluster.port_of(service) }.ask();
        std::thread::sleep(away);
        self.cluster.restart(service)?;
        ensure!(is_gone, "process {} is still there", former.pid);
        let now = self.process(service)?;
        ensure!(now != former, "process {} was never gone", former.pid);
        let refused = match refused {
            Readiness::Ready => "",
            Readiness::Missing(_) => ", its port refused connections",
        };
        Ok(format!(
            "process {} gone with {in_flight} messages in flight{refused}, process {} ready after {:.1} s",
            former.pid,
            now.pid,
            at.elapsed().as_secs_f64()
        ))
    }

    fn pause(&self, service: Service, length: Duration) -> Result<String> {
        let process = self.process(service)?;
        let in_flight = self.in_flight();
        self.cluster.pause(service);
        let stopped = self.becomes(process, Life::Stopped);
        std::thread::sleep(length);
        let held = process.life() == Life::Stopped;
        self.cluster.resume(service);
        stopped?;
        ensure!(held, "process {} went on by itself", process.pid);
        self.becomes(process, Life::Running)?;
        Ok(format!("process {} stood still, {in_flight} messages in flight", process.pid))
    }

    fn flush(&self) -> Result<String> {
        let redis = self.cluster.redis();
        let before: u64 = redis.cli(&["DBSIZE"]).trim().parse().context("DBSIZE")?;
        let answer = redis.cli(&["FLUSHALL"]);
        ensure!(answer == "OK", "FLUSHALL answered {answer:?}");
        ensure!(before > 0, "there was nothing to flush");
        Ok(format!("{before} keys gone"))
    }

    /// Queues are empty most of the time: so that they hold something, those who empty them stand still first.
    fn purge(&self, gateway: usize, gathers: Duration) -> Result<String> {
        let mut still = vec![Service::Gateway(gateway)];
        still.extend((0..usize::from(self.cluster.options().logic)).map(Service::Logic));
        still.iter().for_each(|&service| self.cluster.pause(service));
        std::thread::sleep(gathers);
        let purge = format!(
            "lists:sum([N || Q <- rabbit_amqqueue:list(<<\"{VHOST}\">>), {{ok, N}} <- [rabbit_amqqueue:purge(Q)]])."
        );
        let purged = self.cluster.broker().eval(&purge);
        still.iter().for_each(|&service| self.cluster.resume(service));
        let purged: u64 = purged.trim().parse().with_context(|| format!("purged: {purged}"))?;
        ensure!(purged > 0, "the queues were empty");
        Ok(format!("{purged} bodies gone"))
    }

    fn alarm(&self, length: Duration) -> Result<String> {
        let broker = self.cluster.broker();
        let alarms_at = |watermark: &str| {
            broker.eval(&format!(
                "vm_memory_monitor:set_vm_memory_high_watermark({watermark}), rabbit_alarm:get_alarms()."
            ))
        };
        let raised = alarms_at("0");
        std::thread::sleep(length);
        let after = alarms_at(WATERMARK);
        ensure!(raised.contains("memory"), "no alarm: {raised}");
        ensure!(!after.contains("memory"), "the alarm stays: {after}");
        Ok("publishers were blocked".to_owned())
    }

    fn partition(&self, service: Service, way: Way, length: Duration) -> Result<String> {
        let cut = Cut::make(self.cluster.port_of(service), way)?;
        std::thread::sleep(length);
        let dropped = cut.dropped()?;
        drop(cut);
        ensure!(dropped > 0, "nobody said anything");
        Ok(format!("{dropped} packets dropped"))
    }

    fn process(&self, service: Service) -> Result<ProcessId> {
        ProcessId::of(self.cluster.id_of(service))
            .with_context(|| format!("{} has ended by itself", self.cluster.name_of(service)))
    }

    fn becomes(&self, process: ProcessId, life: Life) -> Result<()> {
        let until = Instant::now() + SHOWS_WITHIN;
        while process.life() != life {
            if Instant::now() > until {
                bail!("process {} is not {life:?}", process.pid);
            }
            std::thread::yield_now();
        }
        Ok(())
    }

    fn in_flight(&self) -> u64 {
        self.conductor.sent().saturating_sub(self.conductor.acked())
    }
}
