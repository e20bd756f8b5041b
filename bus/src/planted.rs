//! Bugs that tests plant to prove that the fault tests find them: each leaves out one rule, at the line that keeps it.
//!
//! Without the feature `planted-bugs` [`planted`] is the constant `false`: the program has no bug, no name of one, and no way to choose one.
//! With it the program `roost-planted` has the one that the environment names. They are here because the bus is what both tiers share.

/// A rule that is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    /// A message counts as committed, whatever the database said.
    AckBeforeCommit,
    /// A message that was handled before is handled again.
    SkipDedupe,
    /// A message of a session counts although the device has a newer one.
    AcceptStaleEpoch,
    /// A body counts as done when the broker has sent it.
    AutoAck,
    /// A body without a queue counts as delivered.
    NoMandatory,
    /// A delivery for which an outbox has no room leaves no hint.
    DropOnSlowConsumer,
    /// The end of a connection ends the route of its device, whichever connection has it.
    DeleteRouteOnClose,
    /// A session fetches what it missed before it can be found.
    FetchBeforeSubscribe,
}

/// Whether this bug is planted: never.
#[cfg(not(feature = "planted-bugs"))]
pub const fn planted(_: Bug) -> bool {
    false
}

#[cfg(feature = "planted-bugs")]
pub use chosen::{VARIABLE, plant, planted};

#[cfg(feature = "planted-bugs")]
mod chosen {
    use std::sync::OnceLock;

    use super::Bug;

    /// Names the bug.
    pub const VARIABLE: &str = "ROOST_PLANTED_BUG";

    const NAMES: [(&str, Bug); 8] = [
        ("ack-before-commit", Bug::AckBeforeCommit),
        ("skip-dedupe", Bug::SkipDedupe),
        ("accept-stale-epoch", Bug::AcceptStaleEpoch),
        ("auto-ack", Bug::AutoAck),
        ("no-mandatory", Bug::NoMandatory),
        ("drop-on-slow-consumer", Bug::DropOnSlowConsumer),
        ("delete-route-on-close", Bug::DeleteRouteOnClose),
        ("fetch-before-subscribe", Bug::FetchBeforeSubscribe),
    ];

    static CHOSEN: OnceLock<Bug> = OnceLock::new();

    /// Whether this bug is planted.
    pub fn planted(bug: Bug) -> bool {
        CHOSEN.get() == Some(&bug)
    }

    /// Plants the bug of this name, for as long as the process lives.
    ///
    /// # Errors
    /// When there is no such bug, or one was planted before.
    pub fn plant(name: &str) -> Result<(), String> {
        let known = NAMES.iter().find(|(known, _)| *known == name);
        let (_, bug) = known.ok_or_else(|| {
            let names: Vec<&str> = NAMES.iter().map(|(name, _)| *name).collect();
            format!("{VARIABLE}={name}: there is no such bug; there are {}", names.join(", "))
        })?;
        CHOSEN.set(*bug).map_err(|_| "one bug is enough".to_owned())
    }
}
