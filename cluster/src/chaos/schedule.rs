//! Which faults, in which order, to whom, for how long: all from one seed.

use std::time::Duration;

use crate::cluster::{Cluster, Service};

/// Rounds after which a run that cannot reach its numbers gives up.
pub(super) const ROUNDS_MAX: u32 = 400;
/// A stop or cut is at most this long.
const LONGEST: Duration = Duration::from_secs(60);
/// ... and at most this part of the run.
const LONGEST_SHARE: f64 = 1.0 / 40.0;
const SHORTEST: Duration = Duration::from_secs(1);

/// Kinds of faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// kill -9, and a restart.
    Kill,
    /// SIGSTOP, and SIGCONT.
    Pause,
    /// FLUSHALL of Redis.
    Flush,
    /// All queues of the broker lose what they hold.
    Purge,
    /// The broker's memory alarm blocks publishers.
    Alarm,
    /// Packets are dropped, one way or both.
    Partition,
}

impl Kind {
    pub(super) const ALL: [Self; 6] =
        [Self::Kill, Self::Pause, Self::Flush, Self::Purge, Self::Alarm, Self::Partition];
}

/// Which packets a partition drops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    Both,
    /// What goes to the service.
    To,
    /// What comes from it.
    From,
}

/// One fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// It is away for this long.
    Kill(Service, Duration),
    Pause(Service, Duration),
    Flush,
    /// Of what gathers while this gateway, and logic, stand still.
    Purge(usize, Duration),
    Alarm(Duration),
    Partition(Service, Way, Duration),
}

/// A fault and the calm before it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Planned {
    pub(super) kind: Kind,
    pub(super) fault: Fault,
    /// Seconds' worth of messages.
    calm_s: f64,
}

impl Planned {
    /// Acknowledgements between the fault before and this one: a slow machine gets more time, not less load.
    pub(super) fn calm_acks(&self, rate: u32) -> u64 {
        (self.calm_s * f64::from(rate)) as u64
    }
}

/// The faults of a run, a round at a time.
#[derive(Debug)]
pub(super) struct Schedule {
    random: fastrand::Rng,
    faults: Vec<(Kind, Service)>,
    gateways: usize,
    logics: usize,
    longest: Duration,
    rounds: u32,
}

impl Schedule {
    pub(super) fn new(seed: u64, kinds: &[Kind], cluster: &Cluster, minutes: f64) -> Self {
        let shape = cluster.options();
        let (gateways, logics) = (usize::from(shape.gateways), usize::from(shape.logic));
        let mut kinds_of_process = vec![
            (Kind::Kill, Service::RabbitMq),
            (Kind::Kill, Service::Redis),
            // Those of several are chosen when it comes to it.
            (Kind::Kill, Service::Gateway(0)),
            (Kind::Kill, Service::Logic(0)),
        ];
        if cluster.has_store_server() {
            kinds_of_process.push((Kind::Kill, Service::Store));
        }
        let mut faults = Vec::new();
        for &kind in kinds {
            match kind {
                Kind::Kill => faults.extend(&kinds_of_process),
                Kind::Pause => {
                    faults.extend(kinds_of_process.iter().map(|&(_, service)| (kind, service)));
                }
                // Nobody is cut from logic: its port is that of the HTTP API, and messages come over the broker.
                Kind::Partition => faults.extend(
                    { kinds_of_process.iter() }
                        .filter(|(_, service)| !matches!(service, Service::Logic(_)))
                        .map(|&(_, service)| (kind, service)),
                ),
                Kind::Flush => faults.push((kind, Service::Redis)),
                Kind::Purge | Kind::Alarm => faults.push((kind, Service::RabbitMq)),
            }
        }
        let share = Duration::from_secs_f64(minutes * 60.0 * LONGEST_SHARE);
        let longest = share.clamp(SHORTEST * 2, LONGEST);
        let mut random = fastrand::Rng::with_seed(seed);
        random.shuffle(&mut faults);
        Self { random, faults, gateways, logics, longest, rounds: 0 }
    }

    pub(super) fn rounds(&self) -> u32 {
        self.rounds
    }

    /// Every kind once, to whom it can be done.
    pub(super) fn round(&mut self) -> Vec<Planned> {
        self.rounds += 1;
        let mut faults = self.faults.clone();
        self.random.shuffle(&mut faults);
        faults.into_iter().map(|(kind, service)| self.plan(kind, service)).collect()
    }

    fn plan(&mut self, kind: Kind, service: Service) -> Planned {
        let service = match service {
            Service::Gateway(_) => Service::Gateway(self.random.usize(0..self.gateways)),
            Service::Logic(_) => Service::Logic(self.random.usize(0..self.logics)),
            Service::RabbitMq | Service::Redis | Service::Store => service,
        };
        let length = self.length();
        let fault = match kind {
            Kind::Kill => {
                // A restart may follow at once.
                let away = self.random.u64(0..3_000);
                Fault::Kill(service, Duration::from_millis(away))
            }
            Kind::Pause => Fault::Pause(service, length),
            Kind::Flush => Fault::Flush,
            Kind::Purge => {
                let gathers = self.random.u64(1_500..3_500);
                let gateway = self.random.usize(0..self.gateways);
                Fault::Purge(gateway, Duration::from_millis(gathers))
            }
            Kind::Alarm => Fault::Alarm(length),
            Kind::Partition => {
                let way = [Way::Both, Way::To, Way::From][self.random.usize(0..3)];
                Fault::Partition(service, way, length)
            }
        };
        Planned { kind, fault, calm_s: self.random.f64() * 2.0 }
    }

    /// Mostly short, sometimes as long as may be.
    fn length(&mut self) -> Duration {
        let skewed = self.random.f64().powi(2);
        SHORTEST + (self.longest - SHORTEST).mul_f64(skewed)
    }
}
