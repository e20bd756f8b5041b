//! Proves that logic starts, keeps its history over a restart, and says at the start what cannot be used and what to do.

use std::path::Path;
use std::sync::Arc;

use arc_swap::ArcSwap;
use roost_bus::in_process::InProcessBus;
use roost_logic::auth::{Keys, dev};
use roost_logic::clock::Clock;
use roost_logic::{Logic, LogicConfig, LogicHandle, Neighbours, StartError};
use roost_membership::ring::Ring;
use roost_membership::{BoxFuture, Routes, RoutesUnavailable};
use serde_json::{Value, json};

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

fn config(dir: &Path) -> LogicConfig {
    LogicConfig {
        data_dir: dir.to_path_buf(),
        http_listen: ([127, 0, 0, 1], 0).into(),
        ..LogicConfig::default()
    }
}

fn start(config: LogicConfig) -> Result<LogicHandle, StartError> {
    let keys = Keys::open(&config, true)?;
    let neighbours = Neighbours {
        bus: InProcessBus::new(4).shared(),
        routes: Arc::new(Nobody),
        ring: Arc::new(ArcSwap::from_pointee(Ring::default())),
        clock: Clock::System,
        redis: None,
    };
    Logic::start(config, keys, neighbours, true)
}

fn post(logic: &LogicHandle, path: &str, body: &Value) -> Value {
    ureq::post(format!("http://{}{path}", logic.http_address))
        .header("authorization", format!("Bearer {}", dev::API_KEY))
        .send_json(body)
        .expect("an answer")
        .body_mut()
        .read_json()
        .expect("JSON")
}

/// A message sent before a restart is acknowledged identically after it.
#[test]
fn a_restart_has_all_history() {
    let dir = tempfile::tempdir().unwrap();
    let id = "0123456789abcdef0123456789abcdef";
    let message =
        json!({"sender": "alice", "to_user": "bob", "client_msg_id": id, "text": "hello"});
    let first = start(config(dir.path())).unwrap();
    let sent = post(&first, "/v1/messages", &message);
    assert_eq!((&sent["conversation"], &sent["seq"]), (&json!("s:alice:bob"), &json!(1)));
    first.join();
    let second = start(config(dir.path())).unwrap();
    assert_eq!(post(&second, "/v1/messages", &message), sent);
    second.join();
}

#[track_caller]
fn check(config: LogicConfig, parts: &[&str]) {
    let error = start(config).expect_err("it does not start").to_string();
    assert!(parts.iter().all(|part| error.contains(part)), "{error}");
}

#[test]
fn what_cannot_be_used_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let busy = LogicConfig { http_listen: address, ..config(dir.path()) };
    check(busy, &[&address.to_string(), "port"]);
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    check(config(&file.join("below")), &["file/below"]);
    let running = start(config(dir.path())).unwrap();
    check(config(dir.path()), &["another Roost", "--data-dir"]);
    running.join();
    let wrong = LogicConfig { worker_id: 5_000, ..config(dir.path()) };
    check(wrong, &["worker_id", "1023"]);
}

/// A client that never ends its request does not hold the process.
#[test]
fn a_hanging_client_does_not_hold_the_end() {
    use std::io::Write;
    let dir = tempfile::tempdir().unwrap();
    let logic = start(config(dir.path())).unwrap();
    let mut client = std::net::TcpStream::connect(logic.http_address).unwrap();
    client.write_all(b"POST /v1/login HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n{").unwrap();
    // The server has read the head when another request, sent later, is answered.
    let located = ureq::get(format!("http://{}/.well-known/jwks.json", logic.http_address)).call();
    assert!(located.is_ok());
    let (done, ended) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        logic.join();
        done.send(()).unwrap();
    });
    ended.recv_timeout(std::time::Duration::from_secs(60)).expect("logic ends");
}
