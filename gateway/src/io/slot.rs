//! What a driver keeps per connection: 16 bytes, also while it is idle.
//!
//! Invariant: a bit of [`Held`] is set exactly while the kernel holds that operation. A slot is vacated in one
//! place of each driver, when none is set and the descriptor is closed.

use crate::chunks::Chunks;
use crate::io::ConnectionKey;

/// A set of bits with names.
macro_rules! bits {
    ($(#[$meta:meta])* $name:ident: $($(#[$doc:meta])* $bit:ident = $value:expr;)*) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
        pub(crate) struct $name(u8);
        impl $name {
            $($(#[$doc])* pub(crate) const $bit: Self = Self(1 << $value);)*
            /// Whether any bit of `other` is set.
            pub(crate) fn any(self, other: Self) -> bool { self.0 & other.0 != 0 }
            pub(crate) fn set(&mut self, other: Self) { self.0 |= other.0; }
            pub(crate) fn clear(&mut self, other: Self) { self.0 &= !other.0; }
            pub(crate) const fn or(self, other: Self) -> Self { Self(self.0 | other.0) }
        }
    };
}

bits! {
    /// Operations the kernel holds.
    Held:
    POLL = 0;
    RECEIVE = 1;
    MULTISHOT = 2;
    CANCEL = 3;
    SEND = 4;
    SHUTDOWN_WRITE = 5;
    SHUTDOWN_BOTH = 6;
    CLOSE = 7;
}

impl Held {
    /// Whether the kernel holds nothing.
    pub(crate) fn is_empty(self) -> bool {
        self.0 == 0
    }
}

bits! {
    /// What the shard asked for and what the socket is known to be.
    Wish:
    ATTACHED = 0;
    /// `start_receive` without `pause_receive` after it.
    RECEIVE = 1;
    /// `shutdown(Both)` was called.
    CLOSE = 2;
    /// `ReceiveEnded` was reported.
    RECEIVE_ENDED = 3;
    /// The socket said it has more bytes, so a receive need not wait for readiness.
    READABLE = 4;
    /// Waits in the driver's list of receives to arm.
    LISTED = 5;
    /// It receives often, so the next receive is a multishot one (io_uring).
    BUSY = 6;
    /// The peer hung up (epoll).
    HUNG_UP = 7;
}

/// One connection of the driver.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slot {
    pub(crate) generation: u32,
    pub(crate) descriptor: u32,
    pub(crate) address: u32,
    pub(crate) held: Held,
    pub(crate) wish: Wish,
    /// Receives within `heat_tick`.
    pub(crate) heat: u8,
    /// The driver's tick of the last receive, modulo 256.
    pub(crate) heat_tick: u8,
}

const _: () = assert!(size_of::<Slot>() == 16);

const VACANT: Slot = Slot {
    generation: 0,
    descriptor: 0,
    address: 0,
    held: Held(0),
    wish: Wish(0),
    heat: 0,
    heat_tick: 0,
};

/// The driver's slots, by connection index.
#[derive(Default)]
pub(crate) struct Slots(Chunks<Slot>);

impl Slots {
    /// Occupies the slot of `key`. Returns false when it is occupied already, a bug of the caller.
    pub(crate) fn attach(&mut self, key: ConnectionKey, descriptor: u32, address: u32) -> bool {
        let index = key.index as usize;
        self.0.grow_to(index + 1, &VACANT);
        let slot = &mut self.0[index];
        if slot.wish.any(Wish::ATTACHED) {
            return false;
        }
        *slot = Slot { generation: key.generation, descriptor, address, ..VACANT };
        slot.wish.set(Wish::ATTACHED);
        true
    }

    /// The attached slot of `key`.
    #[inline]
    pub(crate) fn get_mut(&mut self, key: ConnectionKey) -> Option<&mut Slot> {
        let slot = self.0.get_mut(key.index as usize)?;
        (slot.wish.any(Wish::ATTACHED) && slot.generation == key.generation).then_some(slot)
    }

    #[inline]
    pub(crate) fn get(&self, key: ConnectionKey) -> Option<&Slot> {
        let slot = self.0.get(key.index as usize)?;
        (slot.wish.any(Wish::ATTACHED) && slot.generation == key.generation).then_some(slot)
    }

    /// Frees the slot of `key`; it must be attached.
    pub(crate) fn vacate(&mut self, key: ConnectionKey) {
        if let Some(slot) = self.get_mut(key) {
            slot.wish.clear(Wish::ATTACHED);
        }
    }

    /// Keys of all attached slots.
    pub(crate) fn attached(&self) -> impl Iterator<Item = (ConnectionKey, &Slot)> {
        self.0.iter().enumerate().filter(|(_, slot)| slot.wish.any(Wish::ATTACHED)).map(
            |(index, slot)| {
                (ConnectionKey { index: index as u32, generation: slot.generation }, slot)
            },
        )
    }
}
