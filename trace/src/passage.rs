//! One passage: a message was seen at a hop.

use roost_protocol::ClientMsgId;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Bytes of a [`Text`].
pub(crate) const TEXT_BYTES: usize = 56;
/// Words of a passage.
pub(crate) const WORDS: usize = 15;

macro_rules! hops {
    ($($(#[doc = $doc:literal])* $name:ident = $number:literal,)*) => {
        /// Where a message was seen, in the order in which a message passes them.
        ///
        /// What `number`, `count`, `code` and `text` of a [`Passage`] mean stands beside each; unmentioned ones are 0 or empty.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        #[repr(u8)]
        pub enum Hop { $($(#[doc = $doc])* $name = $number,)* }
        impl Hop {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name,)*];
        }
    };
}

hops! {
    /// A gateway read the SEND. `text`: user/device. `code` 1: a repeat of one that is on its way, not passed on.
    Received = 1,
    /// A gateway refused it by itself. `code`: why, as on the wire. `text`: user/device.
    RefusedByGateway = 2,
    /// The HTTP API took it. `text`: the user.
    RequestReceived = 3,
    /// It was given to the bus, in a body of `count` envelopes. `number`: the partition.
    Published = 4,
    /// The bus did not confirm the body; it is published again. `number`: the partition.
    PublishFailed = 5,
    /// The bus confirmed the body; began when it was first given to it. `count`: envelopes in it. `number`: the partition.
    PublishConfirmed = 6,
    /// The body took its worker down too often and was put aside. `number`: the partition.
    DeadLettered = 7,
    /// A worker of logic took it. `code` 1: the body was delivered before. `number`: the partition.
    Taken = 8,
    /// It made its handler fail, or the database refused it alone. `text`: why.
    Quarantined = 9,
    /// Logic refused it. `code`: why, as on the wire.
    RefusedByLogic = 10,
    /// It is in the database, in a transaction of `count` operations; began with the transaction's commit. `number`: its seq. `text`: the
    /// conversation. `code` 1: it was there before, this is a repeat.
    Committed = 11,
    /// Its receiver has no session anywhere. `text`: the user.
    Offline = 12,
    /// It is not known where sessions are: the delivery is left to the receivers' next sync.
    RoutesUnavailable = 13,
    /// The bus confirmed the body with the answer; began when it was given to it. `text`: the sender's gateway.
    AnswerConfirmed = 14,
    /// The bus confirmed the body with the delivery; began when it was given to it. `text`: a gateway.
    PushConfirmed = 15,
    /// The body for a gateway was lost: `code` 1: nobody takes deliveries there; 2: the bus did not take it. `text`: the gateway.
    PushFailed = 16,
    /// Logic is done with it; began when it took it.
    Acknowledged = 17,
    /// A gateway took the delivery from the bus, for `count` sessions. `text`: the gateway.
    PushTaken = 18,
    /// The answer went to the sender's socket; began when the SEND was read. `code`: 0 or why it was refused. `number`: bytes before it that the
    /// kernel had not taken. `text`: user/device.
    AnswerWritten = 19,
    /// The delivery went to a device's socket. `number`: place in the user's inbox. `count`: bytes before it that the kernel had not
    /// taken. `text`: user/device.
    DeliveryWritten = 20,
    /// A device reads too slowly: the delivery was replaced by a hint. `number`: place in the user's inbox. `text`: user/device.
    DeliveryHinted = 21,
    /// A frame for a connection that had gone. `code`: the frame's kind.
    ConnectionGone = 22,
    /// The device has stored it; began when it was written. `number`: place in the user's inbox. `text`: user/device.
    DeviceAcknowledged = 23,
    /// The HTTP API answered; began when it took it. `code`: 0 or why it was refused. `text`: the user.
    RequestAnswered = 24,
}

impl Hop {
    fn of_number(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number).checked_sub(1)?).copied()
    }
}

const _: () = {
    let mut position = 0;
    while position < Hop::ALL.len() {
        assert!(Hop::ALL[position] as usize == position + 1, "hops are dense from 1");
        position += 1;
    }
};

/// A message was seen at a hop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Passage {
    /// Which message.
    #[serde(rename = "client_msg_id", serialize_with = "write_id", deserialize_with = "read_id")]
    pub id: ClientMsgId,
    /// Where.
    pub hop: Hop,
    /// When, in nanoseconds since 1970 by the clock of the process.
    pub at_ns: u64,
    /// When what ended here began; `at_ns` for a moment.
    pub since_ns: u64,
    /// When the gateway read this copy of the SEND, in microseconds: tells the copies of a resent message apart. 0 on the way out.
    pub received_us: u64,
    /// Its `message_id`, where it is known.
    pub message_id: u64,
    /// See [`Hop`].
    pub number: u64,
    /// See [`Hop`].
    pub count: u32,
    /// See [`Hop`].
    pub code: u16,
    /// See [`Hop`].
    pub text: Text,
}

impl Passage {
    /// A moment without particulars.
    pub fn new(id: ClientMsgId, hop: Hop, at_ns: u64) -> Self {
        Self {
            id,
            hop,
            at_ns,
            since_ns: at_ns,
            received_us: 0,
            message_id: 0,
            number: 0,
            count: 0,
            code: 0,
            text: Text::default(),
        }
    }

    pub(crate) fn to_words(self) -> [u64; WORDS] {
        let id = u128::from_be_bytes(self.id.0);
        let packed = u64::from(self.hop as u8)
            | u64::from(self.text.length) << 8
            | u64::from(self.code) << 16
            | u64::from(self.count) << 32;
        let mut words = [0; WORDS];
        // The two halves of the id: the casts take the low 64 bits.
        words[0] = (id >> 64) as u64;
        words[1] = id as u64;
        words[2..8].copy_from_slice(&[
            self.at_ns,
            self.since_ns,
            packed,
            self.number,
            self.message_id,
            self.received_us,
        ]);
        for (word, bytes) in words[8..].iter_mut().zip(self.text.bytes.as_chunks::<8>().0) {
            *word = u64::from_le_bytes(*bytes);
        }
        words
    }

    pub(crate) fn of_words(words: &[u64; WORDS]) -> Option<Self> {
        let [hi, lo, at_ns, since_ns, packed, number, message_id, received_us, text @ ..] = words;
        let mut bytes = [0; TEXT_BYTES];
        for (bytes, word) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(text) {
            *bytes = word.to_le_bytes();
        }
        // The casts take the fields that `to_words` packed.
        let (hop, length) = (Hop::of_number(*packed as u8)?, (*packed >> 8) as u8);
        Some(Self {
            id: ClientMsgId((u128::from(*hi) << 64 | u128::from(*lo)).to_be_bytes()),
            hop,
            at_ns: *at_ns,
            since_ns: *since_ns,
            received_us: *received_us,
            message_id: *message_id,
            number: *number,
            count: (*packed >> 32) as u32,
            code: (*packed >> 16) as u16,
            text: Text { bytes, length },
        })
    }
}

/// A name or a reason, at most 56 bytes; a longer one ends in `~`, which is in no id.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Text {
    bytes: [u8; TEXT_BYTES],
    length: u8,
}

impl Default for Text {
    fn default() -> Self {
        Self { bytes: [0; TEXT_BYTES], length: 0 }
    }
}

impl Text {
    /// Of a text.
    pub fn new(text: &str) -> Self {
        let mut made = Self::default();
        made.push(text);
        made
    }

    /// `user/device`.
    pub fn of_device(user: &str, device: &str) -> Self {
        let mut made = Self::new(user);
        made.push("/");
        made.push(device);
        made
    }

    fn push(&mut self, text: &str) {
        let used = usize::from(self.length);
        let kept = text.len().min(TEXT_BYTES - used);
        self.bytes[used..used + kept].copy_from_slice(&text.as_bytes()[..kept]);
        // At most 56.
        self.length = (used + kept) as u8;
        if kept < text.len() {
            self.bytes[TEXT_BYTES - 1] = b'~';
        }
    }

    /// The text; a character that was cut in two is replaced.
    pub fn to_text(&self) -> std::borrow::Cow<'_, str> {
        let bytes = self.bytes.get(..usize::from(self.length)).unwrap_or_default();
        String::from_utf8_lossy(bytes)
    }
}

impl std::fmt::Debug for Text {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.to_text())
    }
}

impl Serialize for Text {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&self.to_text())
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Ok(Self::new(&String::deserialize(from)?))
    }
}

fn write_id<S: Serializer>(id: &ClientMsgId, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(id)
}

fn read_id<'de, D: Deserializer<'de>>(from: D) -> Result<ClientMsgId, D::Error> {
    let text = String::deserialize(from)?;
    ClientMsgId::parse_hex(&text).ok_or_else(|| serde::de::Error::custom("no client_msg_id"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn passages() -> impl Strategy<Value = Passage> {
        let numbers = (any::<[u64; 5]>(), any::<u32>(), any::<u16>());
        (any::<[u8; 16]>(), 0..Hop::ALL.len(), numbers, "[ -~]{0,60}").prop_map(
            |(id, hop, ([at_ns, since_ns, received_us, message_id, number], count, code), text)| {
                Passage {
                    id: ClientMsgId(id),
                    hop: Hop::ALL[hop],
                    at_ns,
                    since_ns,
                    received_us,
                    message_id,
                    number,
                    count,
                    code,
                    text: Text::new(&text),
                }
            },
        )
    }

    proptest! {
        #[test]
        fn words_and_json_are_the_same_passage(passage in passages()) {
            prop_assert_eq!(Passage::of_words(&passage.to_words()), Some(passage));
            let json = serde_json::to_string(&passage).unwrap();
            prop_assert_eq!(serde_json::from_str::<Passage>(&json).unwrap(), passage);
        }

        #[test]
        fn any_words_are_read_without_a_panic(words: [u64; WORDS]) {
            if let Some(passage) = Passage::of_words(&words) {
                _ = passage.text.to_text();
            }
        }
    }

    #[test]
    fn a_long_text_is_cut_visibly() {
        assert_eq!(Text::of_device("bob", "phone").to_text(), "bob/phone");
        let long = Text::of_device(&"u".repeat(40), &"d".repeat(40));
        assert_eq!(long.to_text(), format!("{}/{}~", "u".repeat(40), "d".repeat(14)));
        assert_eq!(Text::new(&"e".repeat(56)).to_text(), "e".repeat(56));
        assert!(Text::new(&"\u{e9}".repeat(40)).to_text().ends_with('~'));
    }

    #[test]
    fn a_hop_is_written_as_its_name() {
        let json = serde_json::to_string(&Hop::PublishConfirmed).unwrap();
        assert_eq!(json, "\"publish_confirmed\"");
    }
}
