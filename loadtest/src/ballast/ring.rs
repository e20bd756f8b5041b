//! The load generator's own io_uring loop: the only unsafe code here, behind safe operations.
//!
//! Sockets live in the ring's table of direct descriptors, outside the process's own, because
//! RLIMIT_NOFILE limits each table by itself. Opening is one linked chain, SOCKET, BIND, CONNECT,
//! SEND: one submission a connection. BIND needs Linux 6.11; the rest 5.19 (linked requests look
//! up a direct descriptor when they start).
//!
//! Invariants, upheld here: memory given to the kernel is owned by this ring until the completion
//! was reaped, or until the ring is gone; a slot has at most one receive, and one poll or receive
//! at a time. Deliberately absent: cancellation. A connection is closed after its last completion.

#![allow(unsafe_code)]

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddrV4;
use std::time::Duration;

use io_uring::types::{Fixed, SubmitArgs, Timespec};
use io_uring::{IoUring, Probe, opcode, squeue};
use rapidhash::RapidHashMap;

const SUBMISSION_ENTRIES: u32 = 2048;
const COMPLETION_ENTRIES: u32 = 16 * 1024;
/// Larger than what a server sends to an idle client at once.
const RECEIVE_BYTES: usize = 2048;
/// An empty PING is its header.
pub(super) type PingBytes = [u8; roost_protocol::limits::HEADER_BYTES];

/// A connection of the ring. Generations tell apart what used a slot one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key {
    pub(super) slot: u32,
    /// 24 bits.
    pub(super) generation: u32,
}

/// What happened to a connection.
#[derive(Debug)]
pub(super) enum Completion {
    /// Connected, and the first bytes were sent; or why not.
    Opened(io::Result<()>),
    /// There is something to receive.
    Readable(io::Result<()>),
    /// Bytes; empty at the end of the stream. Give the buffer back with [`BallastRing::recycle`].
    Received(io::Result<(Box<[u8]>, usize)>),
    /// The heartbeat was sent, or could not be.
    Pinged,
    /// The descriptor is free.
    Closed,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Operation {
    Socket = 1,
    Bind = 2,
    Connect = 3,
    Send = 4,
    Poll = 5,
    Receive = 6,
    Ping = 7,
    Close = 8,
}

impl Operation {
    const fn user_data(self, key: Key) -> u64 {
        (self as u64) << 56 | (key.generation as u64 & 0xff_ffff) << 32 | key.slot as u64
    }

    fn decode(user_data: u64) -> Option<(Self, Key)> {
        let key = Key { slot: user_data as u32, generation: (user_data >> 32) as u32 & 0xff_ffff };
        let operation = match user_data >> 56 {
            1 => Self::Socket,
            2 => Self::Bind,
            3 => Self::Connect,
            4 => Self::Send,
            5 => Self::Poll,
            6 => Self::Receive,
            7 => Self::Ping,
            8 => Self::Close,
            _ => return None,
        };
        Some((operation, key))
    }
}

/// What an opening chain points at.
struct Opening {
    source: libc::sockaddr_in,
    target: libc::sockaddr_in,
    first_bytes: Vec<u8>,
}

/// A ring with its descriptors. It belongs to the thread that made it.
pub(super) struct BallastRing {
    // First, so that the kernel lets go of the memory below before it is freed.
    ring: IoUring,
    openings: RapidHashMap<u64, Box<Opening>>,
    receiving: RapidHashMap<u64, Box<[u8]>>,
    spare_buffers: Vec<Box<[u8]>>,
    backlog: VecDeque<squeue::Entry>,
    ping: Box<PingBytes>,
    has_bind: bool,
}

impl BallastRing {
    /// A ring for `capacity` connections; `ping` is what [`Self::ping`] sends.
    pub(super) fn new(capacity: u32, ping: PingBytes) -> io::Result<Self> {
        let ring = IoUring::builder()
            .setup_cqsize(COMPLETION_ENTRIES)
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_submit_all()
            .build(SUBMISSION_ENTRIES)?;
        ring.submitter().register_files_sparse(capacity)?;
        let mut probe = Probe::new();
        ring.submitter().register_probe(&mut probe)?;
        Ok(Self {
            ring,
            openings: RapidHashMap::default(),
            receiving: RapidHashMap::default(),
            spare_buffers: Vec::new(),
            backlog: VecDeque::new(),
            ping: Box::new(ping),
            has_bind: probe.is_supported(opcode::Bind::CODE),
        })
    }

    /// Whether connections can choose their source address.
    pub(super) const fn has_bind(&self) -> bool {
        self.has_bind
    }

    /// Connects and sends; [`Completion::Opened`] tells the end of it.
    pub(super) fn open(
        &mut self,
        key: Key,
        source: Option<SocketAddrV4>,
        target: SocketAddrV4,
        first_bytes: Vec<u8>,
    ) {
        let opening = Box::new(Opening {
            source: socket_address(source.unwrap_or(target)),
            target: socket_address(target),
            first_bytes,
        });
        let size = size_of::<libc::sockaddr_in>() as libc::socklen_t;
        let link = squeue::Flags::IO_LINK | squeue::Flags::SKIP_SUCCESS;
        let slot = io_uring::types::DestinationSlot::try_from_slot_target(key.slot);
        let socket = opcode::Socket::new(libc::AF_INET, libc::SOCK_STREAM, 0)
            .file_index(slot.ok())
            .build()
            .flags(link)
            .user_data(Operation::Socket.user_data(key));
        self.backlog.push_back(socket);
        if source.is_some() {
            let bind = opcode::Bind::new(Fixed(key.slot), (&raw const opening.source).cast(), size)
                .build()
                .flags(link)
                .user_data(Operation::Bind.user_data(key));
            self.backlog.push_back(bind);
        }
        let connect =
            opcode::Connect::new(Fixed(key.slot), (&raw const opening.target).cast(), size)
                .build()
                .flags(link)
                .user_data(Operation::Connect.user_data(key));
        self.backlog.push_back(connect);
        let bytes = &opening.first_bytes;
        let send = opcode::Send::new(Fixed(key.slot), bytes.as_ptr(), bytes.len() as u32)
            .flags(libc::MSG_NOSIGNAL | libc::MSG_WAITALL)
            .build()
            .user_data(Operation::Send.user_data(key));
        self.backlog.push_back(send);
        self.openings.insert(key_bits(key), opening);
    }

    /// Waits, without any memory, for something to receive.
    pub(super) fn poll(&mut self, key: Key) {
        let events = (libc::POLLIN | libc::POLLRDHUP) as u32;
        let entry = opcode::PollAdd::new(Fixed(key.slot), events).build();
        self.backlog.push_back(entry.user_data(Operation::Poll.user_data(key)));
    }

    /// Receives what is there.
    pub(super) fn receive(&mut self, key: Key) {
        let mut buffer =
            self.spare_buffers.pop().unwrap_or_else(|| vec![0; RECEIVE_BYTES].into_boxed_slice());
        let (at, size) = (buffer.as_mut_ptr(), buffer.len() as u32);
        let entry = opcode::Recv::new(Fixed(key.slot), at, size).build();
        self.backlog.push_back(entry.user_data(Operation::Receive.user_data(key)));
        self.receiving.insert(key_bits(key), buffer);
    }

    /// Takes a buffer back.
    pub(super) fn recycle(&mut self, buffer: Box<[u8]>) {
        self.spare_buffers.push(buffer);
    }

    /// Sends the heartbeat.
    pub(super) fn ping(&mut self, key: Key) {
        let (at, size) = (self.ping.as_ptr(), self.ping.len() as u32);
        let entry = opcode::Send::new(Fixed(key.slot), at, size).flags(libc::MSG_NOSIGNAL).build();
        self.backlog.push_back(entry.user_data(Operation::Ping.user_data(key)));
    }

    /// Frees the descriptor. Only after the connection's last completion.
    pub(super) fn close(&mut self, key: Key) {
        let entry = opcode::Close::new(Fixed(key.slot)).build();
        self.backlog.push_back(entry.user_data(Operation::Close.user_data(key)));
    }

    /// Submits everything, waits at most `timeout` for something to happen and adds all of it to
    /// `completions`.
    pub(super) fn turn(
        &mut self,
        timeout: Duration,
        completions: &mut Vec<(Key, Completion)>,
    ) -> io::Result<()> {
        self.submit_backlog()?;
        let time = Timespec::from(timeout);
        let args = SubmitArgs::new().timespec(&time);
        match self.ring.submitter().submit_with_args(1, &args) {
            Ok(_) => {}
            Err(e) if is_passing(&e) => {}
            Err(e) => return Err(e),
        }
        let reaped: Vec<(u64, i32)> =
            self.ring.completion().map(|cqe| (cqe.user_data(), cqe.result())).collect();
        for (user_data, result) in reaped {
            if let Some((operation, key)) = Operation::decode(user_data)
                && let Some(completion) = self.complete(operation, key, result)
            {
                completions.push((key, completion));
            }
        }
        Ok(())
    }

    fn submit_backlog(&mut self) -> io::Result<()> {
        while !self.backlog.is_empty() {
            let mut queue = self.ring.submission();
            // A chain must not be cut by a submission: its last entry has no link flag, so a chain
            // goes in only when the longest one fits.
            const CHAIN_ENTRIES_MAX: usize = 4;
            while queue.capacity() - queue.len() >= CHAIN_ENTRIES_MAX {
                let mut is_linked = true;
                while is_linked && let Some(entry) = self.backlog.pop_front() {
                    is_linked = is_link(&entry);
                    // SAFETY: every pointer in an entry of the backlog leads to memory that `self`
                    // owns in `openings`, `receiving` or `ping` until its completion was reaped.
                    let pushed = unsafe { queue.push(&entry) };
                    pushed.map_err(io::Error::other)?;
                }
                if self.backlog.is_empty() {
                    break;
                }
            }
            drop(queue);
            match self.ring.submit() {
                Ok(_) => {}
                // The completion queue is full: reap first, the rest stays in the backlog.
                Err(e) if is_passing(&e) => return Ok(()),
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// A failed first part of a chain is its only completion: the kernel hides the rest of it.
    fn complete(&mut self, operation: Operation, key: Key, result: i32) -> Option<Completion> {
        let done = if result < 0 { Err(io::Error::from_raw_os_error(-result)) } else { Ok(()) };
        match operation {
            Operation::Socket | Operation::Bind | Operation::Connect | Operation::Send => {
                self.openings.remove(&key_bits(key))?;
                Some(Completion::Opened(done))
            }
            Operation::Poll => Some(Completion::Readable(done)),
            Operation::Receive => {
                let buffer = self.receiving.remove(&key_bits(key))?;
                match done {
                    Ok(()) => Some(Completion::Received(Ok((buffer, result as usize)))),
                    Err(e) => {
                        self.recycle(buffer);
                        Some(Completion::Received(Err(e)))
                    }
                }
            }
            Operation::Ping => Some(Completion::Pinged),
            Operation::Close => Some(Completion::Closed),
        }
    }
}

/// Interrupted, timed out, or short of room for completions: the next turn goes on.
fn is_passing(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINTR | libc::ETIME | libc::EBUSY | libc::EAGAIN))
}

fn is_link(entry: &squeue::Entry) -> bool {
    let operation = entry.get_user_data() >> 56;
    operation == Operation::Socket as u64
        || operation == Operation::Bind as u64
        || operation == Operation::Connect as u64
}

fn key_bits(key: Key) -> u64 {
    u64::from(key.generation) << 32 | u64::from(key.slot)
}

fn socket_address(address: SocketAddrV4) -> libc::sockaddr_in {
    libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: address.port().to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from(*address.ip()).to_be() },
        sin_zero: [0; 8],
    }
}
