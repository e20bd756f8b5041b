//! `roost token`: an access token signed with the well-known key of `roost dev`, or with an app's own key of a configuration.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, anyhow, ensure};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use roost_logic::config::KeyAlgorithm;
use roost_protocol::{UserId, dev};

use crate::config::Config;

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
    /// Sign with the first HS256 key of this configuration instead of the key of `roost dev`.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// What signs a token.
pub(super) struct Signer {
    app: String,
    key_id: String,
    secret: String,
}

impl Signer {
    /// The well-known key. Its tokens are accepted by `roost dev` alone.
    pub(super) fn of_dev() -> Self {
        Self { app: dev::APP.into(), key_id: dev::KEY_ID.into(), secret: dev::SECRET.into() }
    }

    /// The first HS256 key of a configuration.
    pub(super) fn of_config(config: &Config, file: &Path) -> anyhow::Result<Self> {
        let keys = config.logic.apps.iter().flat_map(|app| app.keys.iter().map(move |k| (app, k)));
        let (app, key) =
            { keys }.find(|(_, key)| key.algorithm == KeyAlgorithm::Hs256).with_context(|| {
                format!("{} has no [[logic.apps.keys]] of algorithm HS256", file.display())
            })?;
        Ok(Self { app: app.id.clone(), key_id: key.id.clone(), secret: key.secret.clone() })
    }

    /// A token for `user`.
    pub(super) fn mint(&self, user: &str, ttl_s: u64) -> anyhow::Result<String> {
        UserId::new(user).map_err(|e| anyhow!("--as {user}: {e}"))?;
        let now = super::login::unix_seconds()?;
        let mut header = Header::new(Algorithm::HS256);
        header.kid = Some(self.key_id.clone());
        let claims =
            serde_json::json!({ "app": self.app, "sub": user, "iat": now, "exp": now + ttl_s });
        Ok(encode(&header, &claims, &EncodingKey::from_secret(self.secret.as_bytes()))?)
    }
}

/// Prints the token, and nothing else.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    ensure!(args.ttl <= TTL_S_MAX, "--ttl {}: at most {TTL_S_MAX} seconds", args.ttl);
    let signer = match &args.config {
        Some(file) => Signer::of_config(&Config::load(file)?, file)?,
        None => Signer::of_dev(),
    };
    println!("{}", signer.mint(&args.user, args.ttl)?);
    Ok(ExitCode::SUCCESS)
}
