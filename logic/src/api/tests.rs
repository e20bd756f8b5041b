//! The HTTP API over a real worker and bus, by the routes alone.

mod accounts;
mod roles;
mod shapes;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::{Method, Request, StatusCode, header};
use roost_bus::Bus;
use roost_bus::in_process::InProcessBus;
use roost_membership::ring::{Member, Ring};
use roost_membership::{BoxFuture, Routes, RoutesUnavailable};
use roost_trace::Traces;
use serde_json::{Value, json};
use tokio::sync::watch;
use tower::ServiceExt;

use super::{Api, BusSender, router};
use crate::auth::{Keys, dev};
use crate::clock::Clock;
use crate::config::{LogicConfig, PasswordSettings};
use crate::ids::MessageIds;
use crate::store::SharedStore;
use crate::store::sqlite::SqliteStore;
use crate::worker::{Parts, Worker};

struct Nobody;

impl Routes for Nobody {
    fn gateways_of<'a>(
        &'a self,
        _app: &'a str,
        users: &'a [&'a str],
    ) -> BoxFuture<'a, Result<Vec<Vec<Arc<str>>>, RoutesUnavailable>> {
        Box::pin(async move { Ok(vec![Vec::new(); users.len()]) })
    }
}

/// A server without sockets.
struct Server {
    router: Router,
    time: Arc<AtomicU64>,
    _stop: watch::Sender<bool>,
    _dir: tempfile::TempDir,
}

/// An answer.
struct Answer {
    status: StatusCode,
    headers: axum::http::HeaderMap,
    body: Value,
}

impl Server {
    async fn start() -> Self {
        Self::with(|_| {}).await
    }

    async fn with(change: impl FnOnce(&mut LogicConfig)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = LogicConfig {
            data_dir: dir.path().to_path_buf(),
            passwords: PasswordSettings {
                memory_kib: 64,
                passes: 1,
                ..PasswordSettings::default()
            },
            ..LogicConfig::default()
        };
        change(&mut config);
        let keys = Keys::open(&config, true).unwrap();
        let store: SharedStore =
            Arc::new(SqliteStore::open(&config.database_file()).await.unwrap());
        let (clock, time) = Clock::manual(1_800_000_000_000);
        let bus = InProcessBus::new(4);
        let (stop, stopped) = watch::channel(false);
        let parts = Parts {
            bus: bus.shared(),
            routes: Arc::new(Nobody),
            store: Arc::clone(&store),
            metrics: Arc::default(),
            clock: clock.clone(),
            ids: MessageIds::new(1, 0),
            batch_operations_max: 16,
            traces: Traces::off(),
            before_handle: None,
        };
        tokio::spawn(Worker::run(parts, bus.consume_inbound().await.unwrap(), stopped));
        let sender = BusSender::new(bus.shared(), "api-test", config.http.send_timeout);
        let answers = bus.consume_outbound("api-test").await.unwrap();
        tokio::spawn(sender.clone().receive(answers));
        let member = Member { name: "gw-1".into(), address: "127.0.0.1:7401".into(), weight: 1 };
        let ring = arc_swap::ArcSwap::from_pointee(Ring::new(vec![member]).unwrap());
        let api = Api::new(config, keys, store, clock, Arc::new(ring), sender);
        Self { router: router(Arc::new(api)), time, _stop: stop, _dir: dir }
    }

    async fn raw(&self, method: Method, path: &str, credential: &str, body: Vec<u8>) -> Answer {
        let peer = SocketAddr::from((IpAddr::from([127, 0, 0, 1]), 1));
        let mut request = Request::builder().method(method).uri(path).extension(ConnectInfo(peer));
        if !credential.is_empty() {
            request = request.header(header::AUTHORIZATION, format!("Bearer {credential}"));
        }
        let request = request.body(Body::from(body)).unwrap();
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = axum::body::to_bytes(body, 1 << 20).await.unwrap();
        let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        Answer { status: parts.status, headers: parts.headers, body }
    }

    async fn get(&self, path: &str, credential: &str) -> Answer {
        self.raw(Method::GET, path, credential, Vec::new()).await
    }

    async fn post(&self, path: &str, credential: &str, body: Value) -> Answer {
        self.raw(Method::POST, path, credential, body.to_string().into_bytes()).await
    }

    /// Users without a password, as a server makes them.
    async fn add_users(&self, users: &[&str]) {
        let answer = self.post("/v1/users", dev::API_KEY, json!({"users": users})).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
    }

    async fn register(&self, user: &str) -> Value {
        let body = json!({"user": user, "password": "correct horse"});
        let answer = self.post("/v1/register", "", body).await;
        assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.body);
        answer.body
    }
}

fn text(value: &Value) -> &str {
    value.as_str().expect("a text")
}

fn message(sender: Option<&str>, to: &str, id: u8, text: &str) -> Value {
    json!({"sender": sender, "to_user": to, "client_msg_id": format!("{id:032x}"), "text": text})
}
