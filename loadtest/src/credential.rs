//! Access tokens of virtual users, minted as an integrator's server would.
//!
//! Without options that is with the public key of `roost dev`, [`roost_protocol::dev`].

use std::time::{SystemTime, UNIX_EPOCH};

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde::Serialize;

/// Longer than any run.
const LIFETIME_S: u64 = 24 * 3600;

#[derive(Serialize)]
struct Claims<'a> {
    app: &'a str,
    sub: &'a str,
    iat: u64,
    exp: u64,
}

/// Signs tokens with one HS256 key.
#[derive(Clone)]
pub struct TokenMint {
    app: String,
    header: Header,
    key: EncodingKey,
    now_s: u64,
}

impl TokenMint {
    /// A mint with the key `key_id` of `app`.
    #[must_use]
    pub fn new(app: &str, key_id: &str, secret: &str) -> Self {
        let mut header = Header::new(Algorithm::HS256);
        header.kid = Some(key_id.to_owned());
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            app: app.to_owned(),
            header,
            key: EncodingKey::from_secret(secret.as_bytes()),
            now_s: now.as_secs(),
        }
    }

    /// A token for `user`.
    #[must_use]
    pub fn token(&self, user: &str) -> String {
        let claims = Claims {
            app: &self.app,
            sub: user,
            iat: self.now_s,
            exp: self.now_s.saturating_add(LIFETIME_S),
        };
        jsonwebtoken::encode(&self.header, &claims, &self.key).expect("claims are plain strings")
    }
}
