//! The HTTP API: accounts and tokens for people, and everything a client can do over a connection also for servers.
//!
//! Who asks is settled by [`caller::Caller`], what a user may read by membership, and every error is a problem document
//! (RFC 9457) with a stable `code` and a `hint`. Messages go through the bus like those of a gateway: this node has a delivery
//! queue of its own, so that the worker's order and rules are the same for both.

mod accounts;
mod caller;
mod conversations;
mod extract;
mod json;
mod locate;
mod messages;
mod openapi;
mod problem;
mod rate_limit;
mod sender;
mod server;
mod users;

use std::sync::Arc;

use arc_swap::ArcSwap;
use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::{get, post};
use roost_membership::ring::Ring;

use crate::auth::Keys;
use crate::auth::password::Passwords;
use crate::auth::refresh::RefreshTokens;
use crate::auth::token::Tokens;
use crate::clock::Clock;
use crate::config::LogicConfig;
use crate::store::SharedStore;
use problem::{Code, Problem};
use rate_limit::RateLimit;
pub(crate) use sender::BusSender;
pub(crate) use server::serve;

/// What handlers share.
pub(crate) struct Api {
    pub(crate) config: LogicConfig,
    pub(crate) store: SharedStore,
    pub(crate) clock: Clock,
    pub(crate) keys: Keys,
    pub(crate) tokens: Tokens,
    pub(crate) refresh_tokens: RefreshTokens,
    pub(crate) passwords: Passwords,
    pub(crate) ring: Arc<ArcSwap<Ring>>,
    pub(crate) sender: BusSender,
    logins: RateLimit,
}

type Shared = axum::extract::State<Arc<Api>>;

impl Api {
    pub(crate) fn new(
        config: LogicConfig,
        keys: Keys,
        store: SharedStore,
        clock: Clock,
        ring: Arc<ArcSwap<Ring>>,
        sender: BusSender,
    ) -> Self {
        Self {
            tokens: Tokens::new(&keys),
            refresh_tokens: RefreshTokens::new(Arc::clone(&store), &keys, &config.tokens),
            passwords: Passwords::new(&config.passwords),
            logins: RateLimit::new(config.http.logins_per_minute),
            config,
            store,
            clock,
            keys,
            ring,
            sender,
        }
    }

    fn now_s(&self) -> u64 {
        self.clock.now_ms() / 1_000
    }
}

/// All routes. The OpenAPI document lists the same ones; a test compares them.
pub(crate) fn router(api: Arc<Api>) -> Router {
    let body_bytes_max = api.config.http.body_bytes_max;
    Router::new()
        .route("/v1/register", post(accounts::register))
        .route("/v1/login", post(accounts::login))
        .route("/v1/refresh", post(accounts::refresh))
        .route("/v1/logout", post(accounts::logout))
        .route("/v1/me", get(accounts::me).put(accounts::set_me))
        .route("/.well-known/jwks.json", get(accounts::jwks))
        .route("/v1/locate", get(locate::locate))
        .route("/v1/users", post(users::add_users))
        .route("/v1/users/{user}/inbox", get(conversations::inbox))
        .route("/v1/messages", post(messages::send))
        .route("/v1/conversations/{conversation}/messages", get(conversations::history))
        .route("/v1/conversations/{conversation}/watermarks", get(conversations::watermarks))
        .route("/v1/conversations/{conversation}/receipts", post(messages::receipt))
        .route("/v1/openapi.json", get(openapi::document))
        .fallback(no_route)
        .method_not_allowed_fallback(no_method)
        .layer(DefaultBodyLimit::max(body_bytes_max))
        .with_state(api)
}

async fn no_route(uri: axum::http::Uri) -> Problem {
    Problem::new(Code::NotFound, format!("there is no {}", uri.path()))
}

async fn no_method(method: axum::http::Method, uri: axum::http::Uri) -> Problem {
    Problem::new(Code::MethodNotAllowed, format!("{} does not take {method}", uri.path()))
}

#[cfg(test)]
mod tests;
