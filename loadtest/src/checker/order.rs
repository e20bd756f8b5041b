//! C6, C7, C8: the order on a screen, of one sender, and of real time.

use super::check::Check;
use super::event::{ConversationId, DeviceId, MessageId};
use super::facts::{Facts, Sighting, Source};
use super::verdict::{Findings, Spot};

pub(super) fn check(facts: &Facts<'_>, findings: &mut Findings<'_>) {
    displayed_one_by_one(facts, findings);
    let sent = sent_messages(facts);
    sender_order(sent.clone(), findings);
    real_time_order(sent, facts, findings);
}

/// C6. A device may pass over its own messages: their acknowledgements show them.
fn displayed_one_by_one(facts: &Facts<'_>, findings: &mut Findings<'_>) {
    let mut own: Vec<(DeviceId, ConversationId, u64)> = facts
        .sightings
        .iter()
        .filter(|s| matches!(s.source, Source::Ack { .. }))
        .map(|s| (s.device, s.conversation, s.seq))
        .collect();
    own.sort_unstable();
    own.dedup();
    let own_between = |device, conversation, after: u64, before: u64| {
        let start = own.partition_point(|key| *key <= (device, conversation, after));
        let end = own.partition_point(|key| *key < (device, conversation, before));
        end.saturating_sub(start) as u64
    };
    let mut displays: Vec<&Sighting> =
        facts.sightings.iter().filter(|s| s.source == Source::Displayed).collect();
    displays.sort_unstable_by_key(|s| (s.device, s.conversation, s.position));
    for screen in displays.chunk_by(|a, b| (a.device, a.conversation) == (b.device, b.conversation))
    {
        let (device, conversation) = (screen[0].device, screen[0].conversation);
        let mut last = facts.began.get(&(device, conversation)).copied().unwrap_or_else(|| {
            let user = facts.history.user_of(device);
            let intervals = facts.members.get(&(conversation, user));
            intervals.and_then(|i| i.first()).map_or(0, |interval| interval.first - 1)
        });
        for &shown in screen {
            if shown.seq > last {
                let skipped = shown.seq - last - 1;
                if skipped > own_between(device, conversation, last, shown.seq) {
                    findings.report(Check::C6, "displayed_gap", shown.into(), || {
                        format!("displayed after seq {last}")
                    });
                }
            } else if shown.seq < last {
                findings.report(Check::C6, "displayed_backwards", shown.into(), || {
                    format!("displayed after seq {last}")
                });
            }
            last = shown.seq.max(last);
        }
    }
}

/// A sent message that has its place.
#[derive(Clone, Copy)]
struct Sent {
    conversation: ConversationId,
    device: DeviceId,
    position: u32,
    sent_at_us: u64,
    acked_at_us: Option<u64>,
    seq: u64,
    message: MessageId,
}

impl Sent {
    fn spot(&self) -> Spot {
        Spot {
            conversation: self.conversation,
            seq: self.seq,
            device: self.device,
            message: self.message,
            at_us: self.sent_at_us,
        }
    }
}

fn sent_messages(facts: &Facts<'_>) -> Vec<Sent> {
    let with_ids = (0..).map(MessageId).zip(&facts.messages);
    with_ids
        .filter_map(|(message, known)| {
            let (send, (conversation, seq)) = (known.first_send?, known.place?);
            (send.conversation == conversation).then_some(Sent {
                conversation,
                device: send.device,
                position: send.position,
                sent_at_us: send.at_us,
                acked_at_us: known.first_ack.map(|ack| ack.at_us),
                seq,
                message,
            })
        })
        .collect()
}

/// C7. By first attempt, the seqs of a device's messages go up.
fn sender_order(mut sent: Vec<Sent>, findings: &mut Findings<'_>) {
    sent.sort_unstable_by_key(|s| (s.conversation, s.device, s.position));
    for queue in sent.chunk_by(|a, b| (a.conversation, a.device) == (b.conversation, b.device)) {
        let mut highest = &queue[0];
        for message in &queue[1..] {
            if message.seq < highest.seq {
                findings.report(Check::C7, "sender_order_broken", message.spot(), || {
                    format!(
                        "sent after a message that has seq {} (sent at {:.6} s)",
                        highest.seq,
                        highest.sent_at_us as f64 / 1e6
                    )
                });
            } else {
                highest = message;
            }
        }
    }
}

/// C8. Walks the first attempts by time; `highest` is the highest seq acknowledged before.
fn real_time_order(mut sent: Vec<Sent>, facts: &Facts<'_>, findings: &mut Findings<'_>) {
    let mut acked: Vec<Sent> = sent.iter().filter(|s| s.acked_at_us.is_some()).copied().collect();
    acked.sort_unstable_by_key(|s| (s.conversation, s.acked_at_us));
    sent.sort_unstable_by_key(|s| (s.conversation, s.sent_at_us));
    let mut acked = acked.into_iter().peekable();
    for conversation in sent.chunk_by(|a, b| a.conversation == b.conversation) {
        let id = conversation[0].conversation;
        let mut highest: Option<Sent> = None;
        for message in conversation {
            let is_before = |ack: &Sent| {
                ack.conversation < id
                    || ack.conversation == id
                        && ack.acked_at_us.is_some_and(|at| at < message.sent_at_us)
            };
            while let Some(ack) = acked.next_if(is_before) {
                if ack.conversation == id && highest.is_none_or(|h| h.seq < ack.seq) {
                    highest = Some(ack);
                }
            }
            if let Some(before) = highest.filter(|h| h.seq > message.seq) {
                findings.report(Check::C8, "real_time_order_broken", message.spot(), || {
                    format!(
                        "sent after the acknowledgement of seq {} (of {}, at {:.6} s)",
                        before.seq,
                        facts.history.device_name(before.device),
                        before.acked_at_us.unwrap_or(0) as f64 / 1e6
                    )
                });
            }
        }
    }
}
