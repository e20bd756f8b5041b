//! Which faults, in which order, to whom, for how long, and which of them at the same time: all from one seed.

use std::time::Duration;

use crate::cluster::{Cluster, Service};
use crate::link::{Link, Slowness};

/// Rounds after which a run that cannot reach its numbers gives up.
pub(super) const ROUNDS_MAX: u32 = 400;
/// A stop or cut is at most this long.
const LONGEST: Duration = Duration::from_secs(60);
/// ... and at most this part of the run.
const LONGEST_SHARE: f64 = 1.0 / 40.0;
const SHORTEST: Duration = Duration::from_secs(1);
/// Of the faults of a round so many meet another one.
const TOGETHER_SHARE: f64 = 0.3;
/// A gateway follows its system's clock within 5 s.
const CLOCK_OFF_MIN: Duration = Duration::from_secs(7);
/// Longest step of a clock: less than the life of a resume token, two hours.
const CLOCK_STEP_MAX_S: f64 = 3_600.0;

/// Kinds of faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
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
    /// Clients of a gateway, or a process and the broker, have a slow link between them.
    Slow,
    /// Frames between clients and a gateway come twice.
    Repeat,
    /// Bodies between the tiers come twice.
    Republish,
    /// The clock of a process is stepped, forward or back, and back again.
    Clock,
    /// The database has no room left on its disk.
    Disk,
}

impl Kind {
    pub(super) const ALL: [Self; 11] = [
        Self::Kill,
        Self::Pause,
        Self::Flush,
        Self::Purge,
        Self::Alarm,
        Self::Partition,
        Self::Slow,
        Self::Repeat,
        Self::Republish,
        Self::Clock,
        Self::Disk,
    ];
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

/// Where packets are dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// At its port, for everybody.
    Service(Service),
    /// For the one whose link it is.
    Link(Link),
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
    Partition(Place, Way, Duration),
    Slow(Link, Slowness, Duration),
    /// Between clients and this gateway.
    Repeat(usize, Duration),
    Republish(Duration),
    /// By so many seconds.
    Clock(Service, i64, Duration),
    Disk(Duration),
}

impl Fault {
    pub(super) fn kind(&self) -> Kind {
        match self {
            Self::Kill(..) => Kind::Kill,
            Self::Pause(..) => Kind::Pause,
            Self::Flush => Kind::Flush,
            Self::Purge(..) => Kind::Purge,
            Self::Alarm(_) => Kind::Alarm,
            Self::Partition(..) => Kind::Partition,
            Self::Slow(..) => Kind::Slow,
            Self::Repeat(..) => Kind::Repeat,
            Self::Republish(_) => Kind::Republish,
            Self::Clock(..) => Kind::Clock,
            Self::Disk(_) => Kind::Disk,
        }
    }

    /// From its begin to its healing.
    pub(super) fn length(&self) -> Duration {
        match *self {
            Self::Flush | Self::Purge(..) => Duration::ZERO,
            Self::Kill(_, length)
            | Self::Pause(_, length)
            | Self::Alarm(length)
            | Self::Partition(_, _, length)
            | Self::Slow(_, _, length)
            | Self::Repeat(_, length)
            | Self::Republish(length)
            | Self::Clock(_, _, length)
            | Self::Disk(length) => length,
        }
    }

    /// Whom it is done to; nobody in particular: to several at once.
    fn victim(&self) -> Option<Service> {
        let process = |link: &Link| match *link {
            Link::Clients(index) | Link::GatewayBroker(index) => Service::Gateway(index),
            Link::LogicBroker(index) => Service::Logic(index),
        };
        match self {
            Self::Kill(service, _)
            | Self::Pause(service, _)
            | Self::Clock(service, _, _)
            | Self::Partition(Place::Service(service), _, _) => Some(*service),
            Self::Partition(Place::Link(link), _, _) | Self::Slow(link, _, _) => {
                Some(process(link))
            }
            Self::Repeat(index, _) => Some(Service::Gateway(*index)),
            Self::Flush => Some(Service::Redis),
            Self::Alarm(_) | Self::Republish(_) => Some(Service::RabbitMq),
            Self::Disk(_) => Some(Service::Store),
            Self::Purge(..) => None,
        }
    }

    /// Two faults of one victim would hide each other.
    fn goes_with(&self, other: &Self) -> bool {
        self.victim().zip(other.victim()).is_some_and(|(one, two)| one != two)
    }
}

/// One fault or two at the same time, and the calm before.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Planned {
    pub(super) faults: Vec<Fault>,
    /// Between the begin of the first and that of the second.
    pub(super) lag: Duration,
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
    targets: Vec<(Kind, Place)>,
    gateways: usize,
    logics: usize,
    longest: Duration,
    rounds: u32,
}

impl Schedule {
    pub(super) fn new(seed: u64, kinds: &[Kind], cluster: &Cluster, minutes: f64) -> Self {
        let shape = cluster.options();
        let (gateways, logics) = (usize::from(shape.gateways), usize::from(shape.logic));
        // Those of several are chosen when it comes to it.
        let (gateway, logic) = (Service::Gateway(0), Service::Logic(0));
        let mut services = vec![Service::RabbitMq, Service::Redis, gateway, logic];
        services.extend(cluster.has_store_server().then_some(Service::Store));
        services.extend(cluster.has_registry().then_some(Service::Registry));
        let mut targets = Vec::new();
        for &kind in kinds {
            let places = places(kind, &services, cluster.links().is_some());
            targets.extend(places.into_iter().map(|place| (kind, place)));
        }
        let share = Duration::from_secs_f64(minutes * 60.0 * LONGEST_SHARE);
        let longest = share.clamp(SHORTEST * 2, LONGEST);
        let mut random = fastrand::Rng::with_seed(seed);
        random.shuffle(&mut targets);
        Self { random, targets, gateways, logics, longest, rounds: 0 }
    }

    pub(super) fn rounds(&self) -> u32 {
        self.rounds
    }

    /// Every kind once, to whom it can be done.
    pub(super) fn round(&mut self) -> Vec<Planned> {
        self.rounds += 1;
        let mut targets = self.targets.clone();
        self.random.shuffle(&mut targets);
        let mut round: Vec<Planned> = Vec::new();
        for (kind, place) in targets {
            let fault = self.plan(kind, place);
            // Drawn for each, so that a seed means the same whatever goes with what.
            let (together, lag) = (self.random.f64(), self.random.f64());
            let calm_s = self.random.f64() * 2.0;
            match round.last_mut() {
                Some(last)
                    if together < TOGETHER_SHARE
                        && last.faults.len() == 1
                        && last.faults[0].goes_with(&fault) =>
                {
                    last.lag = last.faults[0].length().mul_f64(lag);
                    last.faults.push(fault);
                }
                Some(_) | None => {
                    round.push(Planned { faults: vec![fault], lag: Duration::ZERO, calm_s });
                }
            }
        }
        round
    }

    fn plan(&mut self, kind: Kind, place: Place) -> Fault {
        let length = self.length();
        let gateway = self.random.usize(0..self.gateways);
        let logic = self.random.usize(0..self.logics);
        let place = match place {
            Place::Service(Service::Gateway(_)) => Place::Service(Service::Gateway(gateway)),
            Place::Service(Service::Logic(_)) => Place::Service(Service::Logic(logic)),
            Place::Link(Link::Clients(_)) => Place::Link(Link::Clients(gateway)),
            Place::Link(Link::GatewayBroker(_)) => Place::Link(Link::GatewayBroker(gateway)),
            Place::Link(Link::LogicBroker(_)) => Place::Link(Link::LogicBroker(logic)),
            Place::Service(_) => place,
        };
        match (kind, place) {
            // A restart may follow at once.
            (Kind::Kill, Place::Service(service)) => {
                Fault::Kill(service, Duration::from_millis(self.random.u64(0..3_000)))
            }
            (Kind::Pause, Place::Service(service)) => Fault::Pause(service, length),
            (Kind::Flush, _) => Fault::Flush,
            (Kind::Purge, _) => {
                Fault::Purge(gateway, Duration::from_millis(self.random.u64(1_500..3_500)))
            }
            (Kind::Alarm, _) => Fault::Alarm(length),
            (Kind::Slow, Place::Link(link)) => Fault::Slow(link, self.slowness(), length),
            (Kind::Repeat, _) => Fault::Repeat(gateway, length),
            (Kind::Republish, _) => Fault::Republish(length),
            (Kind::Clock, Place::Service(service)) => {
                Fault::Clock(service, self.clock_step_s(), length.max(CLOCK_OFF_MIN))
            }
            (Kind::Disk, _) => Fault::Disk(length),
            (Kind::Partition, _)
            | (Kind::Kill | Kind::Pause | Kind::Clock, Place::Link(_))
            | (Kind::Slow, Place::Service(_)) => {
                let way = [Way::Both, Way::To, Way::From][self.random.usize(0..3)];
                Fault::Partition(place, way, length)
            }
        }
    }

    /// Mostly short, sometimes as long as may be.
    fn length(&mut self) -> Duration {
        let skewed = self.random.f64().powi(3);
        SHORTEST + (self.longest - SHORTEST).mul_f64(skewed)
    }

    fn slowness(&mut self) -> Slowness {
        Slowness {
            delay: Duration::from_millis(self.random.u64(5..150)),
            bytes_per_second: self.random.u64(100_000..1_000_000),
        }
    }

    /// Seconds to an hour, either way.
    fn clock_step_s(&mut self) -> i64 {
        let size = CLOCK_STEP_MAX_S.powf(0.4 + 0.6 * self.random.f64()) as i64;
        if self.random.bool() { size } else { -size }
    }
}

/// Where faults of this kind happen.
fn places(kind: Kind, services: &[Service], has_links: bool) -> Vec<Place> {
    let to_broker = [Link::GatewayBroker(0), Link::LogicBroker(0)].map(Place::Link);
    let clients = [Place::Link(Link::Clients(0))];
    let links = |links: &[Place]| if has_links { links.to_vec() } else { Vec::new() };
    match kind {
        Kind::Kill | Kind::Pause => services.iter().copied().map(Place::Service).collect(),
        // Nobody is cut from logic by its port, which is that of the HTTP API: messages come over the broker.
        Kind::Partition => { services.iter().copied() }
            .filter(|service| !matches!(service, Service::Logic(_)))
            .map(Place::Service)
            .chain(links(&to_broker))
            .collect(),
        Kind::Slow => links(&[&to_broker[..], &clients].concat()),
        Kind::Repeat => links(&clients),
        Kind::Clock => [Service::Gateway(0), Service::Logic(0)].map(Place::Service).to_vec(),
        Kind::Flush => vec![Place::Service(Service::Redis)],
        Kind::Disk => vec![Place::Service(Service::Store)],
        Kind::Purge | Kind::Alarm | Kind::Republish => vec![Place::Service(Service::RabbitMq)],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(seed: u64) -> Schedule {
        let services = [Service::RabbitMq, Service::Gateway(0), Service::Logic(0), Service::Store];
        let targets = Kind::ALL.into_iter().flat_map(|kind| {
            places(kind, &services, true).into_iter().map(move |place| (kind, place))
        });
        let targets: Vec<_> = targets.collect();
        let random = fastrand::Rng::with_seed(seed);
        let longest = Duration::from_secs(60);
        Schedule { random, targets, gateways: 2, logics: 2, longest, rounds: 0 }
    }

    #[test]
    fn a_round_has_every_fault_once_and_a_seed_decides() {
        let (mut one, mut two) = (schedule(7), schedule(7));
        let mut pairs = 0;
        for _ in 0..50 {
            let round = one.round();
            assert_eq!(round, two.round());
            let mut kinds: Vec<Kind> =
                round.iter().flat_map(|p| p.faults.iter().map(Fault::kind)).collect();
            let mut expected: Vec<Kind> = one.targets.iter().map(|(kind, _)| *kind).collect();
            kinds.sort_unstable();
            expected.sort_unstable();
            assert_eq!(kinds, expected);
            for planned in &round {
                assert!((1..=2).contains(&planned.faults.len()));
                assert!(planned.faults.iter().all(|f| f.length() <= LONGEST), "{planned:?}");
                if let [one, two] = planned.faults[..] {
                    assert_ne!(one.victim(), two.victim());
                    pairs += 1;
                }
            }
        }
        assert!(pairs > 100, "{pairs} pairs");
    }
}
