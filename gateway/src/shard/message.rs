//! What other threads say to a shard through its mailbox.
//!
//! Permission was settled before and bytes are encoded: a shard only looks up the connection and enqueues. An item for a
//! connection that is gone (its generation moved on) is dropped; the reconnect of its owner makes it known elsewhere.

use std::time::Duration;

use bytes::Bytes;
use roost_protocol::{CloseReason, Header};

use crate::io::ConnectionKey;

/// One item of the mailbox.
#[derive(Debug)]
pub enum ShardMessage {
    /// What one outbound body holds for this shard, in its order.
    Batch(Vec<ShardItem>),
    /// The gateway leaves: tell the clients, paced. Only the first one counts. The shard's thread ends when its table is empty.
    Drain(DrainPlan),
    /// The ring changed: send away who belongs elsewhere, paced.
    Shed(ShardShedPlan),
    /// Close what is left with `draining` and end the thread.
    Shutdown,
}

/// How a shard drains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DrainPlan {
    /// GO_AWAY goes to the connections evenly over this time.
    pub go_away_window: Duration,
    /// Each client is told a random part of this.
    pub reconnect_after_max: Duration,
    /// Close(draining) this long after a connection's GO_AWAY.
    pub close_after: Duration,
}

/// How a shard sends users away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShardShedPlan {
    /// Between two of them, on average.
    pub pause: Duration,
}

/// One action on one connection.
#[derive(Debug)]
pub struct ShardItem {
    /// Which connection.
    pub key: ConnectionKey,
    /// What happens to it.
    pub action: ShardAction,
}

/// See [`ShardItem`].
#[derive(Debug)]
pub enum ShardAction {
    /// Send this frame.
    Frame {
        /// `payload_bytes` is the length of `payload`.
        header: Header,
        /// Shared with the other receivers.
        payload: Bytes,
    },
    /// End the connection with this reason.
    Close(CloseReason),
}
