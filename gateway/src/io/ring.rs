//! One io_uring: its setup with the flags Roost needs, a submission queue that never refuses, the system call.
//!
//! Used by the shard's driver, the acceptor and the probe. A ring belongs to the thread that made it
//! (SINGLE_ISSUER). Operations that do not fit the submission queue wait in order in `spilled`.
//!
//! The crate's own `enter` is not used: it forgets the registered descriptor of the ring with each borrow.
#![allow(unsafe_code)]

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use io_uring::{IoUring, Submitter, cqueue, squeue};

const ENTER_GETEVENTS: u32 = 1;
const ENTER_EXT_ARG: u32 = 1 << 3;
const ENTER_REGISTERED_RING: u32 = 1 << 4;
const REGISTER_RING_FDS: u32 = 20;

/// A completion, copied out of the ring.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cqe {
    pub(crate) user_data: u64,
    pub(crate) result: i32,
    pub(crate) flags: u32,
}

pub(crate) struct Ring {
    ring: IoUring,
    /// Index of the registered ring descriptor, which saves a look-up per system call; else its number.
    enter_fd: i32,
    enter_flags: u32,
    spilled: VecDeque<squeue::Entry>,
}

/// `struct io_uring_getevents_arg`, io_uring_enter(2), Linux 5.11.
#[repr(C)]
struct GetEventsArg {
    sigmask: u64,
    sigmask_size: u32,
    min_wait_us: u32,
    timeout: u64,
}

/// `struct io_uring_rsrc_update`, io_uring_register(2).
#[repr(C)]
struct ResourceUpdate {
    offset: u32,
    reserved: u32,
    value: u64,
}

impl Ring {
    /// A ring of the calling thread. SUBMIT_ALL 5.18, TASKRUN_FLAG 5.19, SINGLE_ISSUER 6.0, DEFER_TASKRUN 6.1.
    pub(crate) fn new(submission_entries: u32, completion_entries: u32) -> io::Result<Self> {
        let ring: IoUring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .setup_submit_all()
            .setup_cqsize(completion_entries)
            .build(submission_entries)?;
        let mut this =
            Self { enter_fd: ring.as_raw_fd(), enter_flags: 0, ring, spilled: VecDeque::new() };
        this.register_own_descriptor();
        Ok(this)
    }

    /// Without it (a full table of 16 per thread) the ring works all the same.
    fn register_own_descriptor(&mut self) {
        let fd = self.ring.as_raw_fd();
        let mut update = ResourceUpdate { offset: u32::MAX, reserved: 0, value: fd as u64 };
        // SAFETY: one live `io_uring_rsrc_update`, whose offset the kernel overwrites during the call.
        let registered = unsafe {
            libc::syscall(libc::SYS_io_uring_register, fd, REGISTER_RING_FDS, &raw mut update, 1)
        };
        if registered == 1 {
            self.enter_fd = update.offset as i32;
            self.enter_flags = ENTER_REGISTERED_RING;
        }
    }

    /// For registering tables with the kernel.
    pub(crate) fn submitter(&self) -> Submitter<'_> {
        self.ring.submitter()
    }

    /// A second descriptor of this ring, for the thread that sends messages to it.
    pub(crate) fn duplicate_descriptor(&self) -> io::Result<OwnedFd> {
        // SAFETY: the ring is open as long as `self` lives.
        let fd = unsafe { BorrowedFd::borrow_raw(self.ring.as_raw_fd()) };
        fd.as_fd().try_clone_to_owned()
    }

    /// Queues an operation for the next [`enter`](Self::enter).
    ///
    /// # Safety
    /// What the entry points at stays valid until its completion was reaped.
    #[inline]
    pub(crate) unsafe fn push(&mut self, entry: squeue::Entry) {
        if self.spilled.is_empty() {
            // SAFETY: the caller upholds the validity of what the entry points at.
            let pushed = unsafe { self.ring.submission().push(&entry) };
            if pushed.is_ok() {
                return;
            }
        }
        self.spilled.push_back(entry);
    }

    /// Submits everything and waits at most `wait` for one completion; `None` waits without limit. Returns
    /// early on a signal. Appends what there is to `cqes`; returns whether completions had overflowed.
    ///
    /// # Errors
    /// When the kernel refuses the call for a reason that will not pass.
    pub(crate) fn enter(
        &mut self,
        wait: Option<Duration>,
        cqes: &mut Vec<Cqe>,
    ) -> io::Result<bool> {
        let reaped = cqes.len();
        while !self.spilled.is_empty() {
            self.system_call(Some(Duration::ZERO))?;
            self.reap(cqes);
            self.unspill();
        }
        self.reap(cqes);
        // Something is there already: submit, let the kernel run its deferred work, do not wait.
        let wait = if cqes.len() > reaped { Some(Duration::ZERO) } else { wait };
        if wait != Some(Duration::ZERO) || self.has_work_for_kernel() {
            self.system_call(wait)?;
            self.reap(cqes);
        }
        let mut overflowed = false;
        while self.ring.submission().cq_overflow() {
            overflowed = true;
            let before = cqes.len();
            self.system_call(Some(Duration::ZERO))?;
            self.reap(cqes);
            if cqes.len() == before {
                break;
            }
        }
        Ok(overflowed)
    }

    fn has_work_for_kernel(&mut self) -> bool {
        let submission = self.ring.submission();
        !submission.is_empty() || submission.taskrun()
    }

    fn reap(&mut self, cqes: &mut Vec<Cqe>) {
        cqes.extend(self.ring.completion().map(|entry: cqueue::Entry| Cqe {
            user_data: entry.user_data(),
            result: entry.result(),
            flags: entry.flags(),
        }));
    }

    fn unspill(&mut self) {
        let mut submission = self.ring.submission();
        while let Some(entry) = self.spilled.front() {
            // SAFETY: upheld by the caller of `push` when the entry was spilled.
            if unsafe { submission.push(entry) }.is_err() {
                return;
            }
            self.spilled.pop_front();
        }
    }

    fn system_call(&mut self, wait: Option<Duration>) -> io::Result<()> {
        let to_submit = self.ring.submission().len() as u32;
        let timeout = wait.map(|wait| libc::timespec {
            tv_sec: wait.as_secs().min(1 << 30) as i64,
            tv_nsec: i64::from(wait.subsec_nanos()),
        });
        let want = u32::from(wait != Some(Duration::ZERO));
        let argument = GetEventsArg {
            sigmask: 0,
            sigmask_size: 0,
            min_wait_us: 0,
            timeout: timeout
                .as_ref()
                .filter(|_| want > 0)
                .map_or(0, |time| &raw const *time as u64),
        };
        // SAFETY: `argument` and the timespec it points at live through the call; the entries' targets are
        // upheld by `push`.
        let result = unsafe {
            libc::syscall(
                libc::SYS_io_uring_enter,
                self.enter_fd,
                to_submit,
                want,
                ENTER_GETEVENTS | ENTER_EXT_ARG | self.enter_flags,
                &raw const argument,
                size_of::<GetEventsArg>(),
            )
        };
        if result >= 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            // Time over, signal, or the kernel is short of memory or wants its completions reaped first:
            // what was not submitted stays queued.
            Some(libc::ETIME | libc::EINTR | libc::EAGAIN | libc::EBUSY) => Ok(()),
            _ => Err(error),
        }
    }
}
