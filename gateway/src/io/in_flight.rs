//! Sends the kernel holds: their bytes, and the list of pieces a SENDMSG points at.
//!
//! Invariant: an entry's bytes and its piece list stay where they are from submission until the completion
//! was reaped; only then `progress` or `remove` touches them. Entries are boxed, so growing the table moves
//! none. A connection without a send in flight has no entry.
#![allow(unsafe_code)]

use std::ptr;

use io_uring::{opcode, squeue, types};

use super::send_buffer::SendBuffer;
use crate::io::ConnectionKey;

/// Pieces per SENDMSG: the kernel's UIO_MAXIOV. What is longer goes out as several partial sends.
const PIECES_MAX: usize = 1024;

struct InFlight {
    key: ConnectionKey,
    buffer: SendBuffer,
    size_bytes: usize,
    sent_bytes: usize,
    pieces: Vec<libc::iovec>,
    message: libc::msghdr,
}

/// How a send stands after a completion.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Progress {
    Finished,
    Partial,
}

/// Sends in flight, by number.
#[derive(Default)]
pub(crate) struct InFlightSends {
    entries: Vec<Option<Box<InFlight>>>,
    free: Vec<u32>,
    /// Boxes of former sends with their piece lists, so that a send allocates nothing.
    #[allow(
        clippy::vec_box,
        reason = "an entry in flight must not move, so its box is what is reused"
    )]
    spare: Vec<Box<InFlight>>,
}

const SPARE_MAX: usize = 256;

impl InFlightSends {
    /// Takes the bytes over and names them.
    pub(crate) fn insert(&mut self, key: ConnectionKey, buffer: SendBuffer) -> u32 {
        let size_bytes = buffer.size_bytes();
        let entry = match self.spare.pop() {
            Some(mut entry) => {
                entry.key = key;
                entry.buffer = buffer;
                entry.size_bytes = size_bytes;
                entry.sent_bytes = 0;
                entry
            }
            None => Box::new(InFlight {
                key,
                buffer,
                size_bytes,
                sent_bytes: 0,
                pieces: Vec::new(),
                message: empty_message(),
            }),
        };
        match self.free.pop() {
            Some(number) => {
                self.entries[number as usize] = Some(entry);
                number
            }
            None => {
                self.entries.push(Some(entry));
                self.entries.len() as u32 - 1
            }
        }
    }

    /// Whose send it is.
    pub(crate) fn key(&self, send: u32) -> Option<ConnectionKey> {
        self.entries.get(send as usize)?.as_ref().map(|entry| entry.key)
    }

    /// The operation that sends what is not sent yet. Valid until `progress` or `remove`.
    pub(crate) fn entry(&mut self, send: u32, socket: types::Fixed) -> Option<squeue::Entry> {
        let entry = self.entries.get_mut(send as usize)?.as_mut()?;
        Some(entry.operation(socket))
    }

    /// Notes that `bytes` more were sent.
    pub(crate) fn progress(&mut self, send: u32, bytes: u32) -> Progress {
        let Some(Some(entry)) = self.entries.get_mut(send as usize) else {
            return Progress::Finished;
        };
        entry.sent_bytes += bytes as usize;
        if entry.sent_bytes >= entry.size_bytes { Progress::Finished } else { Progress::Partial }
    }

    /// Drops the bytes of a send whose completion was reaped.
    pub(crate) fn remove(&mut self, send: u32) {
        if let Some(mut entry) = self.entries.get_mut(send as usize).and_then(Option::take) {
            self.free.push(send);
            entry.buffer = SendBuffer::Owned(Vec::new());
            entry.pieces.clear();
            if self.spare.len() < SPARE_MAX {
                self.spare.push(entry);
            }
        }
    }
}

impl InFlight {
    fn operation(&mut self, socket: types::Fixed) -> squeue::Entry {
        let rest = match &self.buffer {
            SendBuffer::Owned(bytes) => &bytes[self.sent_bytes..],
            SendBuffer::Shared(bytes) => &bytes[self.sent_bytes..],
            SendBuffer::Gather(_) => return self.gather_operation(socket),
        };
        opcode::Send::new(socket, rest.as_ptr(), rest.len() as u32)
            .flags(libc::MSG_NOSIGNAL)
            .build()
    }

    fn gather_operation(&mut self, socket: types::Fixed) -> squeue::Entry {
        self.pieces.clear();
        let pieces = &mut self.pieces;
        self.buffer.for_each_piece(self.sent_bytes, |piece| {
            pieces.push(libc::iovec {
                iov_base: piece.as_ptr().cast_mut().cast(),
                iov_len: piece.len(),
            });
            pieces.len() < PIECES_MAX
        });
        self.message.msg_iov = self.pieces.as_mut_ptr();
        self.message.msg_iovlen = self.pieces.len();
        opcode::SendMsg::new(socket, &raw const self.message)
            .flags(libc::MSG_NOSIGNAL as u32)
            .build()
    }
}

fn empty_message() -> libc::msghdr {
    libc::msghdr {
        msg_name: ptr::null_mut(),
        msg_namelen: 0,
        msg_iov: ptr::null_mut(),
        msg_iovlen: 0,
        msg_control: ptr::null_mut(),
        msg_controllen: 0,
        msg_flags: 0,
    }
}
