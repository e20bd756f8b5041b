//! RLIMIT_NOFILE: bounds the process's descriptors and, at registration, each ring's descriptor table.
#![allow(unsafe_code)]

use std::io;

fn read() -> libc::rlimit {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: fills one live `rlimit`; it cannot fail for a known resource and a valid pointer.
    unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) };
    limit
}

/// The limit in force.
pub fn current() -> u64 {
    read().rlim_cur
}

/// Raises the limit to what the system allows this process; returns it. Called once, before any ring is made.
///
/// # Errors
/// When the kernel refuses.
pub fn raise() -> io::Result<u64> {
    let mut limit = read();
    if limit.rlim_cur < limit.rlim_max {
        limit.rlim_cur = limit.rlim_max;
        // SAFETY: reads one live `rlimit`.
        if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(limit.rlim_cur)
}
