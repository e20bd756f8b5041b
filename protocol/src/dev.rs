//! The well-known secrets of `roost dev`. **Everybody knows them.** They are accepted in development only: a configuration that
//! contains one is refused.

/// The app of `roost dev`.
pub const APP: &str = "demo";
/// Id of the key that development tokens are signed with (HS256).
pub const KEY_ID: &str = "dev";
/// Its secret.
pub const SECRET: &str = "roost-dev-secret-never-use-outside-dev";
/// API key of servers of the app [`APP`].
pub const API_KEY: &str = "roost-dev-api-key-never-use-outside-dev";
/// Users that exist in `roost dev` from the start.
pub const USERS: [&str; 2] = ["alice", "bob"];

/// Whether a secret is one of these, or was made from one.
pub fn is_sample(secret: &str) -> bool {
    secret.contains("roost-dev-")
}
