//! One thread that accepts for all shards and hands each socket to the emptiest one.
//!
//! A kernel hash over several listeners (SO_REUSEPORT) fills shards unevenly, and a full one would answer with
//! ENFILE. Here a place is reserved before a client is accepted, so shards fill completely and no accepted
//! client is turned away for lack of room.
//!
//! # When it does not accept
//! * [`AcceptPause::ShardsFull`]: every place is taken. Clients wait in the kernel's listen queue; the first
//!   place a shard gives back wakes the acceptor.
//! * [`AcceptPause::ResourceShortage`]: the kernel has no descriptor or memory left. Tried again after 100 ms.
//! * Stopped (drain): the listeners are shut down, the kernel refuses clients.
//!
//! A client whose address has too many connections is sent the configured refusal and closed.

pub(crate) mod epoll;
pub(crate) mod uring;

use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;

use super::address_table::{AddressIndex, AddressTable};
use super::intake::{Delivery, Intake};
use crate::io::Waker;

/// How long the acceptor waits after the kernel refused it a descriptor or memory.
const SHORTAGE_PAUSE: Duration = Duration::from_millis(100);

/// Limits and answers of the acceptor.
#[derive(Clone, Debug)]
pub struct AcceptorConfig {
    /// Connections one peer address (IPv6: /64 network) may have at once.
    pub connections_per_address_max: u32,
    /// Sent to a client over that limit before its connection is closed; may be empty.
    pub refusal: Bytes,
}

/// Why no client is accepted at the moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum AcceptPause {
    /// Clients are accepted.
    None = 0,
    /// Every shard has as many connections as it can hold.
    ShardsFull = 1,
    /// The kernel has no descriptor or memory left.
    ResourceShortage = 2,
    /// The acceptor was stopped.
    Stopped = 3,
}

/// What the acceptor counted since its start; read by any thread.
#[derive(Debug, Default)]
pub struct AcceptorStatistics {
    accepted: AtomicU64,
    refused_address_limit: AtomicU64,
    hand_over_failed: AtomicU64,
    accept_errors: AtomicU64,
    pause: AtomicU8,
}

impl AcceptorStatistics {
    /// Clients accepted and handed to a shard.
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    /// Clients closed because their address had too many connections.
    pub fn refused_address_limit(&self) -> u64 {
        self.refused_address_limit.load(Ordering::Relaxed)
    }

    /// Clients closed because the shard could not take them; not 0 means a bug.
    pub fn hand_over_failed(&self) -> u64 {
        self.hand_over_failed.load(Ordering::Relaxed)
    }

    /// Accepts the kernel refused.
    pub fn accept_errors(&self) -> u64 {
        self.accept_errors.load(Ordering::Relaxed)
    }

    /// Whether clients are accepted, and if not, why.
    pub fn pause(&self) -> AcceptPause {
        match self.pause.load(Ordering::Relaxed) {
            1 => AcceptPause::ShardsFull,
            2 => AcceptPause::ResourceShortage,
            3 => AcceptPause::Stopped,
            _ => AcceptPause::None,
        }
    }

    fn count(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }

    fn set_pause(&self, pause: AcceptPause) {
        if self.pause() != pause {
            tracing::info!(?pause, "accept state");
            self.pause.store(pause as u8, Ordering::Relaxed);
        }
    }
}

/// What both kinds of acceptor work with.
pub(crate) struct Shared {
    pub(crate) listeners: Vec<TcpListener>,
    pub(crate) intakes: Vec<Arc<Intake>>,
    pub(crate) addresses: AddressIndex,
    pub(crate) refusal: Bytes,
    pub(crate) waker: Arc<Waker>,
    pub(crate) stop: Arc<AtomicBool>,
    pub(crate) statistics: Arc<AcceptorStatistics>,
}

impl Shared {
    /// Places left in all shards.
    pub(crate) fn free(&self) -> u64 {
        self.intakes.iter().map(|intake| u64::from(intake.free())).sum()
    }

    pub(crate) fn stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }
}

/// The running acceptor. Dropping it stops it.
#[derive(Debug)]
pub struct Acceptor {
    waker: Arc<Waker>,
    stop: Arc<AtomicBool>,
    statistics: Arc<AcceptorStatistics>,
    thread: Option<JoinHandle<()>>,
}

impl Acceptor {
    /// Starts the thread. The shards are named by their intakes, all of the same driver; listener `n` becomes
    /// `ListenerId(n)`.
    ///
    /// # Errors
    /// When there is no shard or listener, a shard has an acceptor already, or the kernel refuses the ring.
    pub fn start(
        listeners: Vec<TcpListener>,
        intakes: Vec<Arc<Intake>>,
        addresses: Arc<AddressTable>,
        config: AcceptorConfig,
    ) -> io::Result<Self> {
        let waker = Arc::new(Waker::new()?);
        if listeners.is_empty() || listeners.len() > 256 {
            return Err(io::Error::other("the acceptor takes 1 to 256 listeners"));
        }
        if intakes.iter().any(|intake| !intake.set_acceptor(&waker)) {
            return Err(io::Error::other("a shard has an acceptor already"));
        }
        let rings = match intakes.first().map(|intake| &intake.delivery) {
            Some(Delivery::Ring(_)) => true,
            Some(Delivery::Queue(..)) => false,
            None => return Err(io::Error::other("the acceptor needs a shard")),
        };
        let stop = Arc::new(AtomicBool::new(false));
        let statistics = Arc::new(AcceptorStatistics::default());
        let shared = Shared {
            listeners,
            intakes,
            addresses: AddressIndex::new(addresses, config.connections_per_address_max),
            refusal: config.refusal,
            waker: Arc::clone(&waker),
            stop: Arc::clone(&stop),
            statistics: Arc::clone(&statistics),
        };
        let (ready, started) = std::sync::mpsc::channel();
        let thread = std::thread::Builder::new().name("acceptor".into()).spawn(move || {
            if rings {
                run(uring::UringAcceptor::new(shared), uring::UringAcceptor::run, &ready);
            } else {
                run(epoll::EpollAcceptor::new(shared), epoll::EpollAcceptor::run, &ready);
            }
        })?;
        started.recv().map_err(|_| io::Error::other("the acceptor ended at its start"))??;
        Ok(Self { waker, stop, statistics, thread: Some(thread) })
    }

    /// What it counted.
    pub fn statistics(&self) -> &Arc<AcceptorStatistics> {
        &self.statistics
    }

    /// Stops accepting and waits until every accepted client is handed over, for which the shards must still
    /// run. The listeners are closed.
    pub fn stop(&mut self) {
        self.stop.store(true, Ordering::Release);
        self.waker.signal();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the acceptor thread had panicked");
        }
    }
}

impl Drop for Acceptor {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Reports the outcome of the set-up to `start`, then works until stopped.
fn run<A>(
    acceptor: io::Result<A>,
    work: fn(A) -> io::Result<()>,
    ready: &std::sync::mpsc::Sender<io::Result<()>>,
) {
    let acceptor = match acceptor {
        Ok(acceptor) => acceptor,
        Err(error) => {
            _ = ready.send(Err(error));
            return;
        }
    };
    _ = ready.send(Ok(()));
    if let Err(error) = work(acceptor) {
        // Nobody could connect any more and nothing would say so.
        tracing::error!(%error, "the acceptor failed");
        std::process::abort();
    }
}
