//! One thing that happened, as a readable [`Record`] and as the 40 bytes it is kept in.
//!
//! Invariant: `Event::pack` then `Event::unpack` is identity. Names are interned, so that ten
//! million events fit into 400 MB. An event judges nothing and knows no order but its position.

/// A user, by position in the history's table of users.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UserId(pub(super) u32);

/// A device of a user. A device that lost its local store counts as a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceId(pub(super) u32);

/// A conversation, by position in the history's table of conversations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConversationId(pub(super) u32);

/// A message as its sender made it: (sender, `client_msg_id`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageId(pub(super) u32);

impl MessageId {
    /// Dense, from 0, within one history.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// The name of something that is counted, such as a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LabelId(pub(super) u32);

/// Which of the two watermarks of a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WatermarkKind {
    /// Stored by a device of the subject.
    Delivered,
    /// Read by the subject.
    Read,
}

/// What happened. All times are microseconds on the clock of the history's recorder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "device, conversation, message and seq say what they are")]
pub enum Record {
    /// A device handed a message to its socket; once for each attempt, before the bytes leave.
    Send {
        device: DeviceId,
        conversation: ConversationId,
        message: MessageId,
        /// [`super::payload_hash`] of the body of this attempt.
        hash: u64,
        /// When the schedule wanted it to be sent.
        intended_us: u64,
    },
    /// The server said: committed. Once for each acknowledgement, repeated ones too.
    Ack {
        device: DeviceId,
        conversation: ConversationId,
        message: MessageId,
        /// Hash of the body of the attempt that this answers.
        hash: u64,
        seq: u64,
        /// [`super::answer_digest`] of the rest of the answer.
        answer: u32,
    },
    /// The server said: never. Not for answers that ask the client to try again.
    Refusal {
        device: DeviceId,
        conversation: ConversationId,
        message: MessageId,
        hash: u64,
        code: u32,
    },
    /// The device gave up or died without an answer.
    Unknown { device: DeviceId, conversation: ConversationId, message: MessageId },
    /// A delivery reached the device, before any removal of duplicates.
    Received {
        device: DeviceId,
        conversation: ConversationId,
        message: MessageId,
        seq: u64,
        hash: u64,
    },
    /// The device showed the message to its user, with hash 0 when it showed only that a recalled
    /// message was here. Its own messages may be absent: an acknowledgement shows them.
    Displayed {
        device: DeviceId,
        conversation: ConversationId,
        message: MessageId,
        seq: u64,
        hash: u64,
    },
    /// The device starts behind `seq`: it needs no message up to it.
    Began { device: DeviceId, conversation: ConversationId, seq: u64 },
    /// The device was online and synced at the end: it must have everything.
    Settled { device: DeviceId },
    /// The observer was shown a watermark of the subject.
    Watermark {
        observer: DeviceId,
        conversation: ConversationId,
        subject: UserId,
        kind: WatermarkKind,
        seq: u64,
    },
    /// One row of a reading of the database; readings of a conversation are numbered upwards.
    Stored {
        conversation: ConversationId,
        message: MessageId,
        seq: u64,
        /// 0 when the content is gone.
        hash: u64,
        reading: u32,
    },
    /// A reading is complete. The highest numbered one is the final reading.
    ReadingEnd { conversation: ConversationId, reading: u32 },
    /// The user is a member from `seq` on.
    Joined { conversation: ConversationId, user: UserId, seq: u64 },
    /// The user is a member up to `seq` and not after it.
    Left { conversation: ConversationId, user: UserId, seq: u64 },
    /// The recall of the message at `seq` was acknowledged to `device`.
    Recalled { device: DeviceId, conversation: ConversationId, seq: u64 },
    /// The device removed the content of the message at `seq`.
    Removed { device: DeviceId, conversation: ConversationId, seq: u64 },
    /// A component was killed; `took_effect` when the recorder saw it gone.
    Kill { took_effect: bool },
    /// All faults ended and the system had its time to heal.
    Healed,
    /// What was left in a queue or pool after healing.
    Residue { label: LabelId, amount: u64 },
}

/// A record and its time, packed. The time has 56 bits: two thousand years of microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    at_and_kind: u64,
    seq: u64,
    hash: u64,
    conversation: u32,
    message: u32,
    device: u32,
    extra: u32,
}

const _: () = assert!(size_of::<Event>() == Event::BYTES);

/// Defines the numbers of the kinds; they are part of the file format and never change.
mod kind {
    pub(super) const SEND: u8 = 1;
    pub(super) const ACK: u8 = 2;
    pub(super) const REFUSAL: u8 = 3;
    pub(super) const UNKNOWN: u8 = 4;
    pub(super) const RECEIVED: u8 = 5;
    pub(super) const DISPLAYED: u8 = 6;
    pub(super) const BEGAN: u8 = 7;
    pub(super) const SETTLED: u8 = 8;
    pub(super) const WATERMARK_DELIVERED: u8 = 9;
    pub(super) const WATERMARK_READ: u8 = 10;
    pub(super) const STORED: u8 = 11;
    pub(super) const READING_END: u8 = 12;
    pub(super) const JOINED: u8 = 13;
    pub(super) const LEFT: u8 = 14;
    pub(super) const RECALLED: u8 = 15;
    pub(super) const REMOVED: u8 = 16;
    pub(super) const KILL: u8 = 17;
    pub(super) const HEALED: u8 = 18;
    pub(super) const RESIDUE: u8 = 19;
}

impl Event {
    /// Size in memory and in a file.
    pub const BYTES: usize = 40;

    const EMPTY: Self = Self {
        at_and_kind: 0,
        seq: 0,
        hash: 0,
        conversation: u32::MAX,
        message: u32::MAX,
        device: u32::MAX,
        extra: 0,
    };

    /// When it happened, in microseconds.
    #[must_use]
    pub const fn at_us(&self) -> u64 {
        self.at_and_kind >> 8
    }

    /// Packs a record; `at_us` keeps its low 56 bits.
    #[must_use]
    pub fn pack(at_us: u64, record: Record) -> Self {
        let (kind, fields) = Self::fields_of(record);
        Self { at_and_kind: at_us << 8 | u64::from(kind), ..fields }
    }

    fn fields_of(record: Record) -> (u8, Self) {
        let on = |device: DeviceId, conversation: ConversationId| Self {
            device: device.0,
            conversation: conversation.0,
            ..Self::EMPTY
        };
        match record {
            Record::Send { device, conversation, message, hash, intended_us } => (
                kind::SEND,
                Self { message: message.0, hash, seq: intended_us, ..on(device, conversation) },
            ),
            Record::Ack { device, conversation, message, hash, seq, answer } => (
                kind::ACK,
                Self { message: message.0, hash, seq, extra: answer, ..on(device, conversation) },
            ),
            Record::Refusal { device, conversation, message, hash, code } => (
                kind::REFUSAL,
                Self { message: message.0, hash, extra: code, ..on(device, conversation) },
            ),
            Record::Unknown { device, conversation, message } => {
                (kind::UNKNOWN, Self { message: message.0, ..on(device, conversation) })
            }
            Record::Received { device, conversation, message, seq, hash } => {
                (kind::RECEIVED, Self { message: message.0, seq, hash, ..on(device, conversation) })
            }
            Record::Displayed { device, conversation, message, seq, hash } => (
                kind::DISPLAYED,
                Self { message: message.0, seq, hash, ..on(device, conversation) },
            ),
            Record::Began { device, conversation, seq } => {
                (kind::BEGAN, Self { seq, ..on(device, conversation) })
            }
            Record::Settled { device } => (kind::SETTLED, Self { device: device.0, ..Self::EMPTY }),
            Record::Watermark { observer, conversation, subject, kind, seq } => (
                match kind {
                    WatermarkKind::Delivered => kind::WATERMARK_DELIVERED,
                    WatermarkKind::Read => kind::WATERMARK_READ,
                },
                Self { seq, extra: subject.0, ..on(observer, conversation) },
            ),
            Record::Stored { conversation, message, seq, hash, reading } => (
                kind::STORED,
                Self {
                    conversation: conversation.0,
                    message: message.0,
                    seq,
                    hash,
                    extra: reading,
                    ..Self::EMPTY
                },
            ),
            Record::ReadingEnd { conversation, reading } => (
                kind::READING_END,
                Self { conversation: conversation.0, extra: reading, ..Self::EMPTY },
            ),
            Record::Joined { conversation, user, seq } => (
                kind::JOINED,
                Self { conversation: conversation.0, extra: user.0, seq, ..Self::EMPTY },
            ),
            Record::Left { conversation, user, seq } => (
                kind::LEFT,
                Self { conversation: conversation.0, extra: user.0, seq, ..Self::EMPTY },
            ),
            Record::Recalled { device, conversation, seq } => {
                (kind::RECALLED, Self { seq, ..on(device, conversation) })
            }
            Record::Removed { device, conversation, seq } => {
                (kind::REMOVED, Self { seq, ..on(device, conversation) })
            }
            Record::Kill { took_effect } => {
                (kind::KILL, Self { extra: u32::from(took_effect), ..Self::EMPTY })
            }
            Record::Healed => (kind::HEALED, Self::EMPTY),
            Record::Residue { label, amount } => {
                (kind::RESIDUE, Self { extra: label.0, seq: amount, ..Self::EMPTY })
            }
        }
    }

    /// The record, or nothing when the kind is unknown (a damaged file).
    #[must_use]
    pub fn unpack(&self) -> Option<Record> {
        let Self { seq, hash, extra, .. } = *self;
        let conversation = ConversationId(self.conversation);
        let message = MessageId(self.message);
        let device = DeviceId(self.device);
        let watermark = |kind| Record::Watermark {
            observer: device,
            conversation,
            subject: UserId(extra),
            kind,
            seq,
        };
        Some(match self.at_and_kind.to_le_bytes()[0] {
            kind::SEND => Record::Send { device, conversation, message, hash, intended_us: seq },
            kind::ACK => Record::Ack { device, conversation, message, hash, seq, answer: extra },
            kind::REFUSAL => Record::Refusal { device, conversation, message, hash, code: extra },
            kind::UNKNOWN => Record::Unknown { device, conversation, message },
            kind::RECEIVED => Record::Received { device, conversation, message, seq, hash },
            kind::DISPLAYED => Record::Displayed { device, conversation, message, seq, hash },
            kind::BEGAN => Record::Began { device, conversation, seq },
            kind::SETTLED => Record::Settled { device },
            kind::WATERMARK_DELIVERED => watermark(WatermarkKind::Delivered),
            kind::WATERMARK_READ => watermark(WatermarkKind::Read),
            kind::STORED => Record::Stored { conversation, message, seq, hash, reading: extra },
            kind::READING_END => Record::ReadingEnd { conversation, reading: extra },
            kind::JOINED => Record::Joined { conversation, user: UserId(extra), seq },
            kind::LEFT => Record::Left { conversation, user: UserId(extra), seq },
            kind::RECALLED => Record::Recalled { device, conversation, seq },
            kind::REMOVED => Record::Removed { device, conversation, seq },
            kind::KILL => Record::Kill { took_effect: extra != 0 },
            kind::HEALED => Record::Healed,
            kind::RESIDUE => Record::Residue { label: LabelId(extra), amount: seq },
            _ => return None,
        })
    }

    /// The event with other ids, as `map` gives them; used when two histories become one.
    pub(super) fn renamed(mut self, map: &super::intern::Renaming) -> Self {
        let kind = self.at_and_kind.to_le_bytes()[0];
        self.conversation = map.conversation(self.conversation);
        self.message = map.message(self.message);
        self.device = map.device(self.device);
        match kind {
            kind::WATERMARK_DELIVERED | kind::WATERMARK_READ | kind::JOINED | kind::LEFT => {
                self.extra = map.user(self.extra);
            }
            kind::RESIDUE => self.extra = map.label(self.extra),
            _ => {}
        }
        self
    }

    /// Little-endian bytes for a file.
    pub(super) fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[0..8].copy_from_slice(&self.at_and_kind.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.seq.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.hash.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.conversation.to_le_bytes());
        bytes[28..32].copy_from_slice(&self.message.to_le_bytes());
        bytes[32..36].copy_from_slice(&self.device.to_le_bytes());
        bytes[36..40].copy_from_slice(&self.extra.to_le_bytes());
        bytes
    }

    /// The reverse of [`Event::to_bytes`].
    pub(super) fn from_bytes(bytes: &[u8; Self::BYTES]) -> Self {
        let long = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
        let short = |at: usize| u32::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
        Self {
            at_and_kind: long(0),
            seq: long(8),
            hash: long(16),
            conversation: short(24),
            message: short(28),
            device: short(32),
            extra: short(36),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pack_then_unpack_is_identity_for_every_kind() {
        let (device, conversation, message) = (DeviceId(1), ConversationId(2), MessageId(3));
        let (user, seq, hash) = (UserId(4), 5, 6);
        let records = [
            Record::Send { device, conversation, message, hash, intended_us: 7 },
            Record::Ack { device, conversation, message, hash, seq, answer: 8 },
            Record::Refusal { device, conversation, message, hash, code: 9 },
            Record::Unknown { device, conversation, message },
            Record::Received { device, conversation, message, seq, hash },
            Record::Displayed { device, conversation, message, seq, hash },
            Record::Began { device, conversation, seq },
            Record::Settled { device },
            Record::Watermark {
                observer: device,
                conversation,
                subject: user,
                kind: WatermarkKind::Delivered,
                seq,
            },
            Record::Watermark {
                observer: device,
                conversation,
                subject: user,
                kind: WatermarkKind::Read,
                seq,
            },
            Record::Stored { conversation, message, seq, hash, reading: 2 },
            Record::ReadingEnd { conversation, reading: 2 },
            Record::Joined { conversation, user, seq },
            Record::Left { conversation, user, seq },
            Record::Recalled { device, conversation, seq },
            Record::Removed { device, conversation, seq },
            Record::Kill { took_effect: true },
            Record::Healed,
            Record::Residue { label: LabelId(4), amount: 9 },
        ];
        for record in records {
            let event = Event::pack(1 << 50, record);
            assert_eq!(event.unpack(), Some(record));
            assert_eq!(event.at_us(), 1 << 50);
            assert_eq!(Event::from_bytes(&event.to_bytes()), event);
        }
    }
}
