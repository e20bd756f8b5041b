//! Wakes a shard that waits in the kernel, and only then.
//!
//! A producer that found the shard awake pays one atomic load; the eventfd is written at most once per
//! sleep. Its counter is never read: the drivers watch it edge-triggered, and 2^64 wakes do not happen.
//!
//! # Why no wake-up is lost
//! Sleeper: `sleeping = true`, fence, look at the queue, sleep only if it is empty.
//! Producer: put into the queue, fence, look at `sleeping`, write the eventfd if it is true.
//! Both fences are sequentially consistent, so at least one of the two sees what the other wrote: either the
//! sleeper finds the item, or the producer finds the sleeper. An eventfd written before the sleeper is in
//! the kernel makes its wait return at once.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering, fence};

/// Shared by one sleeper (a shard, the acceptor) and any number of threads that wake it.
#[derive(Debug)]
pub struct Waker {
    sleeping: AtomicBool,
    event: OwnedFd,
}

impl Waker {
    /// A waker whose sleeper is awake.
    ///
    /// # Errors
    /// When the process has no descriptor left.
    pub fn new() -> io::Result<Self> {
        // SAFETY: eventfd takes no pointers; its result is checked before use.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `fd` was just returned by eventfd and nobody else owns it.
        let event = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self { sleeping: AtomicBool::new(false), event })
    }

    /// Called by a producer after it made work visible: wakes the sleeper if it sleeps or is about to.
    pub fn wake(&self) {
        fence(Ordering::SeqCst);
        if self.sleeping.load(Ordering::Relaxed) && self.sleeping.swap(false, Ordering::AcqRel) {
            self.signal();
        }
    }

    /// Called by the sleeper before it looks for work a last time: from now on `wake` writes the eventfd.
    pub fn prepare_sleep(&self) {
        self.sleeping.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// Called by the sleeper when it is awake again: producers need not write.
    pub fn awake(&self) {
        self.sleeping.store(false, Ordering::Release);
    }

    /// The eventfd, to be watched for input, edge-triggered.
    pub(crate) fn fd(&self) -> RawFd {
        self.event.as_raw_fd()
    }

    /// Wakes the sleeper whether it announced a sleep or not: for rare commands.
    pub(crate) fn signal(&self) {
        let one: u64 = 1;
        // SAFETY: writes 8 bytes from a live u64 to a descriptor this object owns. It cannot block
        // (EFD_NONBLOCK) and cannot fail before 2^64 - 2 wakes.
        unsafe { libc::write(self.event.as_raw_fd(), (&raw const one).cast(), 8) };
    }

    /// Blocks until the eventfd was written and takes its count.
    #[cfg(test)]
    pub(crate) fn wait_for_test(&self) {
        let mut poll = libc::pollfd { fd: self.fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one live pollfd.
        let ready = unsafe { libc::poll(&raw mut poll, 1, 10_000) };
        assert_eq!(ready, 1, "a wake-up was lost");
        let mut count = 0u64;
        // SAFETY: reads 8 bytes into a live u64.
        let read = unsafe { libc::read(self.fd(), (&raw mut count).cast(), 8) };
        assert_eq!(read, 8);
    }
}
