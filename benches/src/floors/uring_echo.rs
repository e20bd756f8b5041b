//! Question: what does an echo cost with everything io_uring offers (multishot accept into direct
//! descriptors, multishot receive from a buffer ring, one send per completion, one system call per
//! turn)? It is what every ratio in the bench's report is against.
//!
//! Expected: the fastest subject at 1,000 connections; no private memory per connection.
//!
//! With several rings, each has its own listener and thread, all on the one core: a ring's direct
//! descriptors are limited by RLIMIT_NOFILE, so more connections than that need more rings.

use std::io;
use std::net::TcpListener;
use std::os::fd::AsRawFd;

use io_uring::types::{Fd, Fixed};
use io_uring::{cqueue, opcode};

use super::{BUFFER_BYTES, announce};
use crate::ring::{BufferRing, Loop, open_ring};
use crate::sys::listen;

const SUBMISSIONS: u32 = 4096;
const COMPLETIONS: u32 = 32_768;
const BUFFERS: u16 = 4096;
const BUFFER_GROUP: u16 = 0;
/// Direct descriptors of one ring; the registration is refused above RLIMIT_NOFILE.
const CONNECTIONS_PER_RING: u32 = 19_000;

/// What a completion belongs to, as it travels in `user_data`: kind, buffer id, slot.
#[derive(Clone, Copy)]
enum Operation {
    Accept,
    Receive { slot: u32 },
    Send { buffer: u16 },
    Close,
}

impl Operation {
    fn encode(self) -> u64 {
        let (kind, buffer, slot) = match self {
            Self::Accept => (0, 0, 0),
            Self::Receive { slot } => (1, 0, slot),
            Self::Send { buffer } => (2, buffer, 0),
            Self::Close => (3, 0, 0),
        };
        kind << 56 | u64::from(buffer) << 32 | u64::from(slot)
    }

    fn decode(user_data: u64) -> Self {
        let (slot, buffer) = (user_data as u32, (user_data >> 32) as u16);
        match user_data >> 56 {
            0 => Self::Accept,
            1 => Self::Receive { slot },
            2 => Self::Send { buffer },
            _ => Self::Close,
        }
    }
}

/// Echoes on `rings` rings until the process is killed.
pub fn run(rings: usize) -> io::Result<()> {
    let listeners: Vec<TcpListener> = (0..rings).map(|_| listen()).collect::<io::Result<_>>()?;
    announce(&listeners)?;
    let threads: Vec<_> =
        listeners.into_iter().map(|listener| std::thread::spawn(move || echo(&listener))).collect();
    for thread in threads {
        thread.join().map_err(|_| io::Error::other("a ring's thread panicked"))??;
    }
    Ok(())
}

fn echo(listener: &TcpListener) -> io::Result<()> {
    let mut buffers = BufferRing::allocate(BUFFERS, BUFFER_BYTES as u32)?;
    let mut ring = open_ring(SUBMISSIONS, COMPLETIONS)?;
    ring.submitter().register_files_sparse(CONNECTIONS_PER_RING)?;
    buffers.register(&ring, BUFFER_GROUP)?;
    let mut server = Server { turn: Loop::new(&mut ring)?, buffers: &mut buffers, listener };
    let mut reaped = Vec::with_capacity(COMPLETIONS as usize);
    server.submit_accept()?;
    loop {
        server.turn.submit_and_wait(1)?;
        server.turn.reap(&mut reaped);
        for completion in &reaped {
            server.handle(completion)?;
        }
        server.buffers.publish();
    }
}

struct Server<'ring> {
    turn: Loop<'ring>,
    buffers: &'ring mut BufferRing,
    listener: &'ring TcpListener,
}

impl Server<'_> {
    fn handle(&mut self, completion: &cqueue::Entry) -> io::Result<()> {
        match Operation::decode(completion.user_data()) {
            Operation::Accept => self.on_accept_complete(completion),
            Operation::Receive { slot } => self.on_receive_complete(slot, completion),
            // A failed send needs nothing more: the receive of that connection ends too.
            Operation::Send { buffer } => {
                self.buffers.give_back(buffer);
                Ok(())
            }
            Operation::Close => Ok(()),
        }
    }

    fn on_accept_complete(&mut self, completion: &cqueue::Entry) -> io::Result<()> {
        if completion.result() < 0 {
            return Err(io::Error::from_raw_os_error(-completion.result()));
        }
        self.submit_receive(completion.result() as u32)?;
        if cqueue::more(completion.flags()) { Ok(()) } else { self.submit_accept() }
    }

    fn on_receive_complete(&mut self, slot: u32, completion: &cqueue::Entry) -> io::Result<()> {
        let result = completion.result();
        if let Some(buffer) = cqueue::buffer_select(completion.flags()) {
            if result > 0 {
                self.submit_send(slot, buffer, result as u32)?;
            } else {
                self.buffers.give_back(buffer);
            }
        }
        if cqueue::more(completion.flags()) {
            Ok(())
        } else if result > 0 || result == -libc::ENOBUFS {
            self.submit_receive(slot)
        } else {
            self.submit_close(slot)
        }
    }

    fn submit_accept(&mut self) -> io::Result<()> {
        let entry = opcode::AcceptMulti::new(Fd(self.listener.as_raw_fd()))
            .allocate_file_index(true)
            .build()
            .user_data(Operation::Accept.encode());
        self.turn.push(&entry)
    }

    fn submit_receive(&mut self, slot: u32) -> io::Result<()> {
        let entry = opcode::RecvMulti::new(Fixed(slot), BUFFER_GROUP)
            .build()
            .user_data(Operation::Receive { slot }.encode());
        self.turn.push(&entry)
    }

    fn submit_send(&mut self, slot: u32, buffer: u16, length: u32) -> io::Result<()> {
        let entry = opcode::Send::new(Fixed(slot), self.buffers.start(buffer), length)
            .build()
            .user_data(Operation::Send { buffer }.encode());
        self.turn.push(&entry)
    }

    fn submit_close(&mut self, slot: u32) -> io::Result<()> {
        let entry = opcode::Close::new(Fixed(slot)).build().user_data(Operation::Close.encode());
        self.turn.push(&entry)
    }
}
