//! The receive buffers of a shard: a fixed number, shared by all its connections, lent to the kernel.
//!
//! With io_uring they form a provided buffer ring: the kernel takes the buffer at the head when bytes arrive,
//! the shard puts it back at the tail when it has read them. An idle connection holds none. The epoll driver
//! uses the same memory with a free list.
//!
//! Invariant: an id is either with the kernel (or free) or in exactly one `ReceivedBuffer`.
#![allow(unsafe_code)]

use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::BufRingEntry;

use super::ring::Ring;

/// The only buffer group of a shard's ring.
pub(crate) const BUFFER_GROUP: u16 = 0;

/// Zeroed anonymous memory, page-aligned, touched lazily.
struct Mapping {
    start: NonNull<u8>,
    size_bytes: usize,
}

impl Mapping {
    fn new(size_bytes: usize) -> io::Result<Self> {
        // SAFETY: a new anonymous mapping touches no existing memory.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                size_bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or_else(io::Error::last_os_error)?;
        Ok(Self { start, size_bytes })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        if self.size_bytes == 0 {
            return;
        }
        // SAFETY: exactly the mapping made in `new`; its owner dropped or cancelled what used it before.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.size_bytes) };
    }
}

/// `count` buffers of `size_bytes` each, by id.
pub(crate) struct Buffers {
    memory: Mapping,
    count: u16,
    size_bytes: u32,
}

impl Buffers {
    pub(crate) fn new(count: u16, size_bytes: u32) -> io::Result<Self> {
        if count == 0 || size_bytes == 0 {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "receive buffers: count and size must not be 0",
            ));
        }
        let memory = Mapping::new(usize::from(count) * size_bytes as usize)?;
        Ok(Self { memory, count, size_bytes })
    }

    fn pointer(&self, id: u16) -> *mut u8 {
        assert!(id < self.count, "buffer id out of range");
        let offset = usize::from(id) * self.size_bytes as usize;
        // SAFETY: within the mapping by the assert.
        unsafe { self.memory.start.as_ptr().add(offset) }
    }

    /// The first `bytes` of a buffer that is not with the kernel.
    pub(crate) fn bytes(&self, id: u16, bytes: u32) -> &[u8] {
        let bytes = bytes.min(self.size_bytes) as usize;
        // SAFETY: within the buffer, initialised (the mapping is zeroed); the kernel does not write to a
        // buffer whose completion was reaped and that was not given back: `ReceivedBuffer` is not `Clone`.
        unsafe { std::slice::from_raw_parts(self.pointer(id), bytes) }
    }

    /// A whole free buffer, to receive into (epoll).
    pub(crate) fn bytes_mut(&mut self, id: u16) -> &mut [u8] {
        let pointer = self.pointer(id);
        // SAFETY: as in `bytes`; `&mut self` excludes other references.
        unsafe { std::slice::from_raw_parts_mut(pointer, self.size_bytes as usize) }
    }
}

/// Buffers in a ring shared with the kernel.
pub(crate) struct BufferRing {
    buffers: Buffers,
    entries: Mapping,
    tail: u16,
    /// Buffers with the kernel, as far as reaped completions tell.
    provided: u16,
}

impl BufferRing {
    /// Maps the memory, registers it with `ring` and provides all buffers. The caller keeps it alive longer
    /// than the ring's receives.
    pub(crate) fn register(ring: &Ring, count: u16, size_bytes: u32) -> io::Result<Self> {
        if !count.is_power_of_two() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("receive buffers: {count} is not a power of two"),
            ));
        }
        let buffers = Buffers::new(count, size_bytes)?;
        let entries = Mapping::new(usize::from(count) * size_of::<BufRingEntry>())?;
        let address = entries.start.as_ptr() as u64;
        // SAFETY: `entries` holds `count` entries, page-aligned, and lives as long as the ring uses it.
        unsafe {
            ring.submitter().register_buf_ring_with_flags(address, count, BUFFER_GROUP, 0)?;
        }
        let mut this = Self { buffers, entries, tail: 0, provided: 0 };
        for id in 0..count {
            this.release(id);
        }
        Ok(this)
    }

    /// Keeps the memory for ever: the kernel may still write to it.
    pub(crate) fn leak(&mut self) {
        self.buffers.memory.size_bytes = 0;
        self.entries.size_bytes = 0;
    }

    /// Notes that the kernel filled a buffer.
    pub(crate) fn on_taken(&mut self) {
        self.provided = self.provided.saturating_sub(1);
    }

    /// Buffers the kernel can still fill.
    pub(crate) fn provided(&self) -> usize {
        usize::from(self.provided)
    }

    pub(crate) fn bytes(&self, id: u16, bytes: u32) -> &[u8] {
        self.buffers.bytes(id, bytes)
    }

    /// Gives a buffer to the kernel.
    pub(crate) fn release(&mut self, id: u16) {
        let address = self.buffers.pointer(id) as u64;
        let position = usize::from(self.tail & (self.buffers.count - 1));
        let base = self.entries.start.as_ptr().cast::<BufRingEntry>();
        // SAFETY: position is below count, so inside the mapping.
        let entry = unsafe { base.add(position) };
        // SAFETY: the kernel reads only entries before the tail, which does not cover this one yet.
        let entry = unsafe { &mut *entry };
        entry.set_addr(address);
        entry.set_len(self.buffers.size_bytes);
        entry.set_bid(id);
        self.tail = self.tail.wrapping_add(1);
        self.provided += 1;
        // SAFETY: the first entry of a mapped ring; the tail lies in its reserved field.
        let tail = unsafe { BufRingEntry::tail(base) };
        // SAFETY: an aligned u16 in the mapping, written by this thread only, read by the kernel.
        let tail = unsafe { AtomicU16::from_ptr(tail.cast_mut()) };
        tail.store(self.tail, Ordering::Release);
    }
}
