//! `roost token`: an access token signed with the well-known key of `roost dev`.

use std::process::ExitCode;

use anyhow::{anyhow, ensure};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use roost_protocol::{UserId, dev};

/// Longest life of such a token.
pub(super) const TTL_S_MAX: u64 = 24 * 3600;

/// Arguments of `roost token`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The user the token is for.
    #[arg(long = "as", value_name = "USER")]
    user: String,
    /// Seconds until it expires, at most a day.
    #[arg(long, value_name = "S", default_value_t = 3600)]
    ttl: u64,
}

/// Prints the token, and nothing else.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    ensure!(args.ttl <= TTL_S_MAX, "--ttl {}: at most {TTL_S_MAX} seconds", args.ttl);
    println!("{}", mint(&args.user, args.ttl)?);
    Ok(ExitCode::SUCCESS)
}

/// A token for `user` of the development app. Accepted by `roost dev` alone.
pub(super) fn mint(user: &str, ttl_s: u64) -> anyhow::Result<String> {
    UserId::new(user).map_err(|e| anyhow!("--as {user}: {e}"))?;
    let now = super::login::unix_seconds()?;
    let mut header = Header::new(Algorithm::HS256);
    header.kid = Some(dev::KEY_ID.to_owned());
    let claims =
        serde_json::json!({ "app": dev::APP, "sub": user, "iat": now, "exp": now + ttl_s });
    Ok(encode(&header, &claims, &EncodingKey::from_secret(dev::SECRET.as_bytes()))?)
}
