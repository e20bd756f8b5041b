//! C1 on devices and C13: who stayed to the end has everything, every send is resolved, nothing
//! is left behind.

use rapidhash::RapidHashMap;

use super::check::Check;
use super::event::{ConversationId, DeviceId, MessageId, UserId};
use super::facts::{Facts, Source};
use super::verdict::{Findings, Spot};

pub(super) fn check(facts: &Facts<'_>, findings: &mut Findings<'_>) {
    settled_devices_have_all(facts, findings);
    if facts.healed_at.is_some() {
        sends_are_resolved(facts, findings);
        nothing_is_left(facts, findings);
    }
}

/// A settled device has each seq of its user's membership: displayed, or acknowledged to itself.
fn settled_devices_have_all(facts: &Facts<'_>, findings: &mut Findings<'_>) {
    if facts.settled.is_empty() {
        return;
    }
    let mut has: Vec<(ConversationId, DeviceId, u64)> = facts
        .sightings
        .iter()
        .filter(|s| matches!(s.source, Source::Ack { .. } | Source::Displayed))
        .map(|s| (s.conversation, s.device, s.seq))
        .collect();
    has.sort_unstable();
    has.dedup();
    let mut devices: RapidHashMap<UserId, Vec<DeviceId>> = RapidHashMap::default();
    for &device in &facts.settled {
        devices.entry(facts.history.user_of(device)).or_default().push(device);
    }
    for (&conversation, members) in &facts.managed {
        for &user in members {
            for &device in devices.get(&user).map_or(&[][..], Vec::as_slice) {
                let start = has.partition_point(|key| (key.0, key.1) < (conversation, device));
                let end = has.partition_point(|key| (key.0, key.1) <= (conversation, device));
                device_has_all(facts, (conversation, user, device), &has[start..end], findings);
            }
        }
    }
}

type Screen = (ConversationId, UserId, DeviceId);

fn device_has_all(
    facts: &Facts<'_>,
    (conversation, user, device): Screen,
    has: &[(ConversationId, DeviceId, u64)],
    findings: &mut Findings<'_>,
) {
    let intervals = facts.members.get(&(conversation, user)).map_or(&[][..], Vec::as_slice);
    let began = facts.began.get(&(device, conversation)).copied().unwrap_or(0);
    let mut has = has.iter().map(|key| key.2).peekable();
    for known in facts.sightings_of(conversation).chunk_by(|a, b| a.seq == b.seq) {
        let seq = known[0].seq;
        while has.next_if(|&own| own < seq).is_some() {}
        let is_needed = seq > began && intervals.iter().any(|i| i.first <= seq && seq <= i.last);
        if !is_needed || has.peek() == Some(&seq) {
            continue;
        }
        let acked = known.iter().find(|s| matches!(s.source, Source::Ack { .. }));
        let spot = Spot { device, ..Spot::from(acked.unwrap_or(&known[0])) };
        if acked.is_some() {
            findings.report(Check::C1, "acknowledged_unseen", spot, || {
                "acknowledged to its sender, never seen by a device that stayed".to_owned()
            });
        } else if facts.healed_at.is_some() {
            findings.report(Check::C13, "device_not_converged", spot, || {
                "seen elsewhere, never by a device that stayed".to_owned()
            });
        }
    }
}

fn sends_are_resolved(facts: &Facts<'_>, findings: &mut Findings<'_>) {
    for (message, known) in (0..).map(MessageId).zip(&facts.messages) {
        let Some(send) = known.first_send else { continue };
        if known.first_ack.is_none() && !known.is_refused {
            let spot = Spot {
                conversation: send.conversation,
                device: send.device,
                message,
                ..Spot::at(send.at_us)
            };
            findings.report(Check::C13, "send_unresolved", spot, || {
                "neither acknowledged nor refused after healing".to_owned()
            });
        }
    }
}

fn nothing_is_left(facts: &Facts<'_>, findings: &mut Findings<'_>) {
    for &(at_us, label, amount) in &facts.residues {
        let is_after = facts.healed_at.is_some_and(|healed| at_us >= healed);
        if is_after && amount > 0 {
            findings.report(Check::C13, "residue", Spot::at(at_us), || {
                format!("{} still holds {amount}", facts.history.label_name(label))
            });
        }
    }
}
