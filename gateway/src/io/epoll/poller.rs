//! One epoll instance, edge-triggered.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

/// Events taken with one system call.
const EVENTS_MAX: usize = 1024;

/// What happened to the descriptor added under `number`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Event {
    pub(crate) number: u64,
    pub(crate) flags: i32,
}

pub(crate) struct Poller {
    epoll: OwnedFd,
    buffer: Box<[libc::epoll_event; EVENTS_MAX]>,
}

impl Poller {
    pub(crate) fn new() -> io::Result<Self> {
        // SAFETY: takes no pointers; the result is checked before use.
        let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `fd` was just returned by epoll_create1 and nobody else owns it.
        let epoll = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self { epoll, buffer: Box::new([libc::epoll_event { events: 0, u64: 0 }; EVENTS_MAX]) })
    }

    /// Watches a descriptor until it is closed.
    pub(crate) fn add(&self, fd: RawFd, flags: i32, number: u64) -> io::Result<()> {
        let mut event = libc::epoll_event { events: (flags | libc::EPOLLET) as u32, u64: number };
        // SAFETY: one live `epoll_event`, which the kernel only reads.
        let result = unsafe {
            libc::epoll_ctl(self.epoll.as_raw_fd(), libc::EPOLL_CTL_ADD, fd, &raw mut event)
        };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Waits at most `wait` (`None`: without limit) for one event and appends all there are, up to 1024.
    pub(crate) fn wait(
        &mut self,
        wait: Option<Duration>,
        events: &mut Vec<Event>,
    ) -> io::Result<()> {
        // epoll counts milliseconds: round up, so that a wait of 100 us does not spin.
        let timeout = match wait {
            None => -1,
            Some(wait) => i32::try_from(wait.as_nanos().div_ceil(1_000_000)).unwrap_or(i32::MAX),
        };
        let room = EVENTS_MAX as i32;
        // SAFETY: the buffer has room for as many events as are asked for.
        let count = unsafe {
            libc::epoll_wait(self.epoll.as_raw_fd(), self.buffer.as_mut_ptr(), room, timeout)
        };
        let Ok(count) = usize::try_from(count) else {
            let error = io::Error::last_os_error();
            return if error.kind() == io::ErrorKind::Interrupted { Ok(()) } else { Err(error) };
        };
        events.extend(
            self.buffer[..count].iter().map(|e| Event { number: e.u64, flags: e.events as i32 }),
        );
        Ok(())
    }
}
