//! Very many connections that only stay: logged in, answering heartbeats, holding no buffer.
//!
//! RLIMIT_NOFILE limits the descriptors of each ring, so the ballast is spread over as many rings
//! as it takes, one thread each. To pass the 28,000 source ports of one address, and what a server
//! allows each address, some thousand connections share a source address: of 127.0.0.0/8 when the
//! server is on the loopback, else one of those given. At most two rings ramp up at a time; the pace is one for all of them.
//! Connections go where a gateway sends them; whether one that was lost comes back is said by the plan.

mod agent;
mod ring;
mod way;

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::thread::JoinHandle;

use roost_protocol::frame::connect::{Connect, Credential, DeviceClass};
use roost_protocol::{DeviceId, Encoder, limits};

use crate::clock::RunClock;
use crate::histogram::LatencyHistogram;
use agent::{Agent, AgentResult};

/// Descriptors of a ring, with room for what else counts against the limit.
const CONNECTIONS_PER_RING_MAX: u64 = 19_000;
/// Rings that ramp up at the same time.
const RAMPING_RINGS_MAX: u64 = 2;
/// Connections of one source address: below a server's usual limit for one address.
const CONNECTIONS_PER_SOURCE: u64 = 8_000;
/// First source port of an address.
const SOURCE_PORT_MIN: u16 = 10_000;
/// Source ports of one address, as the kernel hands them out.
const EPHEMERAL_PORTS: u64 = 28_000;
const STACK_BYTES: usize = 256 * 1024;

/// Makes the access token of a ballast user, by the user's number.
pub type TokenMaker = Box<dyn Fn(u64) -> String + Send + Sync>;

/// What to hold.
pub struct BallastPlan {
    /// Connections in all.
    pub count: u64,
    /// Connections started a second.
    pub ramp: f64,
    /// Gateways, at least one: connections begin at each of them in turn.
    pub targets: Vec<SocketAddrV4>,
    /// Whether a connection that was let in and lost is opened again, as clients do.
    pub comes_back: bool,
    /// Source addresses, for a server that is not on the loopback.
    pub sources: Vec<Ipv4Addr>,
    /// Makes tokens.
    pub token: TokenMaker,
    /// Of the run.
    pub clock: RunClock,
    /// Distinguishes the source addresses of runs shortly after one another.
    pub run_id: u32,
}

impl BallastPlan {
    fn is_loopback(&self) -> bool {
        self.targets.iter().all(|target| target.ip().is_loopback())
    }

    /// Where connection `number` comes from when it is opened after so many times; `None` leaves it to the kernel.
    fn source_of(&self, number: u64, openings: u32) -> Option<SocketAddrV4> {
        let block = number / CONNECTIONS_PER_SOURCE;
        let port = SOURCE_PORT_MIN + (number % CONNECTIONS_PER_SOURCE) as u16;
        if self.is_loopback() {
            let [a, b, _, _] = self.run_id.to_le_bytes();
            // 127.0.0.x stays free for others. The port of the last opening may not be free yet: each has an address of its own.
            let (high, low) = ((block / 250) as u8, (block % 250) as u8);
            let third = b.wrapping_add(openings as u8);
            let address = Ipv4Addr::new(127, (a | 1).wrapping_add(high * 2), third, low + 2);
            return Some(SocketAddrV4::new(address, port));
        }
        let address = *self.sources.get(block as usize)?;
        Some(SocketAddrV4::new(address, if openings == 0 { port } else { 0 }))
    }

    fn connect_frame(&self, number: u64, encoder: &mut Encoder) -> Vec<u8> {
        let token = (self.token)(number);
        let mut bytes = Vec::new();
        let device_id = DeviceId::new("ballast").expect("a valid id");
        let connect = Connect {
            protocol_version: limits::PROTOCOL_VERSION,
            credential: Credential::Token(&token),
            device_id,
            device_class: DeviceClass::Other,
            client_name: "roost-load",
            last_session_epoch: 0,
            inbox_seq: 0,
        };
        connect.encode(encoder, &mut bytes);
        bytes
    }
}

/// What the ballast does, readable while it runs.
#[derive(Debug, Default)]
pub struct BallastCounters {
    /// Started so far.
    pub started: AtomicU64,
    /// Logged in so far.
    pub connected: AtomicU64,
    /// Logged in now.
    pub held: AtomicU64,
    /// Refused or lost for good so far.
    pub failed: AtomicU64,
    /// Lost or sent elsewhere after they were logged in, so far.
    pub lost: AtomicU64,
    /// Of those, logged in again.
    pub back: AtomicU64,
    /// When the last login succeeded.
    pub last_connected_us: AtomicU64,
    /// No more connections than this are started, and since when at the pace of the ramp.
    level: AtomicU64,
    level_start_us: AtomicU64,
    level_base: AtomicU64,
    ramped_rings: AtomicU64,
    is_stopped: AtomicBool,
    is_broken: AtomicBool,
}

impl BallastCounters {
    /// From now on up to `level` connections are started, at the pace of the ramp.
    pub fn raise_to(&self, level: u64, now_us: u64) {
        self.level_base.store(self.started.load(Relaxed), Relaxed);
        self.level_start_us.store(now_us, Relaxed);
        self.level.store(level, Relaxed);
    }

    /// Takes one of the starts that the ramp allows by now, if one is left.
    fn may_start(&self, plan: &BallastPlan, now_us: u64) -> bool {
        let elapsed_us = now_us.saturating_sub(self.level_start_us.load(Relaxed));
        let paced = (elapsed_us as f64 / 1e6 * plan.ramp) as u64;
        let allowed = (self.level_base.load(Relaxed) + paced).min(self.level.load(Relaxed));
        self.started.fetch_update(Relaxed, Relaxed, |n| (n < allowed).then_some(n + 1)).is_ok()
    }

    /// Whether nothing may start until the level is raised.
    fn is_at_level(&self) -> bool {
        self.started.load(Relaxed) >= self.level.load(Relaxed)
    }

    /// Whether a ring ended with an error, which [`Ballast::finish`] returns.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.is_broken.load(Relaxed)
    }

    /// Whether every connection was tried.
    #[must_use]
    pub fn is_ramped(&self, count: u64) -> bool {
        self.connected.load(Relaxed) + self.failed.load(Relaxed) >= count
    }
}

/// What the ballast came to.
#[derive(Debug, Default)]
pub struct BallastResult {
    /// Still held at the end.
    pub held: u64,
    /// From starting to connect to being logged in.
    pub connect: LatencyHistogram,
    /// Logged in once, and lost or sent elsewhere.
    pub lost: u64,
    /// From being lost or sent elsewhere to being logged in again.
    pub back: LatencyHistogram,
    /// How many connections failed, by reason.
    pub failures: BTreeMap<String, u64>,
}

/// The running ballast.
pub struct Ballast {
    counters: Arc<BallastCounters>,
    coordinator: JoinHandle<io::Result<BallastResult>>,
}

impl Ballast {
    /// Makes ready to open connections; [`BallastCounters::raise_to`] starts them.
    ///
    /// # Errors
    /// When there are not enough source addresses, or no thread can be started.
    pub fn start(plan: BallastPlan) -> io::Result<Self> {
        let is_loopback = plan.is_loopback();
        let sources = plan.count.div_ceil(CONNECTIONS_PER_SOURCE);
        let has_sources = is_loopback || plan.sources.len() as u64 >= sources;
        if !has_sources && plan.count > EPHEMERAL_PORTS {
            return Err(io::Error::other(format!(
                "{} connections to one address need {sources} source addresses: give them with \
                 --source, or start several load testers",
                plan.count
            )));
        }
        let counters = Arc::new(BallastCounters::default());
        let (plan, shared) = (Arc::new(plan), Arc::clone(&counters));
        let coordinator = std::thread::Builder::new()
            .name("ballast".into())
            .spawn(move || coordinate(&plan, &shared))?;
        Ok(Self { counters, coordinator })
    }

    /// Counters of the running ballast.
    #[must_use]
    pub fn counters(&self) -> &Arc<BallastCounters> {
        &self.counters
    }

    /// Drops all connections and returns what they came to.
    ///
    /// # Errors
    /// When a ring could not be made or failed.
    pub fn finish(self) -> io::Result<BallastResult> {
        self.counters.is_stopped.store(true, Relaxed);
        self.coordinator.join().map_err(|_| io::Error::other("the ballast thread panicked"))?
    }
}

fn coordinate(
    plan: &Arc<BallastPlan>,
    counters: &Arc<BallastCounters>,
) -> io::Result<BallastResult> {
    let mut agents: Vec<JoinHandle<io::Result<AgentResult>>> = Vec::new();
    let rings = plan.count.div_ceil(CONNECTIONS_PER_RING_MAX);
    for ring in 0..rings {
        let is_waiting = || {
            !counters.is_stopped.load(Relaxed)
                && !counters.is_broken()
                && ring >= counters.ramped_rings.load(Relaxed) + RAMPING_RINGS_MAX
        };
        while is_waiting() {
            std::thread::park_timeout(std::time::Duration::from_millis(5));
        }
        let first = ring * CONNECTIONS_PER_RING_MAX;
        let count = (plan.count - first).min(CONNECTIONS_PER_RING_MAX) as u32;
        let (plan, shared) = (Arc::clone(plan), Arc::clone(counters));
        let run = move || {
            let on_ramped = || {
                shared.ramped_rings.fetch_add(1, Relaxed);
            };
            let result = Agent::new(plan, Arc::clone(&shared), first, count)
                .and_then(|agent| agent.run(on_ramped));
            if result.is_err() {
                shared.is_broken.store(true, Relaxed);
            }
            result
        };
        let builder = std::thread::Builder::new().name(format!("ballast-{ring}"));
        agents.push(builder.stack_size(STACK_BYTES).spawn(run)?);
    }
    collect(agents, counters)
}

fn collect(
    agents: Vec<JoinHandle<io::Result<AgentResult>>>,
    counters: &BallastCounters,
) -> io::Result<BallastResult> {
    let mut result = BallastResult::default();
    let mut failure = None;
    for agent in agents {
        match agent.join() {
            Ok(Ok(share)) => {
                result.connect.add(&share.connect);
                result.back.add(&share.back);
                for (reason, count) in share.failures {
                    *result.failures.entry(reason).or_insert(0) += count;
                }
            }
            Ok(Err(e)) => failure = Some(e),
            Err(_) => failure = Some(io::Error::other("a ballast ring panicked")),
        }
    }
    result.held = counters.held.load(Relaxed);
    result.lost = counters.lost.load(Relaxed);
    failure.map_or(Ok(result), Err)
}
