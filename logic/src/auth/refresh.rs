//! Refresh tokens that rotate. Each is used once; what descends from one login is a family.
//!
//! ```text
//! unused              -> successor, and this one is used
//! used, within grace  -> the same successor: the first answer may have been lost on the way
//! used, later         -> somebody else has it too: the family is revoked
//! ```
//! The successor is an HMAC of the token, so it needs not be kept to be given twice; the store has only hashes.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};

use super::keys::{Keys, keyed_hash};
use crate::config::TokenSettings;
use crate::store::{RefreshFamily, RefreshToken, Rotation, SharedStore, StoreError};

/// Why a refresh token gives nothing.
#[derive(Debug, thiserror::Error)]
pub enum RefreshError {
    /// Unknown, expired or revoked.
    #[error("the refresh token is not valid")]
    Invalid,
    /// Used again after the grace: the login is revoked.
    #[error("the refresh token was used before; its login is revoked")]
    Reused,
    /// The store is away.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What a refresh token gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refreshed {
    /// Tenant.
    pub app: String,
    /// User.
    pub user: String,
    /// The token to use next time.
    pub refresh_token: String,
}

/// Gives and rotates refresh tokens.
pub struct RefreshTokens {
    store: SharedStore,
    secret: [u8; 32],
    ttl_ms: u64,
    grace_ms: u64,
}

impl std::fmt::Debug for RefreshTokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RefreshTokens").field("ttl_ms", &self.ttl_ms).finish_non_exhaustive()
    }
}

impl RefreshTokens {
    /// Over this store.
    pub fn new(store: SharedStore, keys: &Keys, settings: &TokenSettings) -> Self {
        let millis = |d: std::time::Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
        Self {
            store,
            secret: keys.derived_secret("roost refresh tokens 1"),
            ttl_ms: millis(settings.refresh_ttl),
            grace_ms: millis(settings.refresh_grace),
        }
    }

    /// The first token of a login.
    ///
    /// # Errors
    /// When the store is away.
    pub async fn open(&self, app: &str, user: &str, now_ms: u64) -> Result<String, StoreError> {
        let (mut token, mut family) = ([0; 32], [0; 16]);
        getrandom::fill(&mut token)
            .and_then(|()| getrandom::fill(&mut family))
            .map_err(|e| StoreError::Unavailable(e.to_string()))?;
        let row = RefreshFamily {
            family,
            app: app.to_owned(),
            user: user.to_owned(),
            created_ms: now_ms,
            token_hash: hash(&token),
            expires_ms: now_ms.saturating_add(self.ttl_ms),
        };
        self.store.open_family(&row).await?;
        Ok(URL_SAFE_NO_PAD.encode(token))
    }

    /// Uses a token.
    ///
    /// # Errors
    /// When it is not valid, was used before, or the store is away.
    pub async fn rotate(&self, token: &str, now_ms: u64) -> Result<Refreshed, RefreshError> {
        let (token, row) = self.find(token).await?;
        if row.revoked || now_ms >= row.expires_ms {
            return Err(RefreshError::Invalid);
        }
        let successor = keyed_hash(&self.secret, &token);
        match row.used_ms {
            None => {
                let rotation = Rotation {
                    family: row.family,
                    token_hash: hash(&token),
                    used_ms: now_ms,
                    successor_hash: hash(&successor),
                    successor_expires_ms: now_ms.saturating_add(self.ttl_ms),
                };
                self.store.rotate(&rotation).await?;
            }
            Some(used_ms) if now_ms.saturating_sub(used_ms) <= self.grace_ms => {}
            Some(_) => {
                self.store.revoke_family(row.family, now_ms).await?;
                return Err(RefreshError::Reused);
            }
        }
        let refresh_token = URL_SAFE_NO_PAD.encode(successor);
        Ok(Refreshed { app: row.app, user: row.user, refresh_token })
    }

    /// Ends a login. An unknown token has none to end.
    ///
    /// # Errors
    /// When the store is away.
    pub async fn revoke(&self, token: &str, now_ms: u64) -> Result<(), StoreError> {
        match self.find(token).await {
            Ok((_, row)) => self.store.revoke_family(row.family, now_ms).await,
            Err(RefreshError::Store(error)) => Err(error),
            Err(RefreshError::Invalid | RefreshError::Reused) => Ok(()),
        }
    }

    async fn find(&self, token: &str) -> Result<([u8; 32], RefreshToken), RefreshError> {
        let token: [u8; 32] = URL_SAFE_NO_PAD
            .decode(token)
            .ok()
            .and_then(|bytes| bytes.try_into().ok())
            .ok_or(RefreshError::Invalid)?;
        let row = self.store.refresh_token(hash(&token)).await?;
        Ok((token, row.ok_or(RefreshError::Invalid)?))
    }
}

fn hash(token: &[u8; 32]) -> [u8; 32] {
    Sha256::digest(token).into()
}
