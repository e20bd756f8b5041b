//! A session: who a connection belongs to. One small immutable allocation, shared by the connection and the directory.
//!
//! Invariants:
//! * A [`SessionIdentity`] exists only after its credential was verified, and never changes.
//! * Of one device at most one session is in the directory: the one with the highest epoch.
//!
//! What a session *does* (sends in flight, watermarks) belongs to its connection and its shard; nothing of it is here.

pub mod changes;
pub mod directory;
pub mod handshake;
pub mod inflight;
pub mod jwks;
pub mod key_refresh;
pub mod keys;
pub mod placement;
pub mod resume_token;

use std::fmt;

use roost_protocol::envelope::ConnectionAddress;
use roost_protocol::frame::connect::DeviceClass;
use triomphe::ThinArc;

use crate::io::ConnectionKey;

/// Number of an app (tenant) in this process; see [`directory::Directory::app_name`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AppIndex(pub u16);

/// Who a connection belongs to: one pointer to one allocation.
///
/// ```text
/// count 8 | epoch 8 | index 4 | generation 4 | expires_s 4 | app 2 | shard 2 | user_bytes 1 | class 1 | pad 6 | text_bytes 8 | user device
/// ```
/// 48 bytes and the text: 64 for ids that have 16 bytes together.
#[derive(Clone)]
pub struct SessionIdentity(ThinArc<Fixed, u8>);

#[derive(Debug)]
struct Fixed {
    epoch: u64,
    key: ConnectionKey,
    expires_s: u32,
    app: AppIndex,
    shard: u16,
    user_bytes: u8,
    device_class: DeviceClass,
}

const _: () = assert!(size_of::<SessionIdentity>() == 8);
const _: () = assert!(size_of::<Option<SessionIdentity>>() == 8);
const _: () = assert!(size_of::<Fixed>() == 32);

/// What a session is made of.
#[derive(Debug, Clone, Copy)]
pub struct SessionParts<'a> {
    /// Tenant.
    pub app: AppIndex,
    /// User, an id of at most 64 bytes.
    pub user: &'a str,
    /// Device, an id of at most 64 bytes.
    pub device: &'a str,
    /// Its class.
    pub device_class: DeviceClass,
    /// Higher than that of every earlier session of the device.
    pub epoch: u64,
    /// Where the connection is.
    pub address: ConnectionAddress,
    /// When the credential expires, seconds since 1970.
    pub expires_s: u32,
}

impl SessionIdentity {
    /// Makes the allocation.
    ///
    /// # Panics
    /// When the user id is longer than 255 bytes: ids were checked when they were read.
    pub fn new(parts: &SessionParts<'_>) -> Self {
        let user_bytes = u8::try_from(parts.user.len()).expect("ids have at most 64 bytes");
        let ConnectionAddress { shard, index, generation } = parts.address;
        let fixed = Fixed {
            epoch: parts.epoch,
            key: ConnectionKey { index, generation },
            expires_s: parts.expires_s,
            app: parts.app,
            shard,
            user_bytes,
            device_class: parts.device_class,
        };
        let text = Text { first: parts.user.as_bytes(), second: parts.device.as_bytes() };
        Self(ThinArc::from_header_and_iter(fixed, text))
    }

    fn fixed(&self) -> &Fixed {
        &self.0.header.header
    }

    fn text(&self, from: usize, to: usize) -> &str {
        // Checked UTF-8 costs about 5 ns for an id; an unchecked view would need unsafe here.
        self.0.slice.get(from..to).and_then(|b| std::str::from_utf8(b).ok()).unwrap_or_default()
    }

    /// Tenant.
    pub fn app(&self) -> AppIndex {
        self.fixed().app
    }
    /// The user.
    pub fn user(&self) -> &str {
        self.text(0, usize::from(self.fixed().user_bytes))
    }
    /// The device.
    pub fn device(&self) -> &str {
        self.text(usize::from(self.fixed().user_bytes), self.0.slice.len())
    }
    /// Class of the device.
    pub fn device_class(&self) -> DeviceClass {
        self.fixed().device_class
    }
    /// Epoch of the session.
    pub fn epoch(&self) -> u64 {
        self.fixed().epoch
    }
    /// Index of the shard that owns the connection.
    pub fn shard(&self) -> u16 {
        self.fixed().shard
    }
    /// The connection within its shard.
    pub fn key(&self) -> ConnectionKey {
        self.fixed().key
    }
    /// The connection within the gateway.
    pub fn address(&self) -> ConnectionAddress {
        let Fixed { key, shard, .. } = *self.fixed();
        ConnectionAddress { shard, index: key.index, generation: key.generation }
    }
    /// When the credential expires and the connection is closed, seconds since 1970.
    pub fn expires_s(&self) -> u32 {
        self.fixed().expires_s
    }
    /// Whether both are the same allocation: the same login, not merely equal fields.
    pub fn is_same(&self, other: &Self) -> bool {
        std::ptr::eq(self.fixed(), other.fixed())
    }
}

impl fmt::Debug for SessionIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionIdentity")
            .field("user", &self.user())
            .field("device", &self.device())
            .field("fixed", self.fixed())
            .finish()
    }
}

/// The bytes of two slices with an exact length, so that the allocation is made once in its final size.
struct Text<'a> {
    first: &'a [u8],
    second: &'a [u8],
}

impl Iterator for Text<'_> {
    type Item = u8;
    fn next(&mut self) -> Option<u8> {
        if self.first.is_empty() {
            std::mem::swap(&mut self.first, &mut self.second);
        }
        let (byte, rest) = self.first.split_first()?;
        self.first = rest;
        Some(*byte)
    }
    fn size_hint(&self) -> (usize, Option<usize>) {
        let count = self.first.len() + self.second.len();
        (count, Some(count))
    }
}
impl ExactSizeIterator for Text<'_> {}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(user: &str, device: &str) {
        let session = SessionIdentity::new(&SessionParts {
            app: AppIndex(7),
            user,
            device,
            device_class: DeviceClass::Tablet,
            epoch: u64::MAX - 1,
            address: ConnectionAddress { shard: 51, index: 70_000, generation: 9 },
            expires_s: u32::MAX,
        });
        assert_eq!((session.user(), session.device()), (user, device));
        assert_eq!(session.app(), AppIndex(7));
        assert_eq!(session.device_class(), DeviceClass::Tablet);
        assert_eq!(session.epoch(), u64::MAX - 1);
        assert_eq!(
            session.address(),
            ConnectionAddress { shard: 51, index: 70_000, generation: 9 }
        );
        assert_eq!(session.expires_s(), u32::MAX);
        assert!(session.is_same(&session.clone()));
    }

    #[test]
    fn fields_come_back() {
        check("alice", "d1");
        check("a", "b");
        check(&"u".repeat(64), &"d".repeat(64));
    }
}
