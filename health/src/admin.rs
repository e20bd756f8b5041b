//! The operator's HTTP: /livez, /readyz, /metrics, and what else a process tells. On loopback unless configured otherwise: there is no authentication.
//!
//! Live means the thread that serves this answers. Ready means that no check is [`Level::Missing`].

use std::fmt::Write;
use std::pin::Pin;
use std::sync::Arc;

use axum::Router;
use axum::extract::{RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;

/// Content type of /metrics.
const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// How much a part matters now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// In order.
    Well,
    /// Away, and done without: slower.
    Degraded,
    /// Not ready without it.
    Missing,
}

impl Level {
    /// `Well`, or what it is otherwise.
    pub fn or(self, is_well: bool) -> Self {
        if is_well { Self::Well } else { self }
    }
}

/// One part of a process.
#[derive(Debug)]
pub struct Check {
    /// Which.
    pub name: &'static str,
    /// How it is.
    pub level: Level,
    /// What a person should know.
    pub text: String,
}

impl Check {
    /// A check.
    pub fn new(name: &'static str, level: Level, text: impl Into<String>) -> Self {
        Self { name, level, text: text.into() }
    }

    /// Of a breaker before something that can be done without.
    pub fn of_breaker(breaker: &crate::Breaker) -> Self {
        let state = breaker.state();
        let level = Level::Degraded.or(state == crate::BreakerState::Closed);
        Self::new(breaker.name(), level, state.as_str())
    }
}

/// Checks are made when they are asked for.
pub type Checks<'a> = Pin<Box<dyn Future<Output = Vec<Check>> + Send + 'a>>;

/// What a tier tells.
pub trait Report: Send + Sync + 'static {
    /// Its parts.
    fn checks(&self) -> Checks<'_>;
    /// What /readyz?verbose says beside the checks.
    fn facts(&self) -> Vec<(&'static str, String)>;
    /// All metrics in the OpenMetrics text format, with the closing EOF line.
    fn metrics(&self) -> String;
}

type Shared = State<Arc<dyn Report>>;

/// Serves until dropped: the report, and what `more` a process tells its operator.
pub async fn serve(listener: TcpListener, report: impl Report, more: Router) {
    if let Err(error) = axum::serve(listener, router(report).merge(more)).await {
        tracing::error!(%error, "the admin endpoint ended");
    }
}

fn router(report: impl Report) -> Router {
    let report: Arc<dyn Report> = Arc::new(report);
    Router::new()
        .route("/livez", get(|| async { "live\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(report)
}

async fn metrics(State(report): Shared) -> Response {
    ([(header::CONTENT_TYPE, CONTENT_TYPE)], report.metrics()).into_response()
}

async fn readyz(State(report): Shared, RawQuery(query): RawQuery) -> Response {
    let is_verbose = query.is_some_and(|q| q.split('&').any(|part| part.starts_with("verbose")));
    let checks = report.checks().await;
    let is_ready = checks.iter().all(|check| check.level != Level::Missing);
    let mut text = String::from(if is_ready { "ready\n" } else { "not ready\n" });
    if is_verbose {
        for Check { name, level, text: value } in checks {
            let mark = match level {
                Level::Well => "ok ",
                Level::Degraded => "-- ",
                Level::Missing => "BAD",
            };
            // A String takes everything.
            _ = writeln!(text, "[{mark}] {name}: {value}");
        }
        for (name, value) in report.facts() {
            _ = writeln!(text, "{name}: {value}");
        }
    }
    let code = if is_ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, text).into_response()
}

#[cfg(test)]
mod tests {
    use axum::body::{Body, to_bytes};
    use axum::http::Request;
    use tower::ServiceExt as _;

    use super::*;

    struct Fixed(Level);

    impl Report for Fixed {
        fn checks(&self) -> Checks<'_> {
            let checks = vec![Check::new("bus", self.0, "so"), Check::new("x", Level::Well, "ok")];
            Box::pin(std::future::ready(checks))
        }
        fn facts(&self) -> Vec<(&'static str, String)> {
            vec![("shards", "2".to_owned())]
        }
        fn metrics(&self) -> String {
            "# EOF\n".to_owned()
        }
    }

    async fn check(level: Level, path: &str, status: u16, expected: &str) {
        let request = Request::get(path).body(Body::empty()).unwrap();
        let response = router(Fixed(level)).oneshot(request).await.unwrap();
        assert_eq!(response.status().as_u16(), status, "{path}");
        let body = to_bytes(response.into_body(), 10_000).await.unwrap();
        assert_eq!(String::from_utf8_lossy(&body), expected, "{path}");
    }

    #[tokio::test]
    async fn only_what_is_missing_makes_a_process_not_ready() {
        check(Level::Well, "/readyz", 200, "ready\n").await;
        let verbose = "ready\n[-- ] bus: so\n[ok ] x: ok\nshards: 2\n";
        check(Level::Degraded, "/readyz?verbose", 200, verbose).await;
        let verbose = "not ready\n[BAD] bus: so\n[ok ] x: ok\nshards: 2\n";
        check(Level::Missing, "/readyz?verbose", 503, verbose).await;
        check(Level::Missing, "/livez", 200, "live\n").await;
        check(Level::Well, "/metrics", 200, "# EOF\n").await;
    }
}
