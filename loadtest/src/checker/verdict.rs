//! What the checker found, and whether the run proved anything at all.
//!
//! Invariant: every violation is counted, and for the first few of each kind the verdict says
//! where, who, when and what. A run without violations still fails when it proves little.

use std::fmt;

use super::check::Check;
use super::event::{ConversationId, DeviceId, MessageId};
use super::facts::{Facts, Sighting};
use super::history::History;

/// Examples kept for each kind of violation.
const EXAMPLES_MAX: usize = 5;

/// One place where a promise was broken.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Example {
    /// Name of the conversation; empty when none is concerned.
    pub conversation: String,
    /// Its seq, 0 when none is concerned.
    pub seq: u64,
    /// `user/device`, or `database`.
    pub who: String,
    /// `sender:client_msg_id`.
    pub message: String,
    /// Microseconds on the recorder's clock.
    pub at_us: u64,
    /// What is wrong.
    pub what: String,
}

/// One kind of broken promise.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Violation {
    /// The promise.
    pub check: Check,
    /// The kind, such as `acknowledged_lost`.
    pub name: &'static str,
    /// How often.
    pub count: u64,
    /// The first few.
    pub examples: Vec<Example>,
}

/// What a run must contain to prove something. The default asks for a final reading of every
/// conversation that has an acknowledgement, and for one acknowledgement.
#[derive(Clone, Copy, Debug)]
pub struct Expectations {
    /// Fewer acknowledged messages prove little.
    pub acks_min: u64,
    /// The database must have been read after the end, completely.
    pub final_reading: bool,
    /// Devices that must have stayed to the end.
    pub settled_min: u64,
    /// Kills that must have taken effect.
    pub kills_min: u64,
    /// Kills among them that must have met messages in flight.
    pub kills_in_flight_min: u64,
    /// The history must say that faults ended.
    pub healed: bool,
}

impl Default for Expectations {
    fn default() -> Self {
        Self {
            acks_min: 1,
            final_reading: true,
            settled_min: 0,
            kills_min: 0,
            kills_in_flight_min: 0,
            healed: false,
        }
    }
}

/// Totals over a history.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Counts {
    /// Recorded events.
    pub events: u64,
    /// Different messages sent.
    pub sent: u64,
    /// Attempts to send, resends included.
    pub attempts: u64,
    /// Messages acknowledged at least once.
    pub acked: u64,
    /// Messages refused for good and never acknowledged.
    pub refused: u64,
    /// Messages without any answer.
    pub unresolved: u64,
    /// Displays by all devices.
    pub displayed: u64,
    /// Rows of the final readings.
    pub stored: u64,
    /// Devices that stayed to the end.
    pub settled: u64,
    /// Kills seen to take effect.
    pub kills: u64,
    /// Kills among them that met a message in flight.
    pub kills_in_flight: u64,
    /// Violations of C1.
    pub lost: u64,
    /// Violations of C3.
    pub duplicates: u64,
    /// Messages out of order, on a screen or in the sequence.
    pub inversions: u64,
}

/// The checker's answer.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Verdict {
    /// Sorted by check.
    pub violations: Vec<Violation>,
    /// Checks whose events the history does not have.
    pub unjudged: Vec<Check>,
    /// Why the run proves little; empty when it proves enough.
    pub proves_little: Vec<String>,
    /// Totals.
    pub counts: Counts,
}

impl Verdict {
    /// No violation, and enough was there to find one.
    #[must_use]
    pub fn is_pass(&self) -> bool {
        self.violations.is_empty() && self.proves_little.is_empty()
    }

    /// How often a promise was broken.
    #[must_use]
    pub fn count_of(&self, check: Check) -> u64 {
        self.violations.iter().filter(|v| v.check == check).map(|v| v.count).sum()
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = &self.counts;
        writeln!(
            f,
            "history: {} events, {} sent, {} acked, {} displayed, {} stored",
            counts.events, counts.sent, counts.acked, counts.displayed, counts.stored
        )?;
        for reason in &self.proves_little {
            writeln!(f, "proves little: {reason}")?;
        }
        for violation in &self.violations {
            let Violation { check, name, count, examples } = violation;
            writeln!(f, "{check:?} broken ({}): {name}, {count} times", check.promise())?;
            for e in examples {
                writeln!(
                    f,
                    "    {} seq {} {} at {:.6} s: {} [{}]",
                    e.conversation,
                    e.seq,
                    e.who,
                    e.at_us as f64 / 1e6,
                    e.what,
                    e.message
                )?;
            }
        }
        write!(f, "checker: {}", if self.is_pass() { "pass" } else { "FAIL" })
    }
}

/// Where a violation was found.
#[derive(Clone, Copy)]
pub(super) struct Spot {
    pub(super) conversation: ConversationId,
    pub(super) seq: u64,
    pub(super) device: DeviceId,
    pub(super) message: MessageId,
    pub(super) at_us: u64,
}

impl Spot {
    /// A spot of which only the time is known.
    pub(super) const fn at(at_us: u64) -> Self {
        Self {
            conversation: ConversationId(u32::MAX),
            seq: 0,
            device: DeviceId(u32::MAX),
            message: MessageId(u32::MAX),
            at_us,
        }
    }
}

impl From<&Sighting> for Spot {
    fn from(s: &Sighting) -> Self {
        let Sighting { conversation, seq, device, message, at_us, .. } = *s;
        Self { conversation, seq, device, message, at_us }
    }
}

/// Collects violations while the checks run.
pub(super) struct Findings<'h> {
    pub(super) history: &'h History,
    violations: Vec<Violation>,
}

impl<'h> Findings<'h> {
    pub(super) const fn new(history: &'h History) -> Self {
        Self { history, violations: Vec::new() }
    }

    /// Counts a violation and keeps it as an example when it is among the first of its kind.
    pub(super) fn report(
        &mut self,
        check: Check,
        name: &'static str,
        spot: Spot,
        what: impl FnOnce() -> String,
    ) {
        let known = self.violations.iter().position(|v| v.check == check && v.name == name);
        let index = known.unwrap_or_else(|| {
            self.violations.push(Violation { check, name, count: 0, examples: Vec::new() });
            self.violations.len() - 1
        });
        let violation = &mut self.violations[index];
        violation.count += 1;
        if violation.examples.len() < EXAMPLES_MAX {
            violation.examples.push(Example {
                conversation: self.history.conversation_name(spot.conversation),
                seq: spot.seq,
                who: self.history.device_name(spot.device),
                message: self.history.message_name(spot.message),
                at_us: spot.at_us,
                what: what(),
            });
        }
    }

    pub(super) fn into_verdict(mut self, facts: &Facts<'_>, expected: &Expectations) -> Verdict {
        self.violations.sort_by_key(|v| (v.check, v.name));
        let counts = self.count(facts);
        let proves_little = shortcomings(facts, &counts, expected);
        Verdict { violations: self.violations, unjudged: unjudged(facts), proves_little, counts }
    }

    fn count(&self, facts: &Facts<'_>) -> Counts {
        let of = |check| -> u64 {
            self.violations.iter().filter(|v| v.check == check).map(|v| v.count).sum()
        };
        let backwards: u64 = self
            .violations
            .iter()
            .filter(|v| v.name == "displayed_backwards")
            .map(|v| v.count)
            .sum();
        let sent = || facts.messages.iter().filter(|m| m.first_send.is_some());
        Counts {
            events: facts.history.count() as u64,
            sent: sent().count() as u64,
            attempts: facts.attempts,
            acked: facts.messages.iter().filter(|m| m.first_ack.is_some()).count() as u64,
            refused: sent().filter(|m| m.is_refused && m.first_ack.is_none()).count() as u64,
            unresolved: sent().filter(|m| !m.is_refused && m.first_ack.is_none()).count() as u64,
            displayed: facts.displays,
            stored: facts.final_rows().count() as u64,
            settled: facts.settled.len() as u64,
            kills: facts.kills.iter().filter(|(_, took_effect)| *took_effect).count() as u64,
            kills_in_flight: kills_in_flight(facts),
            lost: of(Check::C1),
            duplicates: of(Check::C3),
            inversions: backwards + of(Check::C7) + of(Check::C8),
        }
    }
}

fn unjudged(facts: &Facts<'_>) -> Vec<Check> {
    let has_events = |check: &Check| match check {
        Check::C1 | Check::C7 | Check::C8 | Check::C11 => {
            facts.messages.iter().any(|m| m.first_ack.is_some())
        }
        Check::C2 | Check::C4 => !facts.sightings.is_empty(),
        Check::C3 | Check::C6 => facts.displays > 0,
        Check::C5 => !facts.final_readings.is_empty(),
        Check::C9 => !facts.watermarks.is_empty(),
        Check::C10 => !facts.recalled.is_empty(),
        Check::C12 => !facts.managed.is_empty(),
        Check::C13 => facts.healed_at.is_some(),
    };
    Check::ALL.into_iter().filter(|check| !has_events(check)).collect()
}

/// Effective kills at whose time some message was sent and not yet answered.
fn kills_in_flight(facts: &Facts<'_>) -> u64 {
    let in_flight = |at_us: u64| {
        facts.messages.iter().any(|m| {
            m.first_send.is_some_and(|send| send.at_us <= at_us)
                && m.first_ack.is_none_or(|ack| ack.at_us > at_us)
        })
    };
    facts.kills.iter().filter(|(at_us, took_effect)| *took_effect && in_flight(*at_us)).count()
        as u64
}

fn shortcomings(facts: &Facts<'_>, counts: &Counts, expected: &Expectations) -> Vec<String> {
    let mut reasons = Vec::new();
    let mut at_least = |what: &str, found: u64, wanted: u64| {
        if found < wanted {
            reasons.push(format!("{found} {what}, expected at least {wanted}"));
        }
    };
    at_least("acknowledged messages", counts.acked, expected.acks_min);
    at_least("devices that stayed to the end", counts.settled, expected.settled_min);
    at_least("kills that took effect", counts.kills, expected.kills_min);
    at_least("kills that met a message in flight", counts.kills_in_flight, {
        expected.kills_in_flight_min
    });
    if expected.final_reading {
        let mut unread: Vec<ConversationId> = facts
            .messages
            .iter()
            .filter_map(|m| m.first_ack.map(|ack| ack.place.0))
            .filter(|conversation| !facts.final_readings.contains_key(conversation))
            .collect();
        unread.sort_unstable();
        unread.dedup();
        if let Some(first) = unread.first() {
            let name = facts.history.conversation_name(*first);
            reasons.push(format!(
                "{} conversations with acknowledged messages were not read from the database \
                 after the end, {name} for one",
                unread.len()
            ));
        }
    }
    if expected.healed && facts.healed_at.is_none() {
        reasons.push("no event says that the faults ended and the system healed".to_owned());
    }
    reasons
}
