//! Membership in a registry: gateways enter themselves under a lease, and everybody follows the list.
//!
//! ```text
//!  start ──► Following{ring} ──no answer──► Away{last ring} ──answers──► Following; who is missing gets one lease to come back
//!                │                               │
//!                └─────── own lease over ────────┴──► fenced: claims no user, passes on no user, keeps every session
//! ```
//! Invariants:
//! * A name has one gateway: an entry is only made where none is, and only its own process replaces it.
//! * An entry has no weight until its gateway accepts clients, and none while it leaves.
//! * A registry that is away changes nothing: the last ring stays, however long it takes.
//! * All of it runs on one thread of its own, so that a busy process does not lose its lease.
//!
//! What it does not do: decide where messages go. That is the route.

pub(crate) mod config;
pub(crate) mod entry;
mod keeper;
pub(crate) mod ring_watch;
pub(crate) mod status;

use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::runtime::Builder;
use tokio::sync::watch;

use crate::ring::{Member, Ring};

use config::MembershipConfig;
use keeper::Keeper;
use ring_watch::RingWatch;
use status::RegistryStatus;

/// Why a registry cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegistryError {
    /// Nobody answers.
    #[error("no server answers: {0}")]
    Unreachable(String),
    /// It answers, and refuses.
    #[error("{0}")]
    Refused(String),
    /// Another gateway has this name.
    #[error(
        "another gateway named {name:?} is a member, at {address}: give each gateway its own gateway.name, or stop that one"
    )]
    NameTaken {
        /// Of both.
        name: String,
        /// Of the other one.
        address: String,
    },
    /// The own lease or session is over; the next attempt begins a new one.
    #[error("the lease is over")]
    LeaseOver,
}

/// What a gateway wants to be in the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Presence {
    /// It has its name, and no users.
    Closed,
    /// Users belong to it.
    Open,
    /// It is no member any more.
    Gone,
}

/// A registry that is followed. Dropping it is leaving without waiting for it.
#[derive(Debug)]
pub struct Registry {
    ring: RingWatch,
    status: Arc<RegistryStatus>,
    presence: watch::Sender<Presence>,
    thread: Option<JoinHandle<()>>,
}

impl Registry {
    /// Follows the list without being in it. Returns with the first ring.
    ///
    /// # Errors
    /// When no server can be used; the text says what to do.
    pub fn follow(config: &MembershipConfig) -> Result<Self, RegistryError> {
        Self::start(config, None)
    }

    /// Takes a name, without users until [`Registry::open`]. When another process has the name, waits for one lease: it may be what a
    /// crash left.
    ///
    /// # Errors
    /// When no server can be used, or the name stays taken; the text says what to do.
    pub fn join(config: &MembershipConfig, member: Member) -> Result<Self, RegistryError> {
        Self::start(config, Some(member))
    }

    fn start(config: &MembershipConfig, own: Option<Member>) -> Result<Self, RegistryError> {
        let refused = RegistryError::Refused;
        if let Some(Err(error)) = own.clone().map(|own| Ring::new(vec![own])) {
            return Err(refused(format!("this gateway cannot be a member: {error}")));
        }
        let (presence, wanted) = watch::channel(Presence::Closed);
        let (writer, ring) = ring_watch::channel();
        let status = Arc::new(RegistryStatus::new(config.kind, ring.clone()));
        let mut keeper = Keeper::new(config, own, writer, Arc::clone(&status), wanted)?;
        let (started, is_started) = mpsc::channel();
        let run = move || {
            let runtime = match Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime,
                Err(error) => {
                    _ = started.send(Err(refused(format!("no runtime: {error}"))));
                    return;
                }
            };
            runtime.block_on(async {
                let result = keeper.start().await;
                let is_well = result.is_ok();
                _ = started.send(result);
                if is_well {
                    keeper.run().await;
                }
            });
        };
        let thread = thread::Builder::new().name("roost-membership".to_owned()).spawn(run);
        let thread = thread.map_err(|error| refused(format!("no thread: {error}")))?;
        is_started.recv().map_err(|_| refused("it ended at its start".to_owned()))??;
        Ok(Self { ring, status, presence, thread: Some(thread) })
    }

    /// The members.
    pub fn ring(&self) -> &RingWatch {
        &self.ring
    }

    /// How it is.
    pub fn status(&self) -> &Arc<RegistryStatus> {
        &self.status
    }

    /// From now on users belong to this gateway.
    pub fn open(&self) {
        self.presence.send_replace(Presence::Open);
    }

    /// From now on no user belongs to this gateway; it keeps its name.
    pub fn close(&self) {
        self.presence.send_replace(Presence::Closed);
    }

    /// Takes the entry out, when the registry answers, and ends.
    pub fn leave(mut self) {
        self.presence.send_replace(Presence::Gone);
        if let Some(thread) = self.thread.take() {
            // It ends within the timeout of one question; a panic of it was printed.
            _ = thread.join();
        }
    }
}

/// Of attempts to reach a registry: doubled, and each another part of it, so that processes do not come back all at once.
#[derive(Debug)]
struct Backoff {
    next: Duration,
    max: Duration,
}

impl Backoff {
    const FIRST: Duration = Duration::from_millis(100);
    const MAX: Duration = Duration::from_secs(2);

    /// Well within a lease, which a registry that comes back renews.
    fn new(lease: Duration) -> Self {
        Self { next: Self::FIRST, max: Self::MAX.min(lease / 4) }
    }

    fn pause(&mut self) -> Duration {
        let pause = self.next.mul_f64(0.5 + fastrand::f64() / 2.0);
        self.next = (self.next * 2).min(self.max);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound_and_differ() {
        let mut backoff = Backoff::new(Duration::from_secs(4));
        let pauses: Vec<_> = (0..50).map(|_| backoff.pause()).collect();
        assert!(pauses[0] <= Backoff::FIRST);
        assert!(pauses[10..].iter().all(|p| (500..=1000).contains(&p.as_millis())));
        assert!(pauses[10..].windows(2).any(|pair| pair[0] != pair[1]));
    }
}
