//! C9 to C12: watermarks, recalls, repeated answers and membership.

use super::check::Check;
use super::event::{ConversationId, UserId, WatermarkKind};
use super::facts::{Facts, Sighting, Source};
use super::verdict::{Findings, Spot};

pub(super) fn check(facts: &Facts<'_>, findings: &mut Findings<'_>) {
    watermarks(facts, findings);
    recalls(facts, findings);
    repeated_answers(facts, findings);
    membership(facts, findings);
}

/// C9. The table is in the order of events, and a stable sort keeps it per observer.
fn watermarks(facts: &Facts<'_>, findings: &mut Findings<'_>) {
    let mut shown = facts.watermarks.clone();
    shown.sort_by_key(|w| (w.observer, w.conversation, w.subject, w.kind));
    let line = |w: &super::facts::Shown| (w.observer, w.conversation, w.subject, w.kind);
    for group in shown.chunk_by(|a, b| line(a) == line(b)) {
        let mut highest = 0;
        for w in group {
            let spot = Spot {
                conversation: w.conversation,
                seq: w.seq,
                device: w.observer,
                ..Spot::at(w.at_us)
            };
            let of = || {
                let kind = match w.kind {
                    WatermarkKind::Delivered => "delivered",
                    WatermarkKind::Read => "read",
                };
                format!("{kind} watermark of {}", facts.history.user_name(w.subject))
            };
            if w.seq < highest {
                findings.report(Check::C9, "watermark_went_back", spot, || {
                    format!("{}, was {highest}", of())
                });
            }
            let head = facts.heads.get(&w.conversation).copied().unwrap_or(0);
            if w.seq > head {
                findings.report(Check::C9, "watermark_beyond_head", spot, || {
                    format!("{}, the conversation ends at {head}", of())
                });
            }
            highest = w.seq.max(highest);
        }
    }
}

/// C10. A recalled message has no content in the database, none on a screen that knew of the
/// recall, and after healing every screen that had it knows.
fn recalls(facts: &Facts<'_>, findings: &mut Findings<'_>) {
    for recall in &facts.recalled {
        for sighting in facts.sightings_at(recall.place) {
            let is_final = match sighting.source {
                Source::Stored { reading } => {
                    facts.final_readings.get(&recall.place.0) == Some(&reading)
                }
                Source::Ack { .. } | Source::Received | Source::Displayed => false,
            };
            if is_final && sighting.hash != 0 {
                findings.report(Check::C10, "recalled_in_database", sighting.into(), || {
                    "the database still has the recalled content".to_owned()
                });
            }
            if sighting.source == Source::Displayed && sighting.hash != 0 {
                recalled_on_screen(facts, sighting, findings);
            }
        }
    }
}

fn recalled_on_screen(facts: &Facts<'_>, shown: &Sighting, findings: &mut Findings<'_>) {
    let key = ((shown.conversation, shown.seq), shown.device);
    let removed = facts.removed.binary_search_by_key(&key, |r| (r.place, r.device));
    match removed {
        Ok(at) if facts.removed[at].position < shown.position => {
            findings.report(Check::C10, "displayed_after_recall", shown.into(), || {
                "displayed again after the device knew of the recall".to_owned()
            });
        }
        Ok(_) => {}
        Err(_)
            if facts.healed_at.is_some() && facts.settled.binary_search(&shown.device).is_ok() =>
        {
            findings.report(Check::C10, "recall_never_arrived", shown.into(), || {
                "still displayed after healing".to_owned()
            });
        }
        Err(_) => {}
    }
}

/// C11. Also: an id that comes again with other content must be refused.
fn repeated_answers(facts: &Facts<'_>, findings: &mut Findings<'_>) {
    for sighting in &facts.sightings {
        let Source::Ack { answer } = sighting.source else { continue };
        let known = facts.facts_of(sighting.message);
        let Some(first) = known.first_ack else { continue };
        if (sighting.conversation, sighting.seq) != first.place {
            findings.report(Check::C11, "repeated_ack_moved", sighting.into(), || {
                format!("acknowledged as seq {} before", first.place.1)
            });
        } else if answer != first.answer {
            findings.report(Check::C11, "repeated_ack_differs", sighting.into(), || {
                "message_id or server_time differ from the first acknowledgement".to_owned()
            });
        }
        if sighting.hash != first.hash {
            findings.report(Check::C11, "id_reuse_acknowledged", sighting.into(), || {
                "the same client_msg_id with other content was acknowledged".to_owned()
            });
        }
        if facts.refused.binary_search(&(sighting.message, sighting.hash)).is_ok() {
            findings.report(Check::C11, "refused_and_acknowledged", sighting.into(), || {
                "the same message was also refused for good".to_owned()
            });
        }
    }
}

/// C12. Judged only where the history tells of members.
fn membership(facts: &Facts<'_>, findings: &mut Findings<'_>) {
    for sighting in &facts.sightings {
        let is_seen = match sighting.source {
            Source::Received | Source::Displayed => true,
            Source::Stored { .. } | Source::Ack { .. } => false,
        };
        if !is_seen || !facts.managed.contains_key(&sighting.conversation) {
            continue;
        }
        let user = facts.history.user_of(sighting.device);
        if !is_member(facts, sighting.conversation, user, sighting.seq) {
            findings.report(Check::C12, "seen_outside_membership", sighting.into(), || {
                format!("{} was no member at this seq", facts.history.user_name(user))
            });
        }
    }
}

fn is_member(facts: &Facts<'_>, conversation: ConversationId, user: UserId, seq: u64) -> bool {
    facts
        .members
        .get(&(conversation, user))
        .is_some_and(|i| i.iter().any(|i| i.first <= seq && seq <= i.last))
}
