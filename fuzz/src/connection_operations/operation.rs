//! What may happen, as arbitrary bytes say. The order of the variants is part of the corpus.

use arbitrary::Arbitrary;

/// Something that happens.
#[derive(Arbitrary, Debug)]
pub(super) enum Operation {
    /// A client connects and says who it is, or nothing.
    Connect { login: Login },
    /// A client sends a frame that servers accept, now and then a large one.
    Send { peer: u8, frame: ClientFrame },
    /// A client sends a piece of a frame, then the rest.
    SendInPieces { peer: u8, at: u8, frame: ClientFrame },
    /// A client sends any bytes.
    SendBytes { peer: u8, bytes: [u8; 12] },
    /// A client reads no more.
    StopReading { peer: u8 },
    /// It reads again.
    Read { peer: u8 },
    /// It finishes sending.
    HalfClose { peer: u8 },
    /// It closes.
    Close { peer: u8 },
    /// It resets.
    Reset { peer: u8 },
    /// Logic has something for connections that may exist.
    Push { items: [Item; 3] },
    /// One body for many, large enough to fill outboxes.
    Flood { index: u8, generation: u8, frames: u8 },
    /// The bus takes nothing.
    Stall,
    /// It takes again.
    Resume,
    /// The kernel behaves as badly as this.
    Kernel { faults: Kernel },
    /// Milliseconds pass.
    Pass { ms: u8 },
    /// Seconds pass.
    PassLong { s: u8 },
    /// The gateway begins to drain.
    Drain { seconds: u8 },
    /// The gateway ends.
    Shutdown,
}

#[derive(Arbitrary, Debug, Clone, Copy)]
pub(super) enum Login {
    Silent,
    Alice,
    AliceAgain,
    AliceTablet,
    Bob,
    /// Ends after some seconds.
    Brief,
    Wrong,
}

#[derive(Arbitrary, Debug)]
pub(super) enum ClientFrame {
    Ping { inbox_seq: u8 },
    EmptyPing,
    Send { body: Body, refused: bool },
    Sync { after: u8 },
    DeliverAck { inbox_seq: u8 },
    Read { seq: u8 },
    Delivered,
    Close,
    Connect { login: Login },
}

#[derive(Arbitrary, Debug)]
pub(super) struct Item {
    pub(super) index: u8,
    pub(super) generation: u8,
    pub(super) action: Action,
}

#[derive(Arbitrary, Debug)]
pub(super) enum Action {
    Deliver {
        inbox_seq: u8,
        body: Body,
    },
    /// A frame of any server kind with any payload.
    Frame {
        kind: u8,
        correlation: u8,
        payload: [u8; 4],
    },
    Close {
        reason: u8,
    },
}

/// Sizes around the limits of what is copied, gathered, held and sent.
#[derive(Arbitrary, Debug, Clone, Copy)]
pub(super) enum Body {
    Empty,
    Small,
    Shared,
    Large,
}

impl Body {
    pub(super) const ALL: [Self; 4] = [Self::Empty, Self::Small, Self::Shared, Self::Large];

    pub(super) fn bytes(self) -> Vec<u8> {
        let bytes = match self {
            Self::Empty => 0,
            Self::Small => 100,
            Self::Shared => 600,
            Self::Large => 9000,
        };
        vec![b'x'; bytes]
    }
}

#[derive(Arbitrary, Debug, Clone, Copy)]
pub(super) enum Kernel {
    Good,
    Harsh,
    Slow,
}
