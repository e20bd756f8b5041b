//! Keeps the keys of login tokens: those that logic processes publish at `/.well-known/jwks.json`.
//!
//! ```text
//!            every process answered                      REFRESH_INTERVAL, or a shard met an unknown key
//!  Asking ─────────────────────────► Settled ──────────────────────────────────────────────────► Asking
//!     └── one did not: its last keys stay, asked again after a pause that grows
//! ```
//! Invariants: keys of the configuration win over published ones of the same id; what a process published last counts until it
//! publishes something else, however long it is away; nothing that comes from there is allocated from its own words.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes, to_bytes};
use axum::http::{Request, header};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::clock::system_us;
use crate::gateway::GatewayContext;
use crate::metrics::ControlCounters;
use crate::session::jwks::{self, JWKS_BYTES_MAX, PublishedKey};
use crate::session::key_refresh::KeyRefresh;
use crate::session::keys::VerificationKeys;

/// A process has this long to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// From one question that everybody answered to the next.
const REFRESH_INTERVAL: Duration = Duration::from_secs(300);
/// Nobody is asked again within this time, whatever shards meet.
const REFETCH_PAUSE: Duration = Duration::from_secs(5);
/// Pause after somebody did not answer; doubled each time.
const RETRY_FIRST: Duration = Duration::from_millis(250);
const RETRY_MAX: Duration = Duration::from_secs(10);

/// The HTTP address of a logic process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogicAddress(String);

impl LogicAddress {
    /// From `http://HOST:PORT`.
    ///
    /// # Errors
    /// What to write instead.
    pub fn parse(text: &str) -> Result<Self, String> {
        let authority = text.strip_prefix("http://").map(|rest| rest.trim_end_matches('/'));
        let is_one = |authority: &&str| {
            let (host, port) = authority.rsplit_once(':').unwrap_or_default();
            let is_host = !host.is_empty() && !host.contains(['/', '@', '?', '#', ' ']);
            is_host && port.parse::<u16>().is_ok_and(|port| port > 0)
        };
        match authority.filter(is_one) {
            Some(authority) => Ok(Self(authority.to_owned())),
            None => Err(format!("{text:?} is not of the form \"http://HOST:PORT\" (no TLS yet)")),
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum FetchError {
    #[error("no answer in {ANSWER_TIMEOUT:?}")]
    Timeout,
    #[error("{0}")]
    Connect(#[from] io::Error),
    #[error("{0}")]
    Http(#[from] hyper::Error),
    #[error("status {0}")]
    Status(u16),
    #[error("the answer is larger than {JWKS_BYTES_MAX} bytes, or ended early")]
    Body,
    #[error("the answer is no key set: {0}")]
    NoKeySet(#[from] serde_json::Error),
}

/// A logic process and what it published last.
struct Source {
    address: LogicAddress,
    keys: Vec<PublishedKey>,
    is_well: bool,
}

/// See the module text.
pub(super) struct KeyKeeper {
    context: Arc<GatewayContext>,
    counters: Arc<ControlCounters>,
    refresh: Arc<KeyRefresh>,
    configured: VerificationKeys,
    sources: Vec<Source>,
}

impl KeyKeeper {
    pub(super) fn new(
        processes: Vec<LogicAddress>,
        refresh: Arc<KeyRefresh>,
        context: Arc<GatewayContext>,
        counters: Arc<ControlCounters>,
    ) -> Self {
        let source = |address| Source { address, keys: Vec::new(), is_well: true };
        Self {
            configured: context.handshake.keys(),
            sources: processes.into_iter().map(source).collect(),
            refresh,
            context,
            counters,
        }
    }

    /// Works for ever. Ends when dropped.
    pub(super) async fn run(mut self) {
        let mut pause = RETRY_FIRST;
        loop {
            let is_complete = self.ask_all().await;
            self.counters.login_keys_complete.set(u64::from(is_complete));
            self.refresh.settle(if is_complete { system_us() / 1_000_000 } else { 0 });
            if is_complete {
                pause = RETRY_FIRST;
                // So forged tokens cost logic one question in this time.
                tokio::time::sleep(REFETCH_PAUSE).await;
                tokio::select! {
                    () = tokio::time::sleep(REFRESH_INTERVAL) => {}
                    () = self.refresh.asked() => {}
                }
            } else {
                self.counters.login_keys_failures.increment();
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(RETRY_MAX);
            }
        }
    }

    /// Asks every process at the same time; whether all answered.
    async fn ask_all(&mut self) -> bool {
        let asked = self.sources.iter().map(|source| ask(&source.address));
        let answers = futures_util::future::join_all(asked).await;
        let mut is_changed = false;
        for (source, answer) in self.sources.iter_mut().zip(answers) {
            let address = &source.address.0;
            match answer {
                Ok(mut keys) => {
                    keys.sort();
                    is_changed |= source.keys != keys;
                    source.keys = keys;
                    if !std::mem::replace(&mut source.is_well, true) {
                        tracing::info!(address, "logic tells its keys again");
                    }
                }
                Err(error) => {
                    if std::mem::replace(&mut source.is_well, false) {
                        tracing::warn!(address, %error, "logic does not tell the keys of login tokens; its last ones stay");
                    }
                }
            }
        }
        if is_changed {
            self.publish();
        }
        self.sources.iter().all(|source| source.is_well)
    }

    fn publish(&self) {
        let mut keys = self.configured.clone();
        let published: BTreeSet<&PublishedKey> =
            self.sources.iter().flat_map(|source| &source.keys).collect();
        let mut count = 0;
        for key in published {
            if self.configured.contains(&key.id) {
                tracing::warn!(id = key.id, "logic publishes a key of a configured id; ours stays");
            } else if let Err(error) = keys.add_ed25519(&key.id, None, &key.public) {
                tracing::warn!(%error, "logic publishes a key that is none");
            } else {
                count += 1;
            }
        }
        tracing::info!(count, "keys of login tokens are known");
        self.context.handshake.set_keys(keys);
        self.counters.login_keys.set(count);
    }
}

async fn ask(address: &LogicAddress) -> Result<Vec<PublishedKey>, FetchError> {
    let body = tokio::time::timeout(ANSWER_TIMEOUT, get(&address.0, "/.well-known/jwks.json"));
    Ok(jwks::parse(&body.await.map_err(|_| FetchError::Timeout)??)?)
}

async fn get(authority: &str, path: &str) -> Result<Bytes, FetchError> {
    let stream = TcpStream::connect(authority).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let exchange = async {
        let request = Request::get(path)
            .header(header::HOST, authority)
            .header(header::CONNECTION, "close")
            .body(Body::empty())
            .map_err(|_| FetchError::Status(0))?;
        let response = sender.send_request(request).await?;
        let status = response.status();
        if !status.is_success() {
            return Err(FetchError::Status(status.as_u16()));
        }
        to_bytes(Body::new(response.into_body()), JWKS_BYTES_MAX)
            .await
            .map_err(|_| FetchError::Body)
    };
    // The connection is driven here and ends with this call.
    tokio::pin!(exchange);
    tokio::select! {
        biased;
        answer = &mut exchange => answer,
        ended = connection => match ended {
            Ok(()) => exchange.await,
            Err(error) => Err(error.into()),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use axum::Router;
    use axum::http::StatusCode;
    use axum::routing::get;
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use ed25519_dalek::SigningKey;
    use serde_json::json;
    use tokio::task::JoinHandle;

    use super::*;
    use crate::clock::WallClock;
    use crate::config::GatewayConfig;
    use crate::session::directory::Directory;
    use crate::session::handshake::Handshake;
    use crate::session::resume_token::ResumeKey;

    #[test]
    fn addresses_are_http_host_port() {
        let check = |text: &str, is_one: bool| {
            assert_eq!(LogicAddress::parse(text).is_ok(), is_one, "{text}");
        };
        check("http://127.0.0.1:7400", true);
        check("http://[::1]:7400/", true);
        check("http://logic.example:80", true);
        for wrong in ["", "127.0.0.1:7400", "https://a:1", "http://a", "http://a:0", "http://a:b"] {
            check(wrong, false);
        }
        check("http://user@a:1", false);
        check("http://a/x:1", false);
    }

    /// A logic process that publishes what it is told to.
    struct Logic {
        address: LogicAddress,
        answer: Arc<Mutex<(StatusCode, String)>>,
        server: JoinHandle<()>,
    }

    fn set(ids: &[&str]) -> String {
        let keys: Vec<_> = ids
            .iter()
            .map(|id| {
                let seed = [id.as_bytes()[0]; 32];
                let x = URL_SAFE_NO_PAD.encode(SigningKey::from_bytes(&seed).verifying_key());
                json!({"kty": "OKP", "crv": "Ed25519", "kid": id, "x": x})
            })
            .collect();
        json!({"keys": keys}).to_string()
    }

    impl Logic {
        async fn start() -> Self {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = format!("http://{}", listener.local_addr().unwrap());
            let answer = Arc::new(Mutex::new((StatusCode::OK, set(&[]))));
            let shown = Arc::clone(&answer);
            let show = move || async move { shown.lock().unwrap().clone() };
            let router = Router::new().route("/.well-known/jwks.json", get(show));
            let server = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
            Self { address: LogicAddress::parse(&address).unwrap(), answer, server }
        }

        fn publish(&self, ids: &[&str]) {
            *self.answer.lock().unwrap() = (StatusCode::OK, set(ids));
        }
    }

    fn keeper(processes: &[&Logic]) -> KeyKeeper {
        let mut configured = VerificationKeys::new();
        configured.add_hs256("shop", Some("shop"), &[1; 32]).unwrap();
        let refresh = Arc::new(KeyRefresh::default());
        let handshake = Handshake::new(configured, ResumeKey::new(b"secret"));
        let context = Arc::new(GatewayContext {
            handshake: handshake.refreshed_by(Arc::clone(&refresh)),
            directory: Arc::new(Directory::new("gw", 0)),
            placement: None,
            clock: WallClock::system(),
            config: GatewayConfig::default(),
        });
        let processes = processes.iter().map(|logic| logic.address.clone()).collect();
        KeyKeeper::new(processes, refresh, context, Arc::default())
    }

    #[track_caller]
    fn check(keeper: &KeyKeeper, present: &[&str], absent: &[&str]) {
        let keys = keeper.context.handshake.keys();
        for id in present {
            assert!(keys.contains(id), "{id} is missing");
        }
        for id in absent {
            assert!(!keys.contains(id), "{id} is there");
        }
    }

    #[tokio::test]
    async fn what_a_process_published_last_counts() {
        let (one, two) = (Logic::start().await, Logic::start().await);
        let mut keeper = keeper(&[&one, &two]);
        one.publish(&["a", "shop"]);
        two.publish(&["b"]);
        assert!(keeper.ask_all().await);
        check(&keeper, &["a", "b", "shop"], &[]);
        assert_eq!(keeper.counters.login_keys.get(), 2, "the configured key of this id stays");

        // One publishes another key, and the other answers nonsense, too much, an error, nothing, or is away.
        one.publish(&["c"]);
        let nonsense = [
            (StatusCode::OK, "<html>".to_owned()),
            (StatusCode::OK, " ".repeat(JWKS_BYTES_MAX + 1)),
            (StatusCode::INTERNAL_SERVER_ERROR, set(&["d"])),
        ];
        for answer in nonsense {
            *two.answer.lock().unwrap() = answer;
            assert!(!keeper.ask_all().await);
            check(&keeper, &["b", "c", "shop"], &["a", "d"]);
        }
        two.server.abort();
        _ = two.server.await;
        assert!(!keeper.ask_all().await);
        check(&keeper, &["b", "c", "shop"], &["a", "d"]);
    }

    #[tokio::test]
    async fn a_process_that_does_not_answer_is_not_waited_for() {
        let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = LogicAddress(silent.local_addr().unwrap().to_string());
        tokio::time::pause();
        assert!(matches!(ask(&address).await, Err(FetchError::Timeout)));
    }

    #[tokio::test]
    async fn an_unknown_key_is_asked_for_and_found() {
        let logic = Logic::start().await;
        let keeper = keeper(&[&logic]);
        let (context, refresh) = (Arc::clone(&keeper.context), Arc::clone(&keeper.refresh));
        let counters = Arc::clone(&keeper.counters);
        let running = tokio::spawn(keeper.run());
        let until = async |is_so: &dyn Fn() -> bool| {
            let waited = async {
                while !is_so() {
                    tokio::task::yield_now().await;
                }
            };
            tokio::time::timeout(Duration::from_secs(30), waited).await.expect("in time");
        };
        until(&|| counters.login_keys_complete.get() == 1).await;
        assert!(refresh.knows_all_until(system_us() / 1_000_000 - 60));
        logic.publish(&["a"]);
        // As a shard does that meets a key it does not know.
        refresh.ask();
        until(&|| context.handshake.keys().contains("a")).await;
        running.abort();
    }
}
