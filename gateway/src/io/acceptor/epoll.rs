//! The acceptor of epoll shards: `accept4` until the listen queue is empty, sockets go through the shard's
//! queue.
#![allow(unsafe_code)]

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

use super::{AcceptPause, AcceptorStatistics, SHORTAGE_PAUSE, Shared};
use crate::io::epoll::poller::{Event, Poller};
use crate::io::intake::{self, Delivery, Handed};
use crate::io::socket::{PeerName, stop_listening};

/// Clients accepted from one listener before the others have their turn.
const ACCEPTS_PER_TURN: usize = 256;
/// The waker's number among the events; listeners have theirs below.
const WAKE: u64 = u64::MAX;

pub(crate) struct EpollAcceptor {
    poller: Poller,
    shared: Shared,
    /// Listeners whose queue may hold clients (edge-triggered).
    maybe_ready: Vec<bool>,
    paused_until: Option<Instant>,
}

/// Why accepting from a listener stopped.
enum Outcome {
    QueueEmpty,
    TurnOver,
    ShardsFull,
    Shortage,
}

impl EpollAcceptor {
    pub(crate) fn new(shared: Shared) -> io::Result<Self> {
        let poller = Poller::new()?;
        for (number, listener) in shared.listeners.iter().enumerate() {
            poller.add(listener.as_raw_fd(), libc::EPOLLIN, number as u64)?;
        }
        poller.add(shared.waker.fd(), libc::EPOLLIN, WAKE)?;
        let maybe_ready = vec![true; shared.listeners.len()];
        Ok(Self { poller, shared, maybe_ready, paused_until: None })
    }

    pub(crate) fn run(mut self) -> io::Result<()> {
        let mut events = Vec::new();
        while !self.shared.stopped() {
            let wait = self.accept_all();
            self.poller.wait(wait, &mut events)?;
            self.shared.waker.awake();
            for Event { number, .. } in events.drain(..) {
                if let Some(ready) = self.maybe_ready.get_mut(number as usize) {
                    *ready = true;
                }
            }
        }
        self.shared.statistics.set_pause(AcceptPause::Stopped);
        self.shared.listeners.iter().for_each(stop_listening);
        Ok(())
    }

    /// Accepts what it may; how long to wait then (`None`: until an event).
    fn accept_all(&mut self) -> Option<Duration> {
        if let Some(until) = self.paused_until {
            let left = until.saturating_duration_since(Instant::now());
            if !left.is_zero() {
                return Some(left);
            }
            self.paused_until = None;
        }
        let mut wait = None;
        for listener in 0..self.maybe_ready.len() {
            if !self.maybe_ready[listener] {
                continue;
            }
            match self.accept_some(listener) {
                Outcome::QueueEmpty => self.maybe_ready[listener] = false,
                Outcome::TurnOver => wait = Some(Duration::ZERO),
                Outcome::ShardsFull => return self.wait_for_place(),
                Outcome::Shortage => {
                    self.shared.statistics.set_pause(AcceptPause::ResourceShortage);
                    self.paused_until = Some(Instant::now() + SHORTAGE_PAUSE);
                    return Some(SHORTAGE_PAUSE);
                }
            }
        }
        self.shared.statistics.set_pause(AcceptPause::None);
        wait
    }

    fn wait_for_place(&self) -> Option<Duration> {
        self.shared.waker.prepare_sleep();
        if intake::emptiest(&self.shared.intakes).is_some() {
            return Some(Duration::ZERO);
        }
        self.shared.statistics.set_pause(AcceptPause::ShardsFull);
        None
    }

    fn accept_some(&mut self, listener: usize) -> Outcome {
        for _ in 0..ACCEPTS_PER_TURN {
            let Some(shard) = intake::emptiest(&self.shared.intakes) else {
                return Outcome::ShardsFull;
            };
            let (socket, peer) = match accept(self.shared.listeners[listener].as_raw_fd()) {
                Ok(accepted) => accepted,
                Err(error) => match error.raw_os_error() {
                    Some(libc::EAGAIN) => return Outcome::QueueEmpty,
                    Some(libc::ECONNABORTED | libc::EINTR | libc::EPROTO) => continue,
                    _ => {
                        AcceptorStatistics::count(&self.shared.statistics.accept_errors);
                        tracing::warn!(%error, "cannot accept; trying again in 100 ms");
                        return Outcome::Shortage;
                    }
                },
            };
            self.hand_over(socket, peer, shard, listener as u8);
        }
        Outcome::TurnOver
    }

    fn hand_over(&mut self, socket: OwnedFd, peer: IpAddr, shard: usize, listener: u8) {
        let statistics = &self.shared.statistics;
        let Ok(address) = self.shared.addresses.admit(peer) else {
            AcceptorStatistics::count(&statistics.refused_address_limit);
            return refuse(&socket, &self.shared.refusal);
        };
        let intake = &self.shared.intakes[shard];
        let Delivery::Queue(queue, waker) = &intake.delivery else { return };
        intake.take();
        if queue.push(Handed { socket, address, listener }).is_err() {
            // `emptiest` saw room, and nobody else pushes.
            AcceptorStatistics::count(&statistics.hand_over_failed);
            intake.give_back();
            return self.shared.addresses.table().release(address);
        }
        AcceptorStatistics::count(&statistics.accepted);
        waker.wake();
    }
}

fn accept(listener: i32) -> io::Result<(OwnedFd, IpAddr)> {
    let mut peer = PeerName::empty();
    let (name, size) = peer.pointers();
    let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: name and size point into `peer`, which outlives the call.
    let fd = unsafe { libc::accept4(listener, name, size, flags) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `fd` was just returned by accept4 and nobody else owns it.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    Ok((socket, peer.address().unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED))))
}

/// Best effort: a fresh socket has room for a short refusal.
fn refuse(socket: &OwnedFd, refusal: &[u8]) {
    let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
    // SAFETY: pointer and length describe a live slice, which the kernel only reads.
    unsafe { libc::send(socket.as_raw_fd(), refusal.as_ptr().cast(), refusal.len(), flags) };
}
