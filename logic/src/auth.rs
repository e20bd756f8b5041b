//! Who somebody is: keys, access tokens, refresh tokens, passwords.
//!
//! Invariants:
//! * The key id fixes app and algorithm; a token's own words about them are compared, never believed.
//! * Secrets, tokens and passwords are never logged and never stored: passwords as argon2id, refresh tokens as SHA-256.
//! * Sample secrets exist in [`dev`] alone and work in development only.

pub mod keys;
pub mod password;
pub mod refresh;
pub mod token;

pub use roost_protocol::dev;

pub use keys::{KeyMaterial, Keys, KeysError, VerificationKey, app_keys};
