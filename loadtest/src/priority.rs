//! The generator's place in the queue for the CPU.
//!
//! On a machine that it shares with the server, a generator that waits for its turn lags, and its
//! lag would void the run just when the server is busy: the measuring comes first.

/// Lower is sooner; 0 is where everybody else is.
const NICE: i32 = -20;

/// Puts this thread, and all threads that it starts from now on, before the rest of the machine.
/// Says what a reader of the report should know when that is not allowed.
#[must_use]
pub fn raise() -> Option<String> {
    let refused = rustix::process::setpriority_process(None, NICE).err()?;
    Some(format!(
        "the generator waited for the CPU like everybody else ({refused}): its lag may be higher \
         than as root, or with CAP_SYS_NICE"
    ))
}
