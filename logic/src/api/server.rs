//! Connections of the HTTP API: how many there may be, and how long a peer may keep one without getting on.
//!
//! Invariant: whatever a peer sends or leaves out, its connection ends: without a request head after `head_timeout`, without the
//! rest of a body or without taking its answer after `body_timeout`. One connection too many is told `busy` and closed.

mod stall;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::{HeaderValue, Request, Response, header};
use axum::response::IntoResponse;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::problem::{Code, Problem};
use super::{Api, router};
use crate::config::HttpSettings;
use stall::StallTimeout;

/// How long requests under way may take after `stop`.
const FINISH_TIMEOUT: Duration = Duration::from_secs(5);
/// Connections beyond the limit that are told so at the same time; further ones are closed without a word.
const REFUSALS_MAX: usize = 64;
/// Accepting failed for lack of descriptors or memory: neither comes back at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until `stop`, then lets requests under way finish, but a client that never ends its request cannot hold the process.
pub(crate) async fn serve(listener: TcpListener, api: Arc<Api>, mut stop: watch::Receiver<bool>) {
    let passwords = api.passwords.clone();
    tokio::spawn(async move { passwords.warm_up().await });
    let settings = api.config.http.clone();
    let places = Places::new(settings.connections_max);
    let router = router(api);
    let graceful = GracefulShutdown::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stopped(&mut stop) => break,
        };
        match accepted {
            Ok((stream, peer)) => {
                if let Some(place) = places.take() {
                    let connection = Connection { stream, peer, place, settings: settings.clone() };
                    tokio::spawn(connection.serve(router.clone(), graceful.watcher()));
                }
            }
            Err(error) => {
                tracing::warn!(%error, "the HTTP server cannot accept");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    // Whoever connects now is refused instead of waiting.
    drop(listener);
    // Late ones end with the process.
    let _ = tokio::time::timeout(FINISH_TIMEOUT, graceful.shutdown()).await;
}

async fn stopped(stop: &mut watch::Receiver<bool>) {
    // An error is a sender that is gone, with the process.
    let _ = stop.wait_for(|stop| *stop).await;
}

struct Places {
    serving: Arc<Semaphore>,
    refusing: Arc<Semaphore>,
}

/// The right to a connection, given back when dropped.
enum Place {
    Served(#[expect(dead_code, reason = "held")] OwnedSemaphorePermit),
    Refused(#[expect(dead_code, reason = "held")] OwnedSemaphorePermit),
}

impl Places {
    fn new(connections_max: usize) -> Self {
        let serving = connections_max.min(Semaphore::MAX_PERMITS);
        Self {
            serving: Arc::new(Semaphore::new(serving)),
            refusing: Arc::new(Semaphore::new(REFUSALS_MAX)),
        }
    }

    fn take(&self) -> Option<Place> {
        let of = |semaphore: &Arc<Semaphore>| Arc::clone(semaphore).try_acquire_owned().ok();
        of(&self.serving).map(Place::Served).or_else(|| of(&self.refusing).map(Place::Refused))
    }
}

struct Connection {
    stream: TcpStream,
    peer: SocketAddr,
    place: Place,
    settings: HttpSettings,
}

impl Connection {
    async fn serve(self, router: Router, watcher: Watcher) {
        let Self { stream, peer, place, settings } = self;
        // Without it an answer may wait for an acknowledgement; a failure only costs time.
        let _ = stream.set_nodelay(true);
        let io = TokioIo::new(StallTimeout::new(stream, settings.body_timeout));
        let is_refused = matches!(place, Place::Refused(_));
        let inner = TowerToHyperService::new(router);
        let service = service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(ConnectInfo(peer));
            let answer = (!is_refused).then(|| inner.call(request));
            async move {
                match answer {
                    Some(answer) => answer.await,
                    None => Ok(too_many()),
                }
            }
        });
        let mut builder = http1::Builder::new();
        builder.timer(TokioTimer::new()).header_read_timeout(settings.head_timeout);
        let connection = watcher.watch(builder.serve_connection(io, service));
        if let Err(error) = connection.await {
            tracing::debug!(%peer, %error, "an HTTP connection ended");
        }
    }
}

fn too_many() -> Response<Body> {
    let mut response = Problem::new(Code::Busy, "too many connections").into_response();
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}
