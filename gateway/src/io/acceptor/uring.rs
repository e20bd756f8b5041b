//! The acceptor of io_uring shards, on its own small ring.
//!
//! Each of its places cycles through one accept: a one-shot ACCEPT into its own direct descriptor with its own
//! room for the peer's address, then MSG_RING puts the socket into the descriptor table of the shard's ring
//! (Linux 6.0), hard-linked to the CLOSE of the acceptor's reference.
//!
//! ```text
//! Idle ─ACCEPT─► Accepting ─┬─ MSG_RING+CLOSE ─► Closing ─► Idle
//!                           └─ (SEND refusal+) CLOSE ─► Closing
//! ```
//! Accepts in flight never outnumber the free places of all shards.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Instant;

use io_uring::squeue::Flags;
use io_uring::types::{DestinationSlot, Fd, Fixed};
use io_uring::{cqueue, opcode, squeue};

use super::{AcceptPause, AcceptorStatistics, SHORTAGE_PAUSE, Shared};
use crate::io::intake::{self, Delivery};
use crate::io::operation::UserData;
use crate::io::ring::{Cqe, Ring};
use crate::io::socket::{PeerName, stop_listening};

/// Accepts in flight for each listener.
const PLACES_PER_LISTENER: usize = 128;

const ACCEPT: u64 = 1;
const HAND_OVER: u64 = 2;
const REFUSE: u64 = 3;
const CLOSE: u64 = 4;
const WAKE: u64 = 5;

/// One accept: its direct descriptor has the place's number.
struct Place {
    peer: PeerName,
    /// Shard and address slot while a socket is handed over.
    handing: Option<(usize, u32)>,
}

pub(crate) struct UringAcceptor {
    ring: Ring,
    shared: Shared,
    /// Boxed: the kernel writes the peer's address into a place while it accepts.
    places: Box<[Place]>,
    /// Idle places of each listener.
    idle: Vec<Vec<usize>>,
    /// Accepts in flight.
    accepting: usize,
    paused_until: Option<Instant>,
    waker_watched: bool,
}

impl UringAcceptor {
    pub(crate) fn new(shared: Shared) -> io::Result<Self> {
        let count = shared.listeners.len() * PLACES_PER_LISTENER;
        let entries = (3 * count as u32).next_power_of_two();
        let ring = Ring::new(entries, 2 * entries)?;
        ring.submitter().register_files_sparse(count as u32)?;
        let places = (0..count).map(|_| Place { peer: PeerName::empty(), handing: None }).collect();
        let listeners = shared.listeners.len();
        let idle =
            (0..listeners).map(|first| (first..count).step_by(listeners).collect()).collect();
        let accepting = 0;
        Ok(Self { ring, shared, places, idle, accepting, paused_until: None, waker_watched: false })
    }

    pub(crate) fn run(mut self) -> io::Result<()> {
        let mut cqes = Vec::new();
        while !self.shared.stopped() {
            self.watch_waker();
            let starved = self.arm_accepts();
            self.report_pause(starved);
            if starved {
                // From here a place given back wakes us; look a last time for one given back before.
                self.shared.waker.prepare_sleep();
            }
            let wait = match self.paused_until {
                Some(until) => Some(until.saturating_duration_since(Instant::now())),
                None if starved && self.may_accept() => Some(std::time::Duration::ZERO),
                None => None,
            };
            self.ring.enter(wait, &mut cqes)?;
            self.shared.waker.awake();
            self.handle(&mut cqes);
        }
        self.shared.statistics.set_pause(AcceptPause::Stopped);
        self.shared.listeners.iter().for_each(stop_listening);
        while self.idle.iter().map(Vec::len).sum::<usize>() < self.places.len() {
            self.ring.enter(Some(SHORTAGE_PAUSE), &mut cqes)?;
            self.handle(&mut cqes);
        }
        Ok(())
    }

    fn report_pause(&self, starved: bool) {
        let pause = match (self.paused_until, starved && self.accepting == 0) {
            (Some(_), _) => AcceptPause::ResourceShortage,
            (None, true) => AcceptPause::ShardsFull,
            (None, false) => AcceptPause::None,
        };
        self.shared.statistics.set_pause(pause);
    }

    fn may_accept(&self) -> bool {
        (self.accepting as u64) < self.shared.free()
    }

    /// Puts as many accepts in flight as there are places; whether shards lacked room for more.
    fn arm_accepts(&mut self) -> bool {
        if let Some(until) = self.paused_until {
            if Instant::now() < until {
                return false;
            }
            self.paused_until = None;
        }
        let free = self.shared.free();
        // The listener with the fewest accepts in flight first, so that the last places serve all.
        while let Some((listener, _)) = self
            .idle
            .iter()
            .enumerate()
            .filter(|(_, idle)| !idle.is_empty())
            .max_by_key(|(_, idle)| idle.len())
        {
            if self.accepting as u64 >= free {
                return true;
            }
            if let Some(place) = self.idle[listener].pop() {
                self.accept(listener, place);
            }
        }
        false
    }

    fn accept(&mut self, listener: usize, place: usize) {
        self.accepting += 1;
        let listener = Fd(self.shared.listeners[listener].as_raw_fd());
        self.places[place].peer = PeerName::empty();
        let (name, size) = self.places[place].peer.pointers();
        let slot = DestinationSlot::try_from_slot_target(place as u32).ok();
        let accept = opcode::Accept::new(listener, name, size).file_index(slot).build();
        self.push(accept, ACCEPT, place);
    }

    fn push(&mut self, entry: squeue::Entry, kind: u64, place: usize) {
        // SAFETY: accepts point into `places`, whose boxes live as long as the ring and are not touched
        // while accepting; refusals into `shared.refusal`, which never changes; the rest at nothing.
        unsafe { self.ring.push(entry.user_data(kind << 32 | place as u64)) };
    }

    fn watch_waker(&mut self) {
        if !self.waker_watched {
            self.waker_watched = true;
            let fd = Fd(self.shared.waker.fd());
            let poll = opcode::PollAdd::new(fd, libc::POLLIN as u32).multi(true).build();
            self.push(poll, WAKE, 0);
        }
    }

    fn handle(&mut self, cqes: &mut Vec<Cqe>) {
        for cqe in cqes.drain(..) {
            let place = cqe.user_data as u32 as usize;
            match cqe.user_data >> 32 {
                ACCEPT => self.on_accept(place, cqe.result),
                HAND_OVER => self.on_hand_over_failed(place, cqe.result),
                REFUSE => {}
                CLOSE => self.on_close(place),
                WAKE => self.waker_watched = cqueue::more(cqe.flags),
                kind => debug_assert!(false, "completion of kind {kind}"),
            }
        }
    }

    fn on_accept(&mut self, place: usize, result: i32) {
        self.accepting -= 1;
        if result < 0 {
            self.make_idle(place);
            if !self.shared.stopped() {
                self.on_accept_error(-result);
            }
            return;
        }
        let peer = self.places[place].peer.address();
        let peer = peer.unwrap_or(std::net::IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED));
        let Ok(address) = self.shared.addresses.admit(peer) else {
            AcceptorStatistics::count(&self.shared.statistics.refused_address_limit);
            return self.refuse(place);
        };
        match intake::emptiest(&self.shared.intakes) {
            Some(shard) => self.hand_over(place, shard, address),
            None => {
                self.shared.addresses.table().release(address);
                AcceptorStatistics::count(&self.shared.statistics.hand_over_failed);
                self.close(place);
            }
        }
    }

    fn on_accept_error(&mut self, errno: i32) {
        AcceptorStatistics::count(&self.shared.statistics.accept_errors);
        // A client that left again is no reason to wait; anything else would come again at once.
        if !matches!(errno, libc::ECONNABORTED | libc::EINTR | libc::EAGAIN | libc::EPROTO) {
            self.paused_until = Some(Instant::now() + SHORTAGE_PAUSE);
            let error = io::Error::from_raw_os_error(errno);
            tracing::warn!(%error, "cannot accept; trying again in 100 ms");
        }
    }

    fn hand_over(&mut self, place: usize, shard: usize, address: u32) {
        let intake = Arc::clone(&self.shared.intakes[shard]);
        let Delivery::Ring(ring) = &intake.delivery else {
            return self.close(place);
        };
        intake.take();
        AcceptorStatistics::count(&self.shared.statistics.accepted);
        self.places[place].handing = Some((shard, address));
        let listener = (place % self.shared.listeners.len()) as u8;
        let user_data = UserData::Accepted { listener, address }.encode();
        let socket = Fixed(place as u32);
        let target = DestinationSlot::auto_target();
        let message = opcode::MsgRingSendFd::new(Fd(ring.as_raw_fd()), socket, target, user_data);
        let flags = Flags::IO_HARDLINK.union(Flags::SKIP_SUCCESS);
        self.push(message.build().flags(flags), HAND_OVER, place);
        self.close(place);
    }

    /// Reported only when it failed; the linked close follows.
    fn on_hand_over_failed(&mut self, place: usize, result: i32) {
        let Some((shard, address)) = self.places[place].handing.take() else { return };
        if result >= 0 {
            return;
        }
        AcceptorStatistics::count(&self.shared.statistics.hand_over_failed);
        self.shared.intakes[shard].give_back();
        self.shared.addresses.table().release(address);
        let error = io::Error::from_raw_os_error(-result);
        tracing::error!(%error, shard, "a shard did not take a socket");
    }

    fn refuse(&mut self, place: usize) {
        if !self.shared.refusal.is_empty() {
            let refusal = &self.shared.refusal;
            let socket = Fixed(place as u32);
            let send = opcode::Send::new(socket, refusal.as_ptr(), refusal.len() as u32)
                .flags(libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT)
                .build()
                .flags(Flags::IO_HARDLINK);
            self.push(send, REFUSE, place);
        }
        self.close(place);
    }

    fn close(&mut self, place: usize) {
        self.push(opcode::Close::new(Fixed(place as u32)).build(), CLOSE, place);
    }

    fn on_close(&mut self, place: usize) {
        self.places[place].handing = None;
        self.make_idle(place);
    }

    fn make_idle(&mut self, place: usize) {
        let listener = place % self.shared.listeners.len();
        self.idle[listener].push(place);
    }
}
