//! Access tokens: made with the installation's key, checked against every key.

use std::collections::HashMap;

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use roost_protocol::id::check_id;
use serde::{Deserialize, Serialize};

use super::keys::{KeyMaterial, Keys, hex};

/// Clocks of those who mint and those who check may differ by this much, as at the gateways.
const CLOCK_SKEW_S: u64 = 30;

/// What an access token says.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Claims {
    /// Who made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iss: Option<String>,
    /// Tenant.
    pub app: String,
    /// User.
    pub sub: String,
    /// Made at, seconds since 1970.
    pub iat: u64,
    /// Valid until, seconds since 1970.
    pub exp: u64,
    /// Unique.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jti: Option<String>,
}

/// Why a token is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Malformed, of an unknown key, of another algorithm or app, or wrongly signed.
    #[error("the token is not valid")]
    Bad,
    /// It was valid once.
    #[error("the token has expired")]
    Expired,
}

/// Makes and checks access tokens.
pub struct Tokens {
    signing: EncodingKey,
    header: Header,
    by_id: HashMap<String, (Option<String>, Algorithm, DecodingKey)>,
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokens").field("keys", &self.by_id.len()).finish()
    }
}

impl Tokens {
    /// From the installation's keys.
    pub fn new(keys: &Keys) -> Self {
        let mut header = Header::new(Algorithm::EdDSA);
        header.kid = Some(keys.signing_id().to_owned());
        let by_id = keys.verification().iter().map(|key| {
            let (algorithm, decoding) = match &key.material {
                KeyMaterial::Hs256(secret) => (Algorithm::HS256, DecodingKey::from_secret(secret)),
                KeyMaterial::Ed25519(public) => {
                    (Algorithm::EdDSA, DecodingKey::from_ed_der(public))
                }
            };
            (key.id.clone(), (key.app.clone(), algorithm, decoding))
        });
        Self {
            signing: EncodingKey::from_ed_der(&keys.signing_der()),
            header,
            by_id: by_id.collect(),
        }
    }

    /// A token for a user; `None` when signing fails, which a sound key does not.
    pub fn mint(&self, app: &str, user: &str, now_s: u64, ttl_s: u64) -> Option<String> {
        let mut jti = [0; 12];
        getrandom::fill(&mut jti).ok()?;
        let claims = Claims {
            iss: Some("roost".to_owned()),
            app: app.to_owned(),
            sub: user.to_owned(),
            iat: now_s,
            exp: now_s + ttl_s,
            jti: Some(hex(&jti)),
        };
        jsonwebtoken::encode(&self.header, &claims, &self.signing).ok()
    }

    /// Who holds this token.
    ///
    /// # Errors
    /// When it is not valid now.
    pub fn verify(&self, token: &str, now_s: u64) -> Result<Claims, TokenError> {
        let header = jsonwebtoken::decode_header(token).map_err(|_| TokenError::Bad)?;
        let key = header.kid.as_ref().and_then(|id| self.by_id.get(id));
        let (app, algorithm, key) = key.ok_or(TokenError::Bad)?;
        let mut validation = Validation::new(*algorithm);
        validation.set_required_spec_claims(&["exp"]);
        // Checked below against the given time: the library would read the clock.
        validation.validate_exp = false;
        validation.validate_aud = false;
        let claims = jsonwebtoken::decode::<Claims>(token, key, &validation)
            .map_err(|_| TokenError::Bad)?
            .claims;
        let is_app = app.as_ref().is_none_or(|app| *app == claims.app);
        let is_sound = check_id(&claims.app).is_ok() && check_id(&claims.sub).is_ok();
        if !is_app || !is_sound || claims.iat > now_s.saturating_add(CLOCK_SKEW_S) {
            return Err(TokenError::Bad);
        }
        if now_s >= claims.exp.saturating_add(CLOCK_SKEW_S) {
            return Err(TokenError::Expired);
        }
        Ok(claims)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::dev;
    use crate::config::LogicConfig;

    const NOW_S: u64 = 1_800_000_000;

    fn tokens() -> (Tokens, Keys) {
        let dir = tempfile::tempdir().unwrap();
        let config = LogicConfig { data_dir: dir.path().to_path_buf(), ..LogicConfig::default() };
        let keys = Keys::open(&config, true).unwrap();
        (Tokens::new(&keys), keys)
    }

    #[test]
    fn a_minted_token_is_valid_until_it_expires() {
        let (tokens, _) = tokens();
        let token = tokens.mint("demo", "alice", NOW_S, 900).unwrap();
        let claims = tokens.verify(&token, NOW_S).unwrap();
        assert_eq!((claims.app.as_str(), claims.sub.as_str()), ("demo", "alice"));
        assert!(tokens.verify(&token, NOW_S + 929).is_ok());
        assert_eq!(tokens.verify(&token, NOW_S + 930).unwrap_err(), TokenError::Expired);
        assert_eq!(tokens.verify(&token[..token.len() - 4], NOW_S).unwrap_err(), TokenError::Bad);
    }

    #[test]
    fn a_key_speaks_for_its_app_and_algorithm_only() {
        let (tokens, keys) = tokens();
        let sign = |kid: &str, app: &str, secret: &[u8]| {
            let mut header = Header::new(Algorithm::HS256);
            header.kid = Some(kid.to_owned());
            let claims =
                serde_json::json!({"app": app, "sub": "alice", "iat": NOW_S, "exp": NOW_S + 60});
            jsonwebtoken::encode(&header, &claims, &EncodingKey::from_secret(secret)).unwrap()
        };
        let dev = dev::SECRET.as_bytes();
        assert!(tokens.verify(&sign(dev::KEY_ID, dev::APP, dev), NOW_S).is_ok());
        let public = match &keys.verification()[0].material {
            KeyMaterial::Ed25519(public) => *public,
            KeyMaterial::Hs256(_) => [0; 32],
        };
        for token in [
            sign(dev::KEY_ID, "other", dev),
            sign("nobody", dev::APP, dev),
            sign(&keys.verification()[0].id, dev::APP, &public),
        ] {
            assert_eq!(tokens.verify(&token, NOW_S).unwrap_err(), TokenError::Bad);
        }
    }
}
