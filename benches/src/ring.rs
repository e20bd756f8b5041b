//! An io_uring as every floor here uses it: one issuer, deferred task work, a big completion
//! queue, and a ring of provided receive buffers.
//!
//! Invariant: a buffer is the kernel's from `give_back` until a completion names its id, and ours
//! from then until it is given back; nobody else touches its memory.
#![allow(unsafe_code)]

use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use io_uring::types::{BufRingEntry, SubmitArgs, Timespec};
use io_uring::{CompletionQueue, IoUring, SubmissionQueue, Submitter, cqueue, squeue};

/// A ring set up like the gateway's: SINGLE_ISSUER | DEFER_TASKRUN | TASKRUN_FLAG | SUBMIT_ALL.
/// Use it on the thread that opens it.
pub fn open_ring(submissions: u32, completions: u32) -> io::Result<IoUring> {
    IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_taskrun_flag()
        .setup_submit_all()
        .setup_cqsize(completions)
        .build(submissions)
}

/// The three parts of a ring while a loop runs on it, with the ring's descriptor registered.
pub struct Loop<'ring> {
    submitter: Submitter<'ring>,
    submissions: SubmissionQueue<'ring>,
    completions: CompletionQueue<'ring>,
}

impl<'ring> Loop<'ring> {
    /// Registers the ring's descriptor for the calling thread.
    pub fn new(ring: &'ring mut IoUring) -> io::Result<Self> {
        let (mut submitter, submissions, completions) = ring.split();
        submitter.register_ring_fd()?;
        Ok(Self { submitter, submissions, completions })
    }

    /// Queues one operation, submitting what is queued when there is no room.
    pub fn push(&mut self, entry: &squeue::Entry) -> io::Result<()> {
        loop {
            // SAFETY: every pointer in `entry` is to a provided buffer or to static memory, which
            // outlive the operation; callers of `push` build entries from nothing else.
            if unsafe { self.submissions.push(entry) }.is_ok() {
                return Ok(());
            }
            self.submissions.sync();
            self.submitter.submit()?;
            self.submissions.sync();
        }
    }

    /// Submits what is queued and waits until at least `want` completions are there.
    pub fn submit_and_wait(&mut self, want: usize) -> io::Result<()> {
        self.submissions.sync();
        match self.submitter.submit_and_wait(want) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        self.submissions.sync();
        self.completions.sync();
        Ok(())
    }

    /// The same, but not longer than `limit`.
    pub fn submit_and_wait_at_most(&mut self, want: usize, limit: Duration) -> io::Result<()> {
        self.submissions.sync();
        let limit = Timespec::from(limit);
        let arguments = SubmitArgs::new().timespec(&limit);
        match self.submitter.submit_with_args(want, &arguments) {
            Ok(_) => {}
            Err(error) if error.raw_os_error() == Some(libc::ETIME) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        self.submissions.sync();
        self.completions.sync();
        Ok(())
    }

    /// Submits and collects without waiting, and without a system call when there is neither
    /// anything to submit nor deferred work.
    pub fn poll(&mut self) -> io::Result<()> {
        self.submissions.sync();
        if !self.submissions.is_empty()
            || self.submissions.taskrun()
            || self.submissions.cq_overflow()
        {
            return self.submit_and_wait(0);
        }
        self.completions.sync();
        Ok(())
    }

    /// Moves all completions into `reaped`: nothing is handled while reaping.
    pub fn reap(&mut self, reaped: &mut Vec<cqueue::Entry>) {
        reaped.clear();
        reaped.extend(&mut self.completions);
        self.completions.sync();
    }
}

/// Anonymous pages, freed on drop.
struct Pages {
    start: NonNull<u8>,
    size: usize,
}

impl Pages {
    fn new(size: usize) -> io::Result<Self> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_POPULATE;
        // SAFETY: a new anonymous mapping at an address of the kernel's choice.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), size, protection, flags, -1, 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        NonNull::new(start.cast())
            .map(|start| Self { start, size })
            .ok_or_else(|| io::Error::other("mmap returned address 0"))
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: exactly the mapping made in `new`, unmapped once.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.size) };
    }
}

/// Provided buffers of one group (io_uring_register_buf_ring(3), Linux 5.19).
/// Made before the ring it is registered with, so that it is dropped after it.
pub struct BufferRing {
    entries: Pages,
    storage: Pages,
    count: u16,
    buffer_bytes: u32,
    tail: u16,
}

impl BufferRing {
    /// `count` buffers (a power of two) of `buffer_bytes` each.
    pub fn allocate(count: u16, buffer_bytes: u32) -> io::Result<Self> {
        let entries = Pages::new(usize::from(count) * size_of::<BufRingEntry>())?;
        let storage = Pages::new(usize::from(count) * buffer_bytes as usize)?;
        Ok(Self { entries, storage, count, buffer_bytes, tail: 0 })
    }

    /// Gives all buffers to the kernel as `group` of `ring`.
    pub fn register(&mut self, ring: &IoUring, group: u16) -> io::Result<()> {
        let (address, count) = (self.entries.start.as_ptr() as u64, self.count);
        // SAFETY: `entries` is page aligned, holds `count` entries and outlives the ring by the
        // type's rule on order.
        unsafe { ring.submitter().register_buf_ring_with_flags(address, count, group, 0)? };
        (0..count).for_each(|id| self.give_back(id));
        self.publish();
        Ok(())
    }

    /// Start of a buffer that a completion handed to us.
    pub fn start(&self, id: u16) -> *const u8 {
        assert!(id < self.count);
        let offset = usize::from(id) * self.buffer_bytes as usize;
        // SAFETY: `id < count`, so the offset is inside the mapping.
        unsafe { self.storage.start.as_ptr().add(offset) }
    }

    /// What the kernel received into a buffer.
    pub fn received(&self, id: u16, length: usize) -> &[u8] {
        assert!(length <= self.buffer_bytes as usize);
        // SAFETY: the buffer is ours since its completion, and stays so while `self` is borrowed,
        // because `give_back` needs `&mut self`.
        unsafe { std::slice::from_raw_parts(self.start(id), length) }
    }

    /// Queues a buffer for the kernel; it takes effect at `publish`.
    pub fn give_back(&mut self, id: u16) {
        let address = self.start(id) as u64;
        let index = usize::from(self.tail & (self.count - 1));
        let first = self.entries.start.as_ptr().cast::<BufRingEntry>();
        // SAFETY: `index < count`, so the entry is inside the mapping.
        let entry = unsafe { first.add(index) };
        // SAFETY: entries at and after the published tail are ours; the kernel reads none of them.
        let entry = unsafe { &mut *entry };
        entry.set_addr(address);
        entry.set_len(self.buffer_bytes);
        entry.set_bid(id);
        self.tail = self.tail.wrapping_add(1);
    }

    /// Shows all buffers given back to the kernel.
    pub fn publish(&mut self) {
        let first = self.entries.start.as_ptr().cast::<BufRingEntry>();
        // SAFETY: `first` is the address of the ring's first entry, as `tail` demands.
        let tail = unsafe { BufRingEntry::tail(first) };
        // SAFETY: the tail is a u16 inside the mapping, written by us alone and read by the kernel.
        let tail = unsafe { AtomicU16::from_ptr(tail.cast_mut()) };
        tail.store(self.tail, Ordering::Release);
    }
}
