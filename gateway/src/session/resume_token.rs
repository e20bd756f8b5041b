//! Resume tokens: proof of an earlier login that any gateway with the same secret checks in about a microsecond.
//!
//! Bound to app, user, device and session epoch; valid for two hours at most and never longer than the access token it came from.
//! It is no secret from its own client and carries nothing else.
//!
//! ```text
//! base64url( version 1 | valid_until_s 4 | session_expires_s 4 | epoch 8 | app_bytes 1 | user_bytes 1 | device_bytes 1
//!            | app | user | device | tag 16 )          all numbers little-endian
//! tag = first 16 bytes of HMAC-SHA256(key, everything before); key = HMAC-SHA256(gateway secret, "roost resume v1")
//! ```

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use roost_protocol::CloseReason;
use roost_protocol::limits::ID_BYTES_MAX;
use sha2::Sha256;

/// Longest life of a resume token.
pub const RESUME_LIFE_S: u32 = 2 * 3600;

const VERSION: u8 = 1;
const FIXED_BYTES: usize = 1 + 4 + 4 + 8 + 3;
const TAG_BYTES: usize = 16;
const BYTES_MAX: usize = FIXED_BYTES + 3 * ID_BYTES_MAX + TAG_BYTES;

/// What a resume token is bound to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resume<'a> {
    /// Tenant.
    pub app: &'a str,
    /// User.
    pub user: &'a str,
    /// Device: only it may use the token.
    pub device: &'a str,
    /// Epoch of the session it was given to.
    pub epoch: u64,
    /// When the access token of the login expires, and with it every session resumed from it; seconds since 1970.
    pub session_expires_s: u32,
}

/// Makes and checks resume tokens.
#[derive(Clone)]
pub struct ResumeKey(Hmac<Sha256>);

impl std::fmt::Debug for ResumeKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ResumeKey")
    }
}

impl ResumeKey {
    /// A key derived from the gateway's secret.
    pub fn new(secret: &[u8]) -> Self {
        Self(keyed(&keyed(secret).chain_update("roost resume v1").finalize().into_bytes()))
    }

    /// A random key: tokens end with the process.
    ///
    /// # Errors
    /// When the system has no randomness.
    pub fn random() -> std::io::Result<Self> {
        let mut secret = [0; 32];
        getrandom::fill(&mut secret).map_err(std::io::Error::other)?;
        Ok(Self::new(&secret))
    }

    /// Appends a token, made at `now_s`, to `out`.
    pub fn issue(&self, resume: &Resume<'_>, now_s: u64, out: &mut String) {
        let two_hours = now_s.saturating_add(u64::from(RESUME_LIFE_S));
        let valid_until_s =
            u32::try_from(two_hours).unwrap_or(u32::MAX).min(resume.session_expires_s);
        let mut bytes = Vec::with_capacity(BYTES_MAX);
        bytes.push(VERSION);
        bytes.extend_from_slice(&valid_until_s.to_le_bytes());
        bytes.extend_from_slice(&resume.session_expires_s.to_le_bytes());
        bytes.extend_from_slice(&resume.epoch.to_le_bytes());
        let ids = [resume.app, resume.user, resume.device];
        // Ids were checked: none is longer than 64 bytes.
        bytes.extend(ids.iter().map(|id| u8::try_from(id.len()).unwrap_or(u8::MAX)));
        ids.iter().for_each(|id| bytes.extend_from_slice(id.as_bytes()));
        let tag = self.0.clone().chain_update(&bytes).finalize().into_bytes();
        bytes.extend_from_slice(&tag[..TAG_BYTES]);
        URL_SAFE_NO_PAD.encode_string(&bytes, out);
    }

    /// Checks a token and hands what it is bound to to `read`; it lives in this call's buffer.
    ///
    /// # Errors
    /// `TokenExpired`, and `BadToken` for everything else.
    pub fn verify<R>(
        &self,
        token: &str,
        now_s: u64,
        read: impl FnOnce(&Resume<'_>) -> Result<R, CloseReason>,
    ) -> Result<R, CloseReason> {
        let bad = CloseReason::BadToken;
        let mut buffer = [0; BYTES_MAX + 3];
        let count = URL_SAFE_NO_PAD.decode_slice(token, &mut buffer).map_err(|_| bad)?;
        let (signed, tag) = buffer[..count].split_last_chunk::<TAG_BYTES>().ok_or(bad)?;
        self.0.clone().chain_update(signed).verify_truncated_left(tag).map_err(|_| bad)?;
        let (valid_until_s, resume) = parse(signed).ok_or(bad)?;
        if now_s >= u64::from(valid_until_s) {
            return Err(CloseReason::TokenExpired);
        }
        read(&resume)
    }
}

fn keyed(secret: &[u8]) -> Hmac<Sha256> {
    Hmac::new_from_slice(secret).expect("HMAC takes keys of any length")
}

fn parse(signed: &[u8]) -> Option<(u32, Resume<'_>)> {
    let (fixed, text) = signed.split_first_chunk::<FIXED_BYTES>()?;
    let u32_at = |at: usize| fixed[at..].first_chunk().copied().map(u32::from_le_bytes);
    if fixed[0] != VERSION {
        return None;
    }
    let epoch = fixed[9..].first_chunk().copied().map(u64::from_le_bytes)?;
    let [app, user, device] = [fixed[17], fixed[18], fixed[19]].map(usize::from);
    if text.len() != app + user + device {
        return None;
    }
    let text_at = |from: usize, bytes: usize| std::str::from_utf8(&text[from..from + bytes]).ok();
    let resume = Resume {
        app: text_at(0, app)?,
        user: text_at(app, user)?,
        device: text_at(app + user, device)?,
        epoch,
        session_expires_s: u32_at(5)?,
    };
    Some((u32_at(1)?, resume))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_S: u64 = 1_800_000_000;

    fn resume() -> Resume<'static> {
        Resume {
            app: "demo",
            user: "alice",
            device: "d1",
            epoch: 1_800_000_000_000_001,
            session_expires_s: 1_800_000_900,
        }
    }

    fn token(resume: &Resume<'_>) -> String {
        let mut token = String::new();
        ResumeKey::new(b"secret").issue(resume, NOW_S, &mut token);
        token
    }

    #[track_caller]
    fn check(token: &str, at_s: u64, expected: Result<(), CloseReason>) {
        let read = |r: &Resume<'_>| {
            assert_eq!(*r, resume());
            Ok(())
        };
        assert_eq!(ResumeKey::new(b"secret").verify(token, at_s, read), expected);
    }

    #[test]
    fn round_trip_until_expiry() {
        let token = token(&resume());
        check(&token, NOW_S, Ok(()));
        check(&token, NOW_S + 899, Ok(()));
        check(&token, NOW_S + 900, Err(CloseReason::TokenExpired));
        assert!(token.len() < 100, "{token}");
    }

    #[test]
    fn two_hours_at_most() {
        let long = Resume { session_expires_s: u32::MAX, ..resume() };
        let key = ResumeKey::new(b"secret");
        let read = |at_s| key.verify(&token(&long), at_s, |r| Ok(r.session_expires_s));
        assert_eq!(read(NOW_S + 7199), Ok(u32::MAX));
        assert_eq!(read(NOW_S + 7200), Err(CloseReason::TokenExpired));
    }

    #[test]
    fn every_changed_byte_is_noticed() {
        let token = token(&resume());
        for at in 0..token.len() {
            let mut changed = token.clone().into_bytes();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).unwrap();
            check(&changed, NOW_S, Err(CloseReason::BadToken));
        }
        for cut in 0..token.len() {
            check(&token[..cut], NOW_S, Err(CloseReason::BadToken));
        }
        check(&"A".repeat(5000), NOW_S, Err(CloseReason::BadToken));
    }

    #[test]
    fn another_secret_is_refused() {
        let other = ResumeKey::random().unwrap();
        let refused = other.verify(&token(&resume()), NOW_S, |_| Ok(()));
        assert_eq!(refused, Err(CloseReason::BadToken));
    }

    #[test]
    fn longest_ids_fit() {
        let id = "x".repeat(ID_BYTES_MAX);
        let long = Resume { app: &id, user: &id, device: &id, ..resume() };
        let key = ResumeKey::new(b"secret");
        let read = |r: &Resume<'_>| Ok(*r == long);
        assert_eq!(key.verify(&token(&long), NOW_S, read), Ok(true));
    }
}
