//! What the checks look things up in: one pass over the events, then sorted tables.
//!
//! Invariant: gathering contradicts and judges nothing; of conflicting events the first one is
//! kept as the reference and the others stay in the tables for the checks to find.

use rapidhash::RapidHashMap;

use super::event::{ConversationId, DeviceId, LabelId, MessageId, Record, UserId, WatermarkKind};
use super::history::History;

/// Where a message has its place.
pub(super) type Place = (ConversationId, u64);

/// Who claims that a message stands at a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Source {
    Stored { reading: u32 },
    Ack { answer: u32 },
    Received,
    Displayed,
}

/// One claim that `message` with `hash` stands at (conversation, seq).
#[derive(Clone, Copy, Debug)]
pub(super) struct Sighting {
    pub(super) conversation: ConversationId,
    pub(super) seq: u64,
    pub(super) source: Source,
    pub(super) message: MessageId,
    pub(super) hash: u64,
    pub(super) device: DeviceId,
    pub(super) at_us: u64,
    pub(super) position: u32,
}

/// The first attempt to send a message.
#[derive(Clone, Copy, Debug)]
pub(super) struct FirstSend {
    pub(super) at_us: u64,
    pub(super) position: u32,
    pub(super) device: DeviceId,
    pub(super) conversation: ConversationId,
}

/// The first acknowledgement of a message.
#[derive(Clone, Copy, Debug)]
pub(super) struct FirstAck {
    pub(super) at_us: u64,
    pub(super) device: DeviceId,
    pub(super) place: Place,
    pub(super) hash: u64,
    pub(super) answer: u32,
}

/// What became of one message.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct MessageFacts {
    pub(super) first_send: Option<FirstSend>,
    pub(super) first_ack: Option<FirstAck>,
    /// The place given by the acknowledgement, else the first one seen.
    pub(super) place: Option<Place>,
    pub(super) is_refused: bool,
}

/// A shown watermark.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shown {
    pub(super) observer: DeviceId,
    pub(super) conversation: ConversationId,
    pub(super) subject: UserId,
    pub(super) kind: WatermarkKind,
    pub(super) seq: u64,
    pub(super) at_us: u64,
}

/// From the first to the last seq a user may see; open ended while a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Interval {
    pub(super) first: u64,
    pub(super) last: u64,
}

/// Something a device did with a recalled message.
#[derive(Clone, Copy, Debug)]
pub(super) struct Recall {
    pub(super) place: Place,
    pub(super) device: DeviceId,
    pub(super) position: u32,
}

/// All tables.
pub(super) struct Facts<'h> {
    pub(super) history: &'h History,
    /// By message id.
    pub(super) messages: Vec<MessageFacts>,
    /// Sorted by (conversation, seq, source).
    pub(super) sightings: Vec<Sighting>,
    /// Sorted: (message, conversation, hash), once each.
    pub(super) sent: Vec<(MessageId, ConversationId, u64)>,
    /// Sorted: (message, hash).
    pub(super) refused: Vec<(MessageId, u64)>,
    /// The highest complete reading of each conversation.
    pub(super) final_readings: RapidHashMap<ConversationId, u32>,
    /// Highest seq anybody saw.
    pub(super) heads: RapidHashMap<ConversationId, u64>,
    pub(super) members: RapidHashMap<(ConversationId, UserId), Vec<Interval>>,
    pub(super) managed: RapidHashMap<ConversationId, Vec<UserId>>,
    pub(super) began: RapidHashMap<(DeviceId, ConversationId), u64>,
    pub(super) settled: Vec<DeviceId>,
    pub(super) watermarks: Vec<Shown>,
    pub(super) recalled: Vec<Recall>,
    pub(super) removed: Vec<Recall>,
    pub(super) residues: Vec<(u64, LabelId, u64)>,
    pub(super) healed_at: Option<u64>,
    /// Time of each kill and whether it was seen to take effect.
    pub(super) kills: Vec<(u64, bool)>,
    pub(super) attempts: u64,
    pub(super) displays: u64,
}

impl<'h> Facts<'h> {
    pub(super) fn gather(history: &'h History) -> Self {
        let mut facts = Self {
            history,
            messages: vec![MessageFacts::default(); history.messages.count()],
            sightings: Vec::new(),
            sent: Vec::new(),
            refused: Vec::new(),
            final_readings: RapidHashMap::default(),
            heads: RapidHashMap::default(),
            members: RapidHashMap::default(),
            managed: RapidHashMap::default(),
            began: RapidHashMap::default(),
            settled: Vec::new(),
            watermarks: Vec::new(),
            recalled: Vec::new(),
            removed: Vec::new(),
            residues: Vec::new(),
            healed_at: None,
            kills: Vec::new(),
            attempts: 0,
            displays: 0,
        };
        for (position, (at_us, record)) in history.records().enumerate() {
            let position = u32::try_from(position).unwrap_or(u32::MAX);
            facts.take(at_us, position, record);
            if let Some(sighting) = Self::sighting_of(at_us, position, record) {
                facts.see(sighting);
            }
        }
        facts.sort();
        facts
    }

    fn take(&mut self, at_us: u64, position: u32, record: Record) {
        match record {
            Record::Send { device, conversation, message, hash, .. } => {
                self.attempts += 1;
                self.sent.push((message, conversation, hash));
                if let Some(facts) = self.messages.get_mut(message.0 as usize) {
                    let send = FirstSend { at_us, position, device, conversation };
                    facts.first_send.get_or_insert(send);
                }
            }
            Record::Ack { device, conversation, message, hash, seq, answer } => {
                let place = (conversation, seq);
                if let Some(facts) = self.messages.get_mut(message.0 as usize)
                    && facts.first_ack.is_none()
                {
                    facts.first_ack = Some(FirstAck { at_us, device, place, hash, answer });
                    facts.place = Some(place);
                }
            }
            Record::Refusal { message, hash, .. } => {
                self.refused.push((message, hash));
                if let Some(facts) = self.messages.get_mut(message.0 as usize) {
                    facts.is_refused = true;
                }
            }
            // Says only what the absence of an answer says already.
            Record::Unknown { .. } => {}
            Record::Displayed { .. } => self.displays += 1,
            Record::Received { .. } | Record::Stored { .. } => {}
            Record::ReadingEnd { conversation, reading } => {
                let last = self.final_readings.entry(conversation).or_insert(reading);
                *last = reading.max(*last);
            }
            Record::Began { device, conversation, seq } => {
                self.began.insert((device, conversation), seq);
            }
            Record::Settled { device } => self.settled.push(device),
            Record::Watermark { observer, conversation, subject, kind, seq } => {
                self.watermarks.push(Shown { observer, conversation, subject, kind, seq, at_us });
            }
            Record::Joined { conversation, user, seq } => self.join(conversation, user, seq),
            Record::Left { conversation, user, seq } => {
                if let Some(open) = self
                    .members
                    .get_mut(&(conversation, user))
                    .and_then(|intervals| intervals.last_mut())
                {
                    open.last = seq;
                }
            }
            Record::Recalled { device, conversation, seq } => {
                self.recalled.push(Recall { place: (conversation, seq), device, position });
            }
            Record::Removed { device, conversation, seq } => {
                self.removed.push(Recall { place: (conversation, seq), device, position });
            }
            Record::Kill { took_effect } => self.kills.push((at_us, took_effect)),
            Record::Healed => self.healed_at = Some(at_us),
            Record::Residue { label, amount } => self.residues.push((at_us, label, amount)),
        }
    }

    /// The claim in a record, where it makes one.
    fn sighting_of(at_us: u64, position: u32, record: Record) -> Option<Sighting> {
        let (source, device, place, message, hash) = match record {
            Record::Ack { device, conversation, message, hash, seq, answer } => {
                (Source::Ack { answer }, device, (conversation, seq), message, hash)
            }
            Record::Received { device, conversation, message, seq, hash } => {
                (Source::Received, device, (conversation, seq), message, hash)
            }
            Record::Displayed { device, conversation, message, seq, hash } => {
                (Source::Displayed, device, (conversation, seq), message, hash)
            }
            Record::Stored { conversation, message, seq, hash, reading } => {
                let nobody = DeviceId(u32::MAX);
                (Source::Stored { reading }, nobody, (conversation, seq), message, hash)
            }
            Record::Send { .. }
            | Record::Refusal { .. }
            | Record::Unknown { .. }
            | Record::Began { .. }
            | Record::Settled { .. }
            | Record::Watermark { .. }
            | Record::ReadingEnd { .. }
            | Record::Joined { .. }
            | Record::Left { .. }
            | Record::Recalled { .. }
            | Record::Removed { .. }
            | Record::Kill { .. }
            | Record::Healed
            | Record::Residue { .. } => return None,
        };
        let (conversation, seq) = place;
        Some(Sighting { conversation, seq, source, message, hash, device, at_us, position })
    }

    fn see(&mut self, sighting: Sighting) {
        let place = (sighting.conversation, sighting.seq);
        if let Some(facts) = self.messages.get_mut(sighting.message.0 as usize) {
            facts.place.get_or_insert(place);
        }
        let head = self.heads.entry(sighting.conversation).or_insert(0);
        *head = sighting.seq.max(*head);
        self.sightings.push(sighting);
    }

    /// Two recorders may both tell of the same joining; it counts once.
    fn join(&mut self, conversation: ConversationId, user: UserId, first: u64) {
        let intervals = self.members.entry((conversation, user)).or_default();
        if intervals.is_empty() {
            self.managed.entry(conversation).or_default().push(user);
        }
        if intervals.iter().all(|interval| interval.first != first) {
            intervals.push(Interval { first, last: u64::MAX });
        }
    }

    fn sort(&mut self) {
        self.sightings.sort_unstable_by_key(|s| (s.conversation, s.seq, s.source, s.position));
        self.sent.sort_unstable();
        self.sent.dedup();
        self.refused.sort_unstable();
        self.refused.dedup();
        self.settled.sort_unstable();
        self.settled.dedup();
        self.removed.sort_unstable_by_key(|r| (r.place, r.device));
        self.recalled.sort_unstable_by_key(|r| r.place);
        self.recalled.dedup_by_key(|r| r.place);
    }

    /// Whether anybody says that the message at `place` was recalled.
    pub(super) fn was_recalled(&self, place: Place) -> bool {
        let removed = self.removed.partition_point(|r| r.place < place);
        self.recalled.binary_search_by_key(&place, |r| r.place).is_ok()
            || self.removed.get(removed).is_some_and(|r| r.place == place)
    }

    /// The rows of the final readings, sorted by (conversation, seq).
    pub(super) fn final_rows(&self) -> impl Iterator<Item = &Sighting> {
        self.sightings.iter().filter(|sighting| self.is_final(sighting))
    }

    fn is_final(&self, sighting: &Sighting) -> bool {
        match sighting.source {
            Source::Stored { reading } => {
                self.final_readings.get(&sighting.conversation) == Some(&reading)
            }
            Source::Ack { .. } | Source::Received | Source::Displayed => false,
        }
    }

    /// All sightings of one conversation, sorted by seq.
    pub(super) fn sightings_of(&self, conversation: ConversationId) -> &[Sighting] {
        let start = self.sightings.partition_point(|s| s.conversation < conversation);
        let end = self.sightings.partition_point(|s| s.conversation <= conversation);
        &self.sightings[start..end]
    }

    /// All sightings of one place.
    pub(super) fn sightings_at(&self, place: Place) -> &[Sighting] {
        let start = self.sightings.partition_point(|s| (s.conversation, s.seq) < place);
        let end = self.sightings.partition_point(|s| (s.conversation, s.seq) <= place);
        &self.sightings[start..end]
    }

    pub(super) fn facts_of(&self, message: MessageId) -> MessageFacts {
        self.messages.get(message.0 as usize).copied().unwrap_or_default()
    }
}
