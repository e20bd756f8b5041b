//! C2, C3, C4: what was seen was sent, stands at one place, once on each device, for everyone.

use super::check::Check;
use super::facts::{Facts, Place, Sighting, Source};
use super::verdict::{Findings, Spot};

pub(super) fn check(facts: &Facts<'_>, findings: &mut Findings<'_>) {
    seen_was_sent(facts, findings);
    one_place_each(facts, findings);
    once_on_each_device(facts, findings);
    same_for_all(facts, findings);
}

/// C2. An acknowledgement shows no content, so it is judged by C11 instead.
fn seen_was_sent(facts: &Facts<'_>, findings: &mut Findings<'_>) {
    for sighting in &facts.sightings {
        let Sighting { conversation, message, hash, source, .. } = *sighting;
        if matches!(source, Source::Ack { .. }) {
            continue;
        }
        let known = facts.facts_of(message);
        let was_refused = facts.refused.binary_search(&(message, hash)).is_ok();
        if known.first_send.is_none() {
            findings.report(Check::C2, "never_sent", sighting.into(), || {
                format!("{} a message nobody sent", verb(source))
            });
        } else if !was_sent(facts, sighting) {
            findings.report(Check::C2, "content_differs", sighting.into(), || {
                format!(
                    "{} with hash {hash:016x} in {}, sent otherwise",
                    verb(source),
                    facts.history.conversation_name(conversation)
                )
            });
        } else if was_refused && known.first_ack.is_none() {
            findings.report(Check::C2, "seen_though_refused", sighting.into(), || {
                format!("{} although it was refused for good", verb(source))
            });
        }
    }
}

/// A recalled message may be seen without its content.
fn was_sent(facts: &Facts<'_>, sighting: &Sighting) -> bool {
    let Sighting { conversation, message, hash, .. } = *sighting;
    if hash == 0 && facts.was_recalled(place(sighting)) {
        let at = facts.sent.partition_point(|s| (s.0, s.1) < (message, conversation));
        return facts.sent.get(at).is_some_and(|s| (s.0, s.1) == (message, conversation));
    }
    facts.sent.binary_search(&(message, conversation, hash)).is_ok()
}

fn verb(source: Source) -> &'static str {
    match source {
        Source::Stored { .. } => "the database holds",
        Source::Ack { .. } => "was acknowledged",
        Source::Received => "received",
        Source::Displayed => "displayed",
    }
}

/// C3, first half: a `client_msg_id` maps to at most one (conversation, seq).
fn one_place_each(facts: &Facts<'_>, findings: &mut Findings<'_>) {
    let mut by_message: Vec<&Sighting> = facts.sightings.iter().collect();
    by_message.sort_unstable_by_key(|s| (s.message, s.conversation, s.seq, s.position));
    for pair in by_message.windows(2) {
        let [one, other] = [pair[0], pair[1]];
        if one.message == other.message && place(one) != place(other) {
            findings.report(Check::C3, "sequenced_twice", other.into(), || {
                format!(
                    "the same client_msg_id also stands at {} seq {}",
                    facts.history.conversation_name(one.conversation),
                    one.seq
                )
            });
        }
    }
}

/// C3, second half: a device shows each message once.
fn once_on_each_device(facts: &Facts<'_>, findings: &mut Findings<'_>) {
    let mut displays: Vec<&Sighting> =
        facts.sightings.iter().filter(|s| s.source == Source::Displayed).collect();
    displays.sort_unstable_by_key(|s| (s.device, s.message, s.position));
    for pair in displays.windows(2) {
        let [first, again] = [pair[0], pair[1]];
        if (first.device, first.message) == (again.device, again.message) {
            findings.report(Check::C3, "displayed_twice", again.into(), || {
                format!("displayed already at {:.6} s", first.at_us as f64 / 1e6)
            });
        }
    }
}

/// C4. The group's first sighting is the reference: the database's where there is one.
fn same_for_all(facts: &Facts<'_>, findings: &mut Findings<'_>) {
    for group in facts.sightings.chunk_by(|a, b| place(a) == place(b)) {
        let reference = &group[0];
        for sighting in &group[1..] {
            if sighting.message != reference.message {
                findings.report(Check::C4, "seq_disputed", sighting.into(), || {
                    let other = facts.history.message_name(reference.message);
                    format!("{} this here, {} {other}", verb(sighting.source), {
                        verb(reference.source)
                    })
                });
            } else if is_disputed(reference, sighting) {
                findings.report(Check::C4, "content_disputed", Spot::from(sighting), || {
                    format!("hash {:016x}, elsewhere {:016x}", sighting.hash, reference.hash)
                });
            }
        }
    }
}

fn is_disputed(reference: &Sighting, sighting: &Sighting) -> bool {
    let shows_content = |s: &Sighting| !matches!(s.source, Source::Ack { .. }) && s.hash != 0;
    shows_content(reference) && shows_content(sighting) && reference.hash != sighting.hash
}

fn place(sighting: &Sighting) -> Place {
    (sighting.conversation, sighting.seq)
}
