//! The system calls on one socket.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::RawFd;

use crate::io::{Errno, SendBuffer};

/// Pieces per `sendmsg`: enough for one call's worth of frames, small enough for the stack.
const PIECES_MAX: usize = 128;

fn last_errno() -> Errno {
    Errno(io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO))
}

/// Receives into `buffer`; 0 is the end of the stream.
pub(super) fn receive(fd: RawFd, buffer: &mut [u8]) -> Result<usize, Errno> {
    // SAFETY: pointer and length describe a live slice that is ours to write.
    let bytes =
        unsafe { libc::recv(fd, buffer.as_mut_ptr().cast(), buffer.len(), libc::MSG_DONTWAIT) };
    usize::try_from(bytes).map_err(|_| last_errno())
}

/// Sends what comes after the first `skip` bytes of `buffer`, as far as the socket takes it.
pub(super) fn send(fd: RawFd, buffer: &SendBuffer, skip: usize) -> Result<usize, Errno> {
    let mut pieces = [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; PIECES_MAX];
    let mut count = 0;
    buffer.for_each_piece(skip, |piece| {
        pieces[count] =
            libc::iovec { iov_base: piece.as_ptr().cast_mut().cast(), iov_len: piece.len() };
        count += 1;
        count < PIECES_MAX
    });
    let message = libc::msghdr {
        msg_name: std::ptr::null_mut(),
        msg_namelen: 0,
        msg_iov: pieces.as_mut_ptr(),
        msg_iovlen: count,
        msg_control: std::ptr::null_mut(),
        msg_controllen: 0,
        msg_flags: 0,
    };
    // SAFETY: the message points at `pieces`, they at bytes of `buffer`; all outlive the call, which only
    // reads them.
    let bytes =
        unsafe { libc::sendmsg(fd, &raw const message, libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT) };
    usize::try_from(bytes).map_err(|_| last_errno())
}

pub(super) fn shutdown(fd: RawFd, how: i32) {
    // SAFETY: takes no pointers. A socket the peer has reset gives ENOTCONN, which changes nothing.
    unsafe { libc::shutdown(fd, how) };
}

pub(super) fn close(fd: RawFd) {
    // SAFETY: the driver owns the descriptor and forgets it with this call.
    unsafe { libc::close(fd) };
}
