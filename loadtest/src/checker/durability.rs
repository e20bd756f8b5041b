//! C1 and C5 against the database: what was acknowledged is there, and the sequence is dense.

use super::check::Check;
use super::event::ConversationId;
use super::facts::{Facts, Place, Sighting, Source};
use super::verdict::{Findings, Spot};

pub(super) fn check(facts: &Facts<'_>, findings: &mut Findings<'_>) {
    let rows: Vec<&Sighting> = facts.final_rows().collect();
    acknowledged_is_stored(facts, &rows, findings);
    dense(facts, &rows, findings);
}

/// C1. Conversations that were not read are a shortcoming of the run, not a loss.
fn acknowledged_is_stored(facts: &Facts<'_>, rows: &[&Sighting], findings: &mut Findings<'_>) {
    for sighting in &facts.sightings {
        let message = sighting.message;
        let Some(ack) = facts.facts_of(message).first_ack else { continue };
        let is_first_ack = ack.at_us == sighting.at_us
            && ack.device == sighting.device
            && matches!(sighting.source, Source::Ack { .. });
        if !is_first_ack || !facts.final_readings.contains_key(&ack.place.0) {
            continue;
        }
        let at = rows.partition_point(|row| place(row) < ack.place);
        let is_stored = rows[at..]
            .iter()
            .take_while(|row| place(row) == ack.place)
            .any(|row| row.message == message);
        if !is_stored {
            findings.report(Check::C1, "acknowledged_lost", sighting.into(), || {
                "acknowledged, but the database does not have it at this place".to_owned()
            });
        }
    }
}

/// C5. Rows are sorted by (conversation, seq), so each must be one more than the row before.
fn dense(facts: &Facts<'_>, rows: &[&Sighting], findings: &mut Findings<'_>) {
    for conversation_rows in rows.chunk_by(|a, b| a.conversation == b.conversation) {
        let mut expected = 1;
        for row in conversation_rows {
            if row.seq > expected {
                findings.report(Check::C5, "gap_in_database", (*row).into(), || {
                    format!("follows seq {}, expected {expected}", expected - 1)
                });
            } else if row.seq < expected {
                findings.report(Check::C5, "seq_stored_twice", (*row).into(), || {
                    "the database holds this seq twice".to_owned()
                });
            }
            expected = row.seq.saturating_add(1);
        }
    }
    reaches_as_far(facts, rows, findings);
}

/// C5. Whatever anybody saw at a seq, the database reaches at least that far.
fn reaches_as_far(facts: &Facts<'_>, rows: &[&Sighting], findings: &mut Findings<'_>) {
    let last_stored = |conversation: ConversationId| {
        let end = rows.partition_point(|row| row.conversation <= conversation);
        end.checked_sub(1)
            .map(|at| rows[at])
            .filter(|row| row.conversation == conversation)
            .map_or(0, |row| row.seq)
    };
    for (&conversation, &head) in &facts.heads {
        let stored = last_stored(conversation);
        if facts.final_readings.contains_key(&conversation) && head > stored {
            let seen = facts.sightings_at((conversation, head)).first();
            let spot = seen.map_or(Spot::at(0), Spot::from);
            findings.report(Check::C5, "seen_beyond_database", spot, || {
                format!("the database ends at seq {stored}")
            });
        }
    }
}

fn place(sighting: &Sighting) -> Place {
    (sighting.conversation, sighting.seq)
}
