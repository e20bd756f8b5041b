//! How the generator's bytes are cut into messages, and what a subject wants to hear first.
//!
//! A message is 64 bytes on the wire as the client sends it, in every protocol.

mod mqtt;
mod nats;
mod roost;

use std::net::TcpStream;
use std::time::Duration;

use anyhow::Result;

use super::answers::Answers;

/// Size of one message of the echo comparison.
const MESSAGE_BYTES: usize = 64;

/// Each answer during a login comes within this.
const LOGIN_DEADLINE: Duration = Duration::from_secs(10);

/// What a subject speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Framing {
    /// Blocks of 64 bytes, answered by the same: the floors.
    Blocks,
    /// Roost's frames: PING, answered by PONG.
    Roost,
    /// MQTT 3.1.1, quality of service 0, each client subscribed to a topic of its own.
    Mqtt,
    /// NATS, each client subscribed to a subject of its own.
    Nats,
}

impl Framing {
    /// Brings a new connection to where it may send messages. `index` is unique in the run.
    pub fn login(self, stream: &mut TcpStream, index: usize) -> Result<()> {
        stream.set_read_timeout(Some(LOGIN_DEADLINE))?;
        match self {
            Self::Blocks => Ok(()),
            Self::Roost => roost::login(stream, index),
            Self::Mqtt => mqtt::login(stream, index),
            Self::Nats => nats::login(stream, index),
        }
    }

    /// The bytes of every message on connection `index`.
    pub fn message(self, index: usize) -> Vec<u8> {
        match self {
            Self::Blocks => vec![b'm'; MESSAGE_BYTES],
            Self::Roost => roost::message(),
            Self::Mqtt => mqtt::message(index),
            Self::Nats => nats::message(index),
        }
    }

    /// How answers are told apart.
    pub(super) fn answers(self) -> Answers {
        match self {
            Self::Blocks | Self::Mqtt => Answers::of_size(MESSAGE_BYTES),
            Self::Roost => Answers::pongs(),
            Self::Nats => Answers::payload_lines(),
        }
    }
}

/// A name of eleven characters for every connection.
fn topic(index: usize) -> String {
    format!("roost{index:06}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_message_has_the_same_size() {
        for framing in [Framing::Blocks, Framing::Roost, Framing::Mqtt, Framing::Nats] {
            for index in [0, 9, 17_999, 117_999] {
                assert_eq!(framing.message(index).len(), MESSAGE_BYTES, "{framing:?} {index}");
            }
        }
    }
}
