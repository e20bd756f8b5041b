//! Applies faults, heals them, and says what proves that they took effect.
//!
//! A fault has a begin and an end, so that another one can begin in between. What was killed is started again when everything else is healed,
//! services before processes of Roost, which cannot start without them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use roost_loadtest::scenario::Conductor;

use super::disk::Disk;
use super::partition::Cut;
use super::republish::Republisher;
use super::schedule::{Fault, Place, Planned};
use crate::cluster::{Cluster, Service};
use crate::link::{Link, Links, Slowness};
use crate::plan::VHOST;
use crate::probe::{Probe, Readiness};
use crate::state::{Life, ProcessId};

/// A stopped process shows as such after this, a stepped clock likewise.
const SHOWS_WITHIN: Duration = Duration::from_secs(10);
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// A database has some room of its own, after which nothing is committed for this long.
const STANDS_STILL_FOR: Duration = Duration::from_secs(1);
const STANDS_STILL_WITHIN: Duration = Duration::from_secs(40);
/// As the runner configures it.
const WATERMARK: &str = "{absolute, \"2GB\"}";

/// Breaks a cluster and heals it.
#[derive(Debug)]
pub(super) struct Breaker {
    pub(super) cluster: Cluster,
    /// Of the database; unmounted when the database is gone.
    disk: Option<Disk>,
    conductor: Arc<Conductor>,
}

/// A fault that has begun, with what its end needs.
#[derive(Debug)]
enum Begun {
    Killed {
        service: Service,
        former: ProcessId,
        at: Instant,
        said: String,
    },
    Paused {
        service: Service,
        process: ProcessId,
        in_flight: u64,
    },
    /// It has no length.
    Done(String),
    Alarm,
    Cut(Cut),
    Slow(Link, Slowness),
    Repeats(usize),
    Republishes(Republisher),
    Clock {
        service: Service,
        process: ProcessId,
        offset_s: i64,
    },
    Full {
        process: Option<ProcessId>,
        said: String,
    },
}

impl Begun {
    /// What is healed first.
    fn rank(&self) -> u32 {
        match self {
            Self::Killed { service: Service::Gateway(_) | Service::Logic(_), .. } => 2,
            Self::Killed { .. } | Self::Full { .. } => 1,
            Self::Paused { .. }
            | Self::Done(_)
            | Self::Alarm
            | Self::Cut(_)
            | Self::Slow(..)
            | Self::Repeats(_)
            | Self::Republishes(_)
            | Self::Clock { .. } => 0,
        }
    }
}

impl Breaker {
    pub(super) fn new(cluster: Cluster, disk: Option<Disk>, conductor: Arc<Conductor>) -> Self {
        Self { cluster, disk, conductor }
    }

    /// Applies faults and heals them when the longest is over. Of each what proves its effect, or why it has none.
    ///
    /// # Errors
    /// When something cannot be healed.
    pub(super) fn apply(&mut self, planned: &Planned) -> Result<Vec<Result<String>>> {
        let mut until = Instant::now();
        let mut begun = Vec::new();
        for (index, fault) in planned.faults.iter().enumerate() {
            if index > 0 {
                std::thread::sleep(planned.lag);
            }
            begun.push((index, self.begin(fault)));
            until = until.max(Instant::now() + fault.length());
        }
        std::thread::sleep(until.saturating_duration_since(Instant::now()));
        begun.sort_by_key(|(_, begun)| begun.as_ref().map_or(0, Begun::rank));
        let mut effects: Vec<Result<String>> = Vec::new();
        effects.resize_with(begun.len(), || bail!("it has not ended"));
        for (index, begun) in begun {
            effects[index] = match begun {
                Ok(begun) => self.end(begun)?,
                Err(error) => Err(error),
            };
        }
        Ok(effects)
    }

    fn links(&self) -> Result<&Links> {
        self.cluster.links().context("the cluster was started without links")
    }

    fn begin(&mut self, fault: &Fault) -> Result<Begun> {
        match *fault {
            Fault::Kill(service, _) => self.kill(service),
            Fault::Pause(service, _) => self.pause(service),
            Fault::Flush => self.flush().map(Begun::Done),
            Fault::Purge(gateway, gathers) => self.purge(gateway, gathers).map(Begun::Done),
            Fault::Alarm(_) => self.alarm(),
            Fault::Partition(place, way, _) => {
                let port = match place {
                    Place::Service(service) => self.cluster.port_of(service),
                    Place::Link(link) => self.links()?.port(link),
                };
                Cut::make(port, way).map(Begun::Cut)
            }
            Fault::Slow(link, slowness, _) => {
                self.links()?.slow_down(link, slowness);
                Ok(Begun::Slow(link, slowness))
            }
            Fault::Repeat(gateway, _) => {
                self.links()?.repeat(gateway);
                Ok(Begun::Repeats(gateway))
            }
            Fault::Republish(_) => {
                Republisher::start(self.cluster.broker()).map(Begun::Republishes)
            }
            Fault::Clock(service, offset_s, _) => self.step_clock(service, offset_s),
            Fault::Disk(_) => self.fill_disk(),
        }
    }

    /// Heals it. What proves its effect; an error when it cannot be healed.
    fn end(&mut self, begun: Begun) -> Result<Result<String>> {
        Ok(match begun {
            Begun::Done(said) => Ok(said),
            Begun::Killed { service, former, at, said } => {
                self.cluster.restart(service)?;
                self.came_back(service, former).map(|now| {
                    let took = at.elapsed().as_secs_f64();
                    format!("{said}, process {} ready after {took:.1} s", now.pid)
                })
            }
            Begun::Paused { service, process, in_flight } => {
                let held = process.life() == Life::Stopped;
                self.cluster.resume(service);
                becomes(process, Life::Running)?;
                let said =
                    format!("process {} stood still, {in_flight} messages in flight", process.pid);
                proven(held, said, || format!("process {} went on by itself", process.pid))
            }
            Begun::Alarm => {
                let after = self.alarms_at(WATERMARK);
                ensure!(!after.contains("memory"), "the alarm stays: {after}");
                Ok("publishers were blocked".to_owned())
            }
            Begun::Cut(cut) => {
                let dropped = cut.dropped()?;
                drop(cut);
                let said = format!("{dropped} packets dropped");
                proven(dropped > 0, said, || "nobody said anything".to_owned())
            }
            Begun::Slow(link, slowness) => {
                let bytes = self.links()?.hurry(link);
                let Slowness { delay, bytes_per_second } = slowness;
                let said = format!(
                    "{bytes} bytes {} ms late, {} KB/s at most",
                    delay.as_millis(),
                    bytes_per_second / 1_000
                );
                proven(bytes > 0, said, || "nobody said anything".to_owned())
            }
            Begun::Repeats(gateway) => {
                let frames = self.links()?.repeat_no_more(gateway);
                let said = format!("{frames} frames came twice");
                proven(frames > 0, said, || "nobody said anything".to_owned())
            }
            Begun::Republishes(republisher) => {
                republisher.finish(self.cluster.broker()).and_then(|bodies| {
                    let said = format!("{bodies} bodies came twice");
                    proven(bodies > 0, said, || "nothing was published".to_owned())
                })
            }
            Begun::Clock { service, process, offset_s } => {
                let held = process.life() == Life::Running;
                self.set_clock(service, 0)?;
                let said = format!("process {} was {offset_s:+} s off", process.pid);
                proven(held, said, || format!("process {} ended", process.pid))
            }
            Begun::Full { process, said } => self.free_disk(process, said)?,
        })
    }

    fn kill(&mut self, service: Service) -> Result<Begun> {
        let former = self.process(service)?;
        let (at, in_flight) = (Instant::now(), self.in_flight());
        self.cluster.kill(service);
        self.conductor.record_kill(at, former.life() == Life::Gone);
        let refused = match (Probe::Port { port: self.cluster.port_of(service) }).ask() {
            Readiness::Ready => "",
            Readiness::Missing(_) => ", its port refused connections",
        };
        let said =
            format!("process {} gone with {in_flight} messages in flight{refused}", former.pid);
        Ok(Begun::Killed { service, former, at, said })
    }

    fn came_back(&self, service: Service, former: ProcessId) -> Result<ProcessId> {
        ensure!(former.life() == Life::Gone, "process {} is still there", former.pid);
        let now = self.process(service)?;
        ensure!(now != former, "process {} was never gone", former.pid);
        Ok(now)
    }

    fn pause(&self, service: Service) -> Result<Begun> {
        let process = self.process(service)?;
        let in_flight = self.in_flight();
        self.cluster.pause(service);
        if let Err(error) = becomes(process, Life::Stopped) {
            self.cluster.resume(service);
            return Err(error);
        }
        Ok(Begun::Paused { service, process, in_flight })
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

    fn alarm(&self) -> Result<Begun> {
        let raised = self.alarms_at("0");
        if !raised.contains("memory") {
            self.alarms_at(WATERMARK);
            bail!("no alarm: {raised}");
        }
        Ok(Begun::Alarm)
    }

    fn alarms_at(&self, watermark: &str) -> String {
        self.cluster.broker().eval(&format!(
            "vm_memory_monitor:set_vm_memory_high_watermark({watermark}), rabbit_alarm:get_alarms()."
        ))
    }

    fn step_clock(&self, service: Service, offset_s: i64) -> Result<Begun> {
        let process = self.process(service)?;
        if let Err(error) = self.set_clock(service, offset_s) {
            self.set_clock(service, 0)?;
            return Err(error);
        }
        Ok(Begun::Clock { service, process, offset_s })
    }

    /// Returns when the process has looked.
    fn set_clock(&self, service: Service, offset_s: i64) -> Result<()> {
        let clocks = self.cluster.clocks().context("the cluster was started without clocks")?;
        let name = self.cluster.name_of(service);
        clocks.step(&name, offset_s)?;
        let until = Instant::now() + SHOWS_WITHIN;
        while !clocks.is_read(&name)? {
            ensure!(Instant::now() < until, "{name} does not look at its clock");
            std::thread::sleep(LOOK_AGAIN);
        }
        Ok(())
    }

    fn fill_disk(&self) -> Result<Begun> {
        let disk = self.disk.as_ref().context("the database has no disk of its own")?;
        // A file within a process of Roost has no server that could end.
        let process = ProcessId::of(self.cluster.id_of(Service::Store));
        let begin = Instant::now();
        disk.fill()?;
        let (mut acked, mut since) = (self.conductor.acked(), Instant::now());
        while since.elapsed() < STANDS_STILL_FOR {
            if begin.elapsed() > STANDS_STILL_WITHIN {
                disk.free()?;
                bail!("messages are stored without room");
            }
            std::thread::sleep(LOOK_AGAIN);
            if self.conductor.acked() > acked {
                (acked, since) = (self.conductor.acked(), Instant::now());
            }
        }
        let said = format!(
            "nothing was stored any more after {:.1} s",
            since.duration_since(begin).as_secs_f64()
        );
        Ok(Begun::Full { process, said })
    }

    /// A database may end for want of room; then it is started again, as its supervisor would.
    fn free_disk(&mut self, process: Option<ProcessId>, said: String) -> Result<Result<String>> {
        let disk = self.disk.as_ref().context("the database has no disk of its own")?;
        let was_full = disk.is_full()?;
        disk.free()?;
        let mut said = said;
        if process.is_some_and(|process| process.life() == Life::Gone) {
            said += "; the server ended and was started again";
            self.cluster.restart(Service::Store)?;
        }
        Ok(proven(was_full, said, || "there was room again by itself".to_owned()))
    }

    fn process(&self, service: Service) -> Result<ProcessId> {
        ProcessId::of(self.cluster.id_of(service))
            .with_context(|| format!("{} has ended by itself", self.cluster.name_of(service)))
    }

    fn in_flight(&self) -> u64 {
        self.conductor.sent().saturating_sub(self.conductor.acked())
    }
}

/// What proves an effect, or why there is none.
fn proven(is_proven: bool, said: String, why: impl FnOnce() -> String) -> Result<String> {
    ensure!(is_proven, "{}", why());
    Ok(said)
}

fn becomes(process: ProcessId, life: Life) -> Result<()> {
    let until = Instant::now() + SHOWS_WITHIN;
    while process.life() != life {
        if Instant::now() > until {
            bail!("process {} is not {life:?}", process.pid);
        }
        std::thread::yield_now();
    }
    Ok(())
}
