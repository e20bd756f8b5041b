//! The public keys that logic signs login tokens with, as it publishes them (RFC 7517, RFC 8037).
//!
//! Invariant: only Ed25519 keys for signatures come out, so that nothing in the set can choose an algorithm. Others are passed over,
//! as the standard wants it. Does no I/O.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use roost_protocol::id::check_id;
use serde::Deserialize;

/// Bytes of a key set: one that is longer is none of ours.
pub const JWKS_BYTES_MAX: usize = 64 * 1024;
/// Keys taken from one set.
const KEYS_MAX: usize = 64;

/// A key and its id.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PublishedKey {
    /// `kid`.
    pub id: String,
    /// Ed25519 public key.
    pub public: [u8; 32],
}

#[derive(Deserialize)]
struct Set {
    keys: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    kty: String,
    kid: Option<String>,
    crv: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    usage: Option<String>,
    x: Option<String>,
}

impl Entry {
    fn into_key(self) -> Option<PublishedKey> {
        let is_or_absent = |field: &Option<String>, wanted| {
            field.as_ref().is_none_or(|value| value.as_str() == wanted)
        };
        let is_ours = self.kty == "OKP"
            && self.crv.as_deref() == Some("Ed25519")
            && is_or_absent(&self.alg, "EdDSA")
            && is_or_absent(&self.usage, "sig");
        let id = self.kid.filter(|id| is_ours && check_id(id).is_ok())?;
        let public = URL_SAFE_NO_PAD.decode(self.x?).ok()?.try_into().ok()?;
        Some(PublishedKey { id, public })
    }
}

/// The usable keys of a set.
///
/// # Errors
/// When it is not a key set.
pub fn parse(bytes: &[u8]) -> Result<Vec<PublishedKey>, serde_json::Error> {
    let set: Set = serde_json::from_slice(bytes)?;
    Ok(set.keys.into_iter().filter_map(Entry::into_key).take(KEYS_MAX).collect())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn entry() -> Value {
        let x = URL_SAFE_NO_PAD.encode([7; 32]);
        json!({"kty": "OKP", "crv": "Ed25519", "use": "sig", "alg": "EdDSA", "kid": "k1", "x": x})
    }

    #[track_caller]
    fn check(field: &str, value: Value, is_taken: bool) {
        let mut entry = entry();
        entry[field] = value;
        let keys = parse(json!({"keys": [entry]}).to_string().as_bytes()).unwrap();
        assert_eq!(keys.len(), usize::from(is_taken), "{field}");
    }

    #[test]
    fn ed25519_keys_for_signatures_are_taken_and_no_others() {
        check("kid", json!("k1"), true);
        check("alg", Value::Null, true);
        check("use", Value::Null, true);
        check("alg", json!("HS256"), false);
        check("kty", json!("oct"), false);
        check("crv", json!("X25519"), false);
        check("crv", Value::Null, false);
        check("use", json!("enc"), false);
        check("kid", Value::Null, false);
        check("kid", json!("a b"), false);
        check("kid", json!("k".repeat(65)), false);
        check("x", json!(URL_SAFE_NO_PAD.encode([7; 31])), false);
        check("x", json!("\u{1F600}"), false);
    }

    #[test]
    fn what_is_no_set_is_an_error() {
        for text in ["", "{}", "[]", "{\"keys\": {}}", "{\"keys\": [1]}", "<html>"] {
            assert!(parse(text.as_bytes()).is_err(), "{text}");
        }
        let many = json!({"keys": vec![entry(); KEYS_MAX + 1]});
        assert_eq!(parse(many.to_string().as_bytes()).unwrap().len(), KEYS_MAX);
    }
}
