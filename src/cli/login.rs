//! Verbs that act as one user: what `roost send`, `roost tail` and `roost token` share.
//!
//! Each failure says what happened and what to do next; a message handed over is never silently lost.

use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, anyhow};
use roost_client::{Client, Config, Disconnect, Event, NextStep, Start};
use roost_protocol::{CloseReason, UserId};

use super::token::{Signer, TTL_S_MAX};
use crate::config::Config as ServerConfig;

/// The gateway is given this long for the first session: it asks logic for a key that it does not know 5 s after it asked last, and the pauses
/// between attempts have grown by then.
const CONNECT_DEADLINE: Duration = Duration::from_secs(20);
/// The frames of `roost dev`.
const DEFAULT_SERVER: &str = "127.0.0.1:7401";

/// Who acts, and where.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Login {
    /// The user to act as.
    #[arg(long = "as", value_name = "USER")]
    pub(crate) user: String,
    /// Where the gateway listens for frames. Default: the gateways of --config, else 127.0.0.1:7401.
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) server: Option<String>,
    /// Access token of that user, from POST /v1/login or your own server. Without one a key of --config is used, or that of `roost dev`.
    #[arg(long, value_name = "TOKEN", env = "ROOST_TOKEN", hide_env_values = true)]
    pub(crate) token: Option<String>,
    /// A configuration of the cluster: its gateways, and the first HS256 key of its apps.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Id of this device; a random one by default, so that two terminals do not disturb each other.
    #[arg(long, value_name = "ID")]
    pub(crate) device: Option<String>,
}

impl Login {
    fn access_token(&self) -> anyhow::Result<String> {
        let signer = match (&self.token, &self.config) {
            (Some(token), _) => return Ok(token.clone()),
            (None, Some(file)) => Signer::of_config(&ServerConfig::load(file)?, file)?,
            (None, None) => Signer::of_dev(),
        };
        signer.mint(&self.user, TTL_S_MAX)
    }

    /// Gateways to try, at least one.
    fn servers(&self) -> anyhow::Result<Vec<String>> {
        match (&self.server, &self.config) {
            (Some(server), _) => Ok(vec![server.clone()]),
            (None, Some(file)) => {
                let ring = ServerConfig::load(file)?.cluster.ring().map_err(anyhow::Error::msg)?;
                Ok(ring.members().iter().map(|member| member.address.to_string()).collect())
            }
            (None, None) => Ok(vec![DEFAULT_SERVER.to_owned()]),
        }
    }

    fn config(&self, verb: &str, start: Start) -> anyhow::Result<Config> {
        UserId::new(&self.user).map_err(|e| anyhow!("--as {}: {e}", self.user))?;
        let seed = Config::random_seed()?;
        let device = match &self.device {
            Some(device) => device.clone(),
            None => format!("{verb}-{:08x}", seed as u32),
        };
        let servers = self.servers()?;
        let mut config = Config::new(&self.user, &device, &servers[0], seed);
        config.addresses = servers.iter().map(|server| server.as_str().into()).collect();
        config.client_name = format!("roost-{verb}/{}", env!("CARGO_PKG_VERSION"));
        config.token = Some(self.access_token()?);
        config.start = start;
        Ok(config)
    }

    /// Connects and waits for the session.
    pub(crate) async fn open(&self, verb: &str, start: Start) -> anyhow::Result<Client> {
        let client = Client::connect(self.config(verb, start)?)?;
        let on_the_way = std::cell::RefCell::new(Disconnect::ConnectTimeout);
        // One gateway of several may be away, or be restarted just now: each is tried twice.
        let mut tries_left = match self.servers()?.len() {
            1 => 1,
            several => 2 * several,
        };
        let connected = async {
            loop {
                match client.next_event().await {
                    Event::Connected { .. } => return Ok(()),
                    Event::Disconnected { reason: Disconnect::ConnectFailed, .. }
                        if tries_left > 1 =>
                    {
                        tries_left -= 1;
                    }
                    Event::Disconnected { reason, .. } if !is_on_the_way(&reason) => {
                        return Err(self.explain(&reason, client.last_socket_error()));
                    }
                    Event::Disconnected { reason, .. } => *on_the_way.borrow_mut() = reason,
                    Event::Acked(_)
                    | Event::Refused { .. }
                    | Event::Message(_)
                    | Event::Receipt(_)
                    | Event::Synced { .. }
                    | Event::History { .. }
                    | Event::RequestRefused { .. } => {}
                }
            }
        };
        match tokio::time::timeout(CONNECT_DEADLINE, connected).await {
            Ok(outcome) => outcome.map(|()| client),
            Err(_) => Err(self.explain(&on_the_way.borrow(), None)),
        }
    }

    /// What a person can do about the end of a connection.
    fn explain(&self, reason: &Disconnect, socket_error: Option<String>) -> anyhow::Error {
        let server = self.servers().map_or_else(|_| "it".to_owned(), |all| all.join(", "));
        match reason {
            Disconnect::ConnectFailed => {
                let why = socket_error.unwrap_or_else(|| "no connection".to_owned());
                anyhow!(
                    "no Roost gateway can be reached at {server}: {why}\n\
                     Start one with `roost dev`, or name another with --server HOST:PORT."
                )
            }
            Disconnect::ConnectTimeout | Disconnect::Lost | Disconnect::Protocol(_) => anyhow!(
                "{server} accepts connections but does not answer like a Roost gateway: {reason}\n\
                 Frames are spoken on the TCP port (7401 of `roost dev`), not on the HTTP port."
            ),
            Disconnect::OtherUser(user) => {
                anyhow!("the token is of user {user}, not of {}: use --as {user}", self.user)
            }
            Disconnect::ByServer { reason: close, .. } => match self.advice(*close) {
                Some(advice) => anyhow!("{reason}\n{advice}"),
                None => anyhow!("{reason}"),
            },
            Disconnect::Silent
            | Disconnect::Redirected(_)
            | Disconnect::SessionOver
            | Disconnect::Closed => anyhow!("{reason}"),
        }
    }

    fn advice(&self, reason: CloseReason) -> Option<&'static str> {
        let own_token = self.token.is_some();
        match reason {
            CloseReason::BadToken if own_token => Some(
                "The token is malformed, forged, or of a key this server does not know. Log in again (POST /v1/login) and \
                 pass the new access token with --token.",
            ),
            CloseReason::BadToken => Some(
                "This server does not know the key of `roost dev`. Log in (POST /v1/login) and pass the access token with \
                 --token.",
            ),
            CloseReason::TokenExpired if own_token => Some(
                "Log in again (POST /v1/login) or use the refresh token (POST /v1/refresh), and pass the new access token \
                 with --token.",
            ),
            CloseReason::TokenExpired => {
                Some("Is this machine's clock right? The token was made a moment ago.")
            }
            CloseReason::Superseded | CloseReason::KickedByOtherDevice => {
                Some("Another connection of this device took over: use another --device.")
            }
            CloseReason::TooManySessionsPerUser => {
                Some("Close other sessions of this user, or wait until they have ended.")
            }
            CloseReason::TooManyConnectionsPerIp
            | CloseReason::RateLimited
            | CloseReason::GatewayFull
            | CloseReason::Draining => Some("Try again in a moment."),
            CloseReason::UnsupportedVersion => Some("Use the `roost` of the server's version."),
            CloseReason::Normal
            | CloseReason::ConnectTimeout
            | CloseReason::IdleTimeout
            | CloseReason::SlowConsumer
            | CloseReason::ConnectExpected
            | CloseReason::UnexpectedFrame
            | CloseReason::UnknownKind
            | CloseReason::BadHeader
            | CloseReason::FrameTooLarge
            | CloseReason::BadPayload
            | CloseReason::TooManyInflight
            | CloseReason::PeerClosed
            | CloseReason::SocketError
            | CloseReason::Redirected
            | CloseReason::Internal => None,
            CloseReason::KeysUnavailable => Some(
                "The gateway could not ask logic for the key of this token: is logic running, and does the gateway's \
                 cluster.logic name it?",
            ),
        }
    }

    /// After a session: whether to go on waiting for the next one.
    pub(crate) fn on_disconnected(
        &self,
        client: &Client,
        reason: &Disconnect,
        next: NextStep,
    ) -> anyhow::Result<()> {
        match next {
            NextStep::Reconnect(_) => {
                // A resume token that another run of the server made: the access token follows at once.
                let by_resume =
                    matches!(reason, Disconnect::ByServer { reason: CloseReason::BadToken, .. });
                if !by_resume {
                    eprintln!("{reason}; connecting again");
                }
                Ok(())
            }
            NextStep::NeedToken if self.token.is_none() => {
                client.provide_token(self.access_token()?);
                Ok(())
            }
            NextStep::NeedToken | NextStep::Stopped => Err(self.explain(reason, None)),
        }
    }
}

/// Ends of connections that the first session follows without anybody's help.
pub(crate) fn is_on_the_way(reason: &Disconnect) -> bool {
    match reason {
        Disconnect::Redirected(_) => true,
        Disconnect::ByServer { reason, .. } => {
            matches!(reason, CloseReason::Redirected | CloseReason::KeysUnavailable)
        }
        Disconnect::Lost
        | Disconnect::ConnectFailed
        | Disconnect::ConnectTimeout
        | Disconnect::Silent
        | Disconnect::Protocol(_)
        | Disconnect::SessionOver
        | Disconnect::OtherUser(_)
        | Disconnect::Closed => false,
    }
}

pub(crate) fn unix_seconds() -> anyhow::Result<u64> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock is before 1970")?;
    Ok(now.as_secs())
}

pub(crate) fn block_on<T>(body: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(body)
}
