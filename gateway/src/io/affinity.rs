//! Which cores this process may use, and pinning a thread to one of them.
#![allow(unsafe_code)]

use std::io;

/// Cores this process may use, ascending; at least one.
pub fn allowed_cores() -> Vec<usize> {
    // SAFETY: `cpu_set_t` is an array of integers, for which all zeroes is a valid value: the empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes at most `size_of_val(&set)` bytes into the live `set`.
    let result = unsafe { libc::sched_getaffinity(0, size_of_val(&set), &raw mut set) };
    if result != 0 {
        return vec![0];
    }
    let limit = usize::try_from(libc::CPU_SETSIZE).unwrap_or(0);
    // SAFETY: `core` is below CPU_SETSIZE, so it lies within the set.
    let allowed =
        (0..limit).filter(|core| unsafe { libc::CPU_ISSET(*core, &set) }).collect::<Vec<_>>();
    if allowed.is_empty() { vec![0] } else { allowed }
}

/// Pins the calling thread to `core`.
///
/// # Errors
/// When the core does not exist or is not allowed.
pub fn pin_current_thread(core: usize) -> io::Result<()> {
    if core >= usize::try_from(libc::CPU_SETSIZE).unwrap_or(0) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: as above, all zeroes is the empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: `core` was just checked to lie within the set.
    unsafe { libc::CPU_SET(core, &mut set) };
    // SAFETY: the kernel reads `size_of_val(&set)` bytes of the live `set`; 0 names the calling thread.
    match unsafe { libc::sched_setaffinity(0, size_of_val(&set), &raw const set) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_is_pinned() {
        let last = *allowed_cores().last().unwrap();
        let seen = std::thread::spawn(move || {
            pin_current_thread(last).unwrap();
            allowed_cores()
        });
        assert_eq!(seen.join().unwrap(), [last]);
        assert!(pin_current_thread(usize::MAX).is_err());
    }
}
