//! The operator's HTTP: /livez, /readyz and /metrics. On loopback unless configured otherwise: there is no authentication.
//!
//! Live means this thread answers. Ready means a new client is welcome: not draining, the bus confirms, there is a free place, and no
//! other gateway has this one's name.

use std::fmt::Write;
use std::sync::Arc;

use axum::Router;
use axum::extract::{RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;

use crate::gateway::Status;
use crate::io::acceptor::AcceptPause;
use crate::metrics::exposition::{CONTENT_TYPE, Exposition};

/// What the handlers read.
#[derive(Debug)]
pub(crate) struct AdminState {
    pub(crate) status: Arc<Status>,
    pub(crate) exposition: Exposition,
}

/// Serves until dropped.
pub(crate) async fn serve(listener: TcpListener, state: AdminState) {
    let router = Router::new()
        .route("/livez", get(|| async { "live\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(Arc::new(state));
    if let Err(error) = axum::serve(listener, router).await {
        tracing::error!(%error, "the admin endpoint ended");
    }
}

async fn metrics(State(state): State<Arc<AdminState>>) -> Response {
    let text = state.exposition.text(|out| state.status.append_metrics(out));
    ([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response()
}

async fn readyz(State(state): State<Arc<AdminState>>, RawQuery(query): RawQuery) -> Response {
    let is_verbose = query.is_some_and(|q| q.split('&').any(|part| part.starts_with("verbose")));
    let (is_ready, text) = report(&state.status, is_verbose);
    let code = if is_ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, text).into_response()
}

/// Whether a new client is welcome, and one line per check when verbose.
fn report(status: &Status, is_verbose: bool) -> (bool, String) {
    let control = &status.control;
    let bus_is_well = control.bus_failing.get() == 0 && control.consumer_open.get() == 1;
    let pause = status.acceptor.pause();
    let membership = status.membership();
    let mut checks = vec![
        ("draining", !status.is_draining(), if status.is_draining() { "yes" } else { "no" }),
        ("bus", bus_is_well, if bus_is_well { "ok" } else { "does not confirm or deliver" }),
        ("accepting", pause == AcceptPause::None, pause_text(pause)),
    ];
    if let Some((is_well, text)) = &membership {
        checks.push(("membership", *is_well, text));
    }
    let is_ready = checks.iter().all(|(_, is_well, _)| *is_well);
    let mut text = String::from(if is_ready { "ready\n" } else { "not ready\n" });
    if is_verbose {
        for (name, is_well, value) in checks {
            let mark = if is_well { "ok " } else { "BAD" };
            // A String takes everything.
            let _ = writeln!(text, "[{mark}] {name}: {value}");
        }
        let sum = |of: fn(&crate::metrics::ShardCounters) -> u64| -> u64 {
            status.shards.iter().map(|shard| of(shard)).sum()
        };
        let _ = writeln!(text, "driver: {}", status.driver_reason);
        let _ = writeln!(text, "shards: {}", status.shards.len());
        let _ = writeln!(text, "connections: {}", sum(|s| s.connections.get()));
        let _ = writeln!(text, "sessions: {}", sum(|s| s.sessions.get()));
        let _ = writeln!(text, "room for connections: {}", status.capacity);
    }
    (is_ready, text)
}

fn pause_text(pause: AcceptPause) -> &'static str {
    match pause {
        AcceptPause::None => "yes",
        AcceptPause::ShardsFull => {
            "no, every place is taken: raise limits.connections_max or RLIMIT_NOFILE, or add a gateway"
        }
        AcceptPause::ResourceShortage => "no, the kernel has no descriptor or memory left",
        AcceptPause::Stopped => "no, stopped",
    }
}
