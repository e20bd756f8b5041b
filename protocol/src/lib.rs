//! The wire format of Roost: header and FlatBuffers payload of every frame, the incremental decoder, identifiers,
//! limits, close reasons and refusal codes, the envelopes between gateway and logic, and the public keys of development.
//!
//! Invariants:
//! * No I/O, no clock, no thread: bytes and values in, bytes and values out.
//! * Bytes from a peer are verified before they are read; nothing is allocated from a declared length.
//! * `decode(encode(x)) == x` for every frame, and any split of the bytes gives the same frames.
//!
//! Only the generated FlatBuffers accessors contain `unsafe`; they are reached through [`payload`], which verifies.

pub mod close_reason;
pub mod decoder;
pub mod dev;
pub mod envelope;
pub mod frame;
#[allow(
    unsafe_code,
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::undocumented_unsafe_blocks,
    clippy::multiple_unsafe_ops_per_block,
    mismatched_lifetime_syntaxes,
    unused_imports
)]
#[rustfmt::skip]
mod generated;
pub mod id;
pub mod limits;
pub mod payload;
pub mod refusal;
pub mod topology;

pub use close_reason::CloseReason;
pub use decoder::{Decoder, RawFrame};
pub use frame::{Frame, FrameKind, Header, message_of};
pub use id::{ClientMsgId, ConversationId, DeviceId, UserId};
pub use payload::{Encoder, PayloadError};
pub use refusal::RefusalCode;
