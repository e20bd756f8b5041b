//! Verification keys by key id, and the check of a JSON Web Token against them.
//!
//! Invariants:
//! * The key id fixes the algorithm and the app: a token's own words about either are only compared, never believed.
//! * Nothing in a token is read as meaning before its signature is right.
//! * No input panics, and nothing is allocated from a declared length.
//!
//! Deliberately not the JWT library that logic signs with: keys are prepared once (HMAC state, decompressed curve point) and
//! claims are read in place, which is most of the cost of an HS256 check. The library is the oracle in the tests.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ed25519_dalek::{Signature, VerifyingKey};
use hashbrown::HashMap;
use hmac::{Hmac, KeyInit, Mac};
use roost_protocol::CloseReason;
use roost_protocol::id::check_id;
use roost_protocol::limits::TOKEN_BYTES_MAX;
use serde::Deserialize;
use sha2::Sha256;

/// Clocks of those who mint and those who check may differ by this much.
pub const CLOCK_SKEW_S: u32 = 30;
/// RFC 7518, 3.2: a key for HS256 has at least the size of the hash.
pub const HS256_SECRET_BYTES_MIN: usize = 32;
/// Base64 text decodes to three quarters of its length.
const PART_BYTES_MAX: usize = TOKEN_BYTES_MAX / 4 * 3;

/// A key that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Too short for HS256.
    #[error("key {0:?}: an HS256 secret has at least 32 bytes")]
    SecretTooShort(String),
    /// Not a point of the curve, or one of small order.
    #[error("key {0:?}: not an Ed25519 public key")]
    NotEd25519(String),
}

/// All keys that tokens may be signed with.
#[derive(Debug, Default, Clone)]
pub struct VerificationKeys {
    by_id: HashMap<String, Key>,
}

#[derive(Clone)]
struct Key {
    /// Tokens of this key are for this app only; `None`: the system's own key, for the app the token names.
    app: Option<String>,
    secret: Secret,
}

#[derive(Clone)]
enum Secret {
    /// HMAC-SHA256 after its two key blocks: cloned for each check.
    Hs256(Hmac<Sha256>),
    EdDsa(Box<VerifyingKey>),
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let algorithm = match self.secret {
            Secret::Hs256(_) => "HS256",
            Secret::EdDsa(_) => "EdDSA",
        };
        f.debug_struct("Key").field("app", &self.app).field("algorithm", &algorithm).finish()
    }
}

impl VerificationKeys {
    /// No key: no token is accepted.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an HS256 key for one app (`None`: for the app that the token names).
    ///
    /// # Errors
    /// When the secret is too short.
    pub fn add_hs256(
        &mut self,
        id: &str,
        app: Option<&str>,
        secret: &[u8],
    ) -> Result<(), KeyError> {
        if secret.len() < HS256_SECRET_BYTES_MIN {
            return Err(KeyError::SecretTooShort(id.to_owned()));
        }
        let state =
            Hmac::new_from_slice(secret).map_err(|_| KeyError::SecretTooShort(id.to_owned()))?;
        self.insert(id, app, Secret::Hs256(state));
        Ok(())
    }

    /// Adds an Ed25519 public key, as [`add_hs256`](Self::add_hs256) does.
    ///
    /// # Errors
    /// When the bytes are no key.
    pub fn add_ed25519(
        &mut self,
        id: &str,
        app: Option<&str>,
        public: &[u8; 32],
    ) -> Result<(), KeyError> {
        let key = VerifyingKey::from_bytes(public).ok().filter(|key| !key.is_weak());
        let key = key.ok_or_else(|| KeyError::NotEd25519(id.to_owned()))?;
        self.insert(id, app, Secret::EdDsa(Box::new(key)));
        Ok(())
    }

    fn insert(&mut self, id: &str, app: Option<&str>, secret: Secret) {
        self.by_id.insert(id.to_owned(), Key { app: app.map(str::to_owned), secret });
    }

    /// Checks a token and hands its claims to `read`; they live in this call's buffer.
    ///
    /// # Errors
    /// `TokenExpired`, and `BadToken` for everything else.
    pub fn verify<R>(
        &self,
        token: &str,
        now_s: u64,
        read: impl FnOnce(&VerifiedClaims<'_>) -> Result<R, CloseReason>,
    ) -> Result<R, CloseReason> {
        let bad = CloseReason::BadToken;
        let (message, signature) = token.rsplit_once('.').ok_or(bad)?;
        let (header, claims) = message.split_once('.').ok_or(bad)?;
        let mut buffer = [0u8; PART_BYTES_MAX + 3];
        let key = self.key_of(decode(header, &mut buffer)?)?;
        let signature = decode(signature, &mut buffer)?;
        key.check_signature(message.as_bytes(), signature)?;
        let claims: Claims<'_> =
            serde_json::from_slice(decode(claims, &mut buffer)?).map_err(|_| bad)?;
        read(&key.check_claims(&claims, now_s)?)
    }

    /// When the token says that it was made, in seconds since 1970, if its key is not here: perhaps one that its signer has made since. Its
    /// signature is not checked, so the time is good for nothing but the advice to come again.
    pub fn made_with_unknown_key(&self, token: &str) -> Option<u64> {
        let mut parts = token.split('.');
        let mut buffer = [0u8; PART_BYTES_MAX + 3];
        let header = decode(parts.next()?, &mut buffer).ok()?;
        let header: Header<'_> = serde_json::from_slice(header).ok()?;
        if self.by_id.contains_key(&*header.kid) {
            return None;
        }
        let claims = decode(parts.next()?, &mut buffer).ok()?;
        let claims: Claims<'_> = serde_json::from_slice(claims).ok()?;
        Some(claims.iat.0)
    }

    /// Whether there is a key of this id.
    pub fn contains(&self, id: &str) -> bool {
        self.by_id.contains_key(id)
    }

    fn key_of(&self, header: &[u8]) -> Result<&Key, CloseReason> {
        let header: Header<'_> =
            serde_json::from_slice(header).map_err(|_| CloseReason::BadToken)?;
        let key = self.by_id.get(&*header.kid).ok_or(CloseReason::BadToken)?;
        let algorithm = match key.secret {
            Secret::Hs256(_) => "HS256",
            Secret::EdDsa(_) => "EdDSA",
        };
        // `crit` names extensions that must be understood: there are none.
        if header.alg == algorithm && header.crit.is_none() {
            Ok(key)
        } else {
            Err(CloseReason::BadToken)
        }
    }
}

impl Key {
    fn check_signature(&self, message: &[u8], signature: &[u8]) -> Result<(), CloseReason> {
        let right = match &self.secret {
            Secret::Hs256(state) => {
                let mut state = state.clone();
                state.update(message);
                state.verify_slice(signature).is_ok()
            }
            Secret::EdDsa(key) => Signature::from_slice(signature)
                .is_ok_and(|signature| key.verify_strict(message, &signature).is_ok()),
        };
        if right { Ok(()) } else { Err(CloseReason::BadToken) }
    }

    fn check_claims<'c>(
        &self,
        claims: &'c Claims<'c>,
        now_s: u64,
    ) -> Result<VerifiedClaims<'c>, CloseReason> {
        let bad = CloseReason::BadToken;
        let is_app = self.app.as_ref().is_none_or(|app| *app == claims.app);
        if !is_app || check_id(&claims.app).is_err() || check_id(&claims.sub).is_err() {
            return Err(bad);
        }
        let latest = now_s.saturating_add(u64::from(CLOCK_SKEW_S));
        let is_future = |s: NumericDate| s.0 > latest;
        if is_future(claims.iat) || claims.nbf.is_some_and(is_future) {
            return Err(bad);
        }
        let ends_s = claims.exp.0.saturating_add(u64::from(CLOCK_SKEW_S));
        if now_s >= ends_s {
            return Err(CloseReason::TokenExpired);
        }
        let expires_s = u32::try_from(ends_s).unwrap_or(u32::MAX);
        Ok(VerifiedClaims { app: &claims.app, user: &claims.sub, expires_s })
    }
}

/// What a valid token says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VerifiedClaims<'a> {
    /// Tenant.
    pub app: &'a str,
    /// User.
    pub user: &'a str,
    /// End of validity in seconds since 1970, the allowed clock skew included.
    pub expires_s: u32,
}

#[derive(Deserialize)]
struct Header<'a> {
    #[serde(borrow)]
    alg: Cow<'a, str>,
    #[serde(borrow)]
    kid: Cow<'a, str>,
    crit: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
struct Claims<'a> {
    #[serde(borrow)]
    app: Cow<'a, str>,
    #[serde(borrow)]
    sub: Cow<'a, str>,
    exp: NumericDate,
    iat: NumericDate,
    nbf: Option<NumericDate>,
}

/// Seconds since 1970; RFC 7519 allows fractions, which are cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct NumericDate(u64);

impl<'de> Deserialize<'de> for NumericDate {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let number = f64::deserialize(from)?;
        // Beyond 2^53 seconds nobody counts; the cast saturates.
        if number >= 0.0 {
            Ok(Self(number as u64))
        } else {
            Err(serde::de::Error::custom("negative"))
        }
    }
}

fn decode<'b>(part: &str, buffer: &'b mut [u8]) -> Result<&'b [u8], CloseReason> {
    let bytes = URL_SAFE_NO_PAD.decode_slice(part, buffer).map_err(|_| CloseReason::BadToken)?;
    Ok(&buffer[..bytes])
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::SigningKey;
    use ed25519_dalek::pkcs8::EncodePrivateKey;
    use jsonwebtoken::{Algorithm, EncodingKey, Header as JwtHeader};
    use serde_json::{Value, json};

    use super::*;

    const NOW_S: u64 = 1_800_000_000;
    const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";

    fn signing_key() -> SigningKey {
        SigningKey::from_bytes(&[7; 32])
    }

    fn keys() -> VerificationKeys {
        let mut keys = VerificationKeys::new();
        keys.add_hs256("dev", Some("demo"), SECRET).unwrap();
        keys.add_ed25519("sys", None, signing_key().verifying_key().as_bytes()).unwrap();
        keys
    }

    fn claims() -> Value {
        json!({"app": "demo", "sub": "alice", "iat": NOW_S, "exp": NOW_S + 900})
    }

    fn sign(kid: &str, algorithm: Algorithm, key: &EncodingKey, claims: &Value) -> String {
        let mut header = JwtHeader::new(algorithm);
        header.kid = Some(kid.to_owned());
        jsonwebtoken::encode(&header, claims, key).unwrap()
    }

    fn hs256(claims: &Value) -> String {
        sign("dev", Algorithm::HS256, &EncodingKey::from_secret(SECRET), claims)
    }

    fn eddsa(kid: &str, claims: &Value) -> String {
        let der = signing_key().to_pkcs8_der().unwrap();
        sign(kid, Algorithm::EdDSA, &EncodingKey::from_ed_der(der.as_bytes()), claims)
    }

    fn verify(token: &str) -> Result<(String, String, u32), CloseReason> {
        keys().verify(token, NOW_S, |c| Ok((c.app.to_owned(), c.user.to_owned(), c.expires_s)))
    }

    #[track_caller]
    fn check(token: &str, expected: Result<&str, CloseReason>) {
        assert_eq!(verify(token).map(|(_, user, _)| user), expected.map(str::to_owned), "{token}");
    }

    #[track_caller]
    fn check_claim(name: &str, value: Value, expected: Result<&str, CloseReason>) {
        let mut claims = claims();
        claims[name] = value;
        check(&hs256(&claims), expected);
    }

    #[test]
    fn tokens_of_the_library_are_accepted() {
        check(&hs256(&claims()), Ok("alice"));
        check(&eddsa("sys", &claims()), Ok("alice"));
        let (app, _, expires_s) = verify(&hs256(&claims())).unwrap();
        assert_eq!((app.as_str(), u64::from(expires_s)), ("demo", NOW_S + 930));
    }

    #[test]
    fn the_key_fixes_algorithm_and_app() {
        let bad = Err(CloseReason::BadToken);
        // The classic confusion: the public key taken for an HMAC secret.
        let public = signing_key().verifying_key();
        let confused = EncodingKey::from_secret(public.as_bytes());
        check(&sign("sys", Algorithm::HS256, &confused, &claims()), bad);
        check(&eddsa("dev", &claims()), bad);
        check(&sign("dev", Algorithm::HS512, &EncodingKey::from_secret(SECRET), &claims()), bad);
        check_claim("app", json!("other"), bad);
        let mut other = claims();
        other["app"] = json!("other");
        check(&eddsa("sys", &other), Ok("alice"));
        check(&sign("nobody", Algorithm::HS256, &EncodingKey::from_secret(SECRET), &claims()), bad);
    }

    #[test]
    fn unsigned_tokens_are_refused() {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        for alg in ["none", "None", "HS256", "EdDSA"] {
            let header = part(&json!({"alg": alg, "kid": "dev"}));
            check(&format!("{header}.{}.", part(&claims())), Err(CloseReason::BadToken));
        }
    }

    #[test]
    fn claims_are_required_and_checked() {
        let bad = Err(CloseReason::BadToken);
        for name in ["app", "sub", "exp", "iat"] {
            check_claim(name, Value::Null, bad);
        }
        check_claim("sub", json!("a b"), bad);
        check_claim("sub", json!(""), bad);
        check_claim("sub", json!("u".repeat(65)), bad);
        check_claim("sub", json!("al\u{69}ce"), Ok("alice"));
        check_claim("exp", json!("soon"), bad);
        check_claim("exp", json!(-1), bad);
        check_claim("exp", json!(1e300), Ok("alice"));
        check_claim("jti", json!({"any": [1, 2, {"thing": null}]}), Ok("alice"));
    }

    #[test]
    fn times_have_thirty_seconds_of_skew() {
        check_claim("exp", json!(NOW_S - 29), Ok("alice"));
        check_claim("exp", json!(NOW_S - 30), Err(CloseReason::TokenExpired));
        check_claim("exp", json!(NOW_S as f64 - 28.5), Ok("alice"));
        check_claim("iat", json!(NOW_S + 30), Ok("alice"));
        check_claim("iat", json!(NOW_S + 31), Err(CloseReason::BadToken));
        check_claim("nbf", json!(NOW_S + 31), Err(CloseReason::BadToken));
    }

    #[test]
    fn every_changed_byte_is_noticed() {
        let token = hs256(&claims());
        for at in 0..token.len() {
            let mut changed = token.clone().into_bytes();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            check(&String::from_utf8(changed).unwrap(), Err(CloseReason::BadToken));
        }
    }

    #[test]
    fn garbage_is_refused() {
        for token in ["", ".", "..", "...", "a.b.c", "e30.e30.e30", "\u{1F600}.\u{1F600}.x"] {
            check(token, Err(CloseReason::BadToken));
        }
        check(&"A".repeat(TOKEN_BYTES_MAX), Err(CloseReason::BadToken));
        let long = "A".repeat(10 * TOKEN_BYTES_MAX);
        check(&format!("{long}.{long}.{long}"), Err(CloseReason::BadToken));
        let deep = URL_SAFE_NO_PAD.encode("[".repeat(1000));
        check(&format!("{deep}.{deep}.x"), Err(CloseReason::BadToken));
    }

    #[test]
    fn unusable_keys_are_refused() {
        let mut keys = VerificationKeys::new();
        assert!(matches!(keys.add_hs256("k", None, b"short"), Err(KeyError::SecretTooShort(_))));
        let mut small_order = [0; 32];
        small_order[0] = 1;
        assert!(matches!(keys.add_ed25519("k", None, &small_order), Err(KeyError::NotEd25519(_))));
    }

    proptest::proptest! {
        #[test]
        fn no_input_panics(token in "[A-Za-z0-9._-]{0,300}|.{0,100}") {
            let _ = verify(&token);
        }
    }
}
