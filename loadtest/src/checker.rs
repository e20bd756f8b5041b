//! The history checker: decides from recorded events whether a messaging run kept its promises.
//!
//! A recorder writes what really happened into a [`History`]: each attempt to send, each answer,
//! each message a device displayed, and at the end what the database holds. [`judge`] then looks
//! for contradictions, one check per promise (C1 to C13), in O(n log n) of the events. It believes
//! nobody: neither the server's word nor the client's, only that a recorder wrote an event when it
//! happened and that the events of one device are in the order in which they happened.
//!
//! A history can be written to a file while the run goes on ([`History::append_to`]), and several
//! files can be judged as one ([`History::absorb`]), so a run that was cut by a kill of the server
//! or of the recorder still counts.
//!
//! Deliberately absent: any notion of latency, and any knowledge of the wire or of a database.

mod agreement;
mod archive;
mod check;
mod convergence;
mod durability;
mod event;
mod facts;
mod history;
mod intern;
mod order;
mod soft;
mod verdict;

pub use archive::ArchiveError;
pub use check::Check;
pub use event::{
    ConversationId, DeviceId, Event, LabelId, MessageId, Record, UserId, WatermarkKind,
};
pub use history::{History, answer_digest, payload_hash};
pub use verdict::{Counts, Example, Expectations, Verdict, Violation};

use facts::Facts;
use verdict::Findings;

/// Judges a history against the promises C1 to C13 and against what the run was expected to prove.
///
/// A check whose events are absent finds nothing; `expected` names the events that must be there.
#[must_use]
pub fn judge(history: &History, expected: &Expectations) -> Verdict {
    let facts = Facts::gather(history);
    let mut findings = Findings::new(history);
    agreement::check(&facts, &mut findings);
    durability::check(&facts, &mut findings);
    order::check(&facts, &mut findings);
    soft::check(&facts, &mut findings);
    convergence::check(&facts, &mut findings);
    findings.into_verdict(&facts, expected)
}
