//! Proves that no HTTP client keeps a connection without getting on, and that one connection too many is told so.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use roost_bus::in_process::InProcessBus;
use roost_logic::auth::Keys;
use roost_logic::clock::Clock;
use roost_logic::{Logic, LogicConfig, LogicHandle, Neighbours};
use roost_membership::ring::Ring;
use roost_membership::{BoxFuture, Routes, RoutesUnavailable};

const DEADLINE: Duration = Duration::from_secs(30);
const NEVER: Duration = Duration::from_secs(3600);

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

fn start(dir: &Path, change: impl FnOnce(&mut LogicConfig)) -> LogicHandle {
    let mut config = LogicConfig {
        data_dir: dir.to_path_buf(),
        http_listen: ([127, 0, 0, 1], 0).into(),
        ..LogicConfig::default()
    };
    config.http.head_timeout = NEVER;
    config.http.body_timeout = NEVER;
    change(&mut config);
    let keys = Keys::open(&config, true).unwrap();
    let neighbours = Neighbours {
        bus: InProcessBus::new(4).shared(),
        routes: Arc::new(Nobody),
        ring: Arc::new(ArcSwap::from_pointee(Ring::default())),
        clock: Clock::System,
        redis: None,
    };
    Logic::start(config, keys, neighbours, true).unwrap()
}

fn connect(logic: &LogicHandle) -> TcpStream {
    let stream = TcpStream::connect(logic.http_address).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream
}

/// Everything until the server closes; a reset is an end as well.
fn read_to_end(stream: &mut TcpStream) -> String {
    let (mut text, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(size) => text.extend_from_slice(&buffer[..size]),
            Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => break,
            Err(e) => panic!("not closed: {e}"),
        }
    }
    String::from_utf8_lossy(&text).into_owned()
}

const GET: &[u8] = b"GET /v1/openapi.json HTTP/1.1\r\nhost: x\r\n\r\n";

/// One that says nothing, one that stops within a head, one that trickles, one that stays after its answer.
#[test]
fn a_connection_without_a_whole_head_is_closed() {
    let dir = tempfile::tempdir().unwrap();
    let logic = start(dir.path(), |config| config.http.head_timeout = Duration::from_millis(200));
    assert_eq!(read_to_end(&mut connect(&logic)), "");

    let mut within = connect(&logic);
    within.write_all(b"GET / HTTP/1.1\r\nhost:").unwrap();
    let said = read_to_end(&mut within);
    assert!(said.is_empty() || said.starts_with("HTTP/1.1 408"), "{said}");

    let mut trickling = connect(&logic);
    let start = Instant::now();
    trickling.write_all(b"GET / HTTP/1.1\r\n").unwrap();
    trickling.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    let is_open = |stream: &mut TcpStream| match stream.read(&mut [0; 512]) {
        Ok(size) => size > 0,
        Err(e) => matches!(e.kind(), std::io::ErrorKind::WouldBlock),
    };
    while is_open(&mut trickling) {
        assert!(start.elapsed() < DEADLINE, "a trickling client is not closed");
        // The end shows at the next reading.
        let _ = trickling.write_all(b"x");
    }

    let mut staying = connect(&logic);
    staying.write_all(GET).unwrap();
    assert!(read_to_end(&mut staying).starts_with("HTTP/1.1 200"));
    logic.join();
}

/// The head is there, the body never comes.
#[test]
fn a_body_that_does_not_come_is_answered_408() {
    let dir = tempfile::tempdir().unwrap();
    let logic = start(dir.path(), |config| config.http.body_timeout = Duration::from_millis(200));
    let mut stream = connect(&logic);
    let head = "POST /v1/login HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{\"user\":";
    stream.write_all(head.as_bytes()).unwrap();
    let said = read_to_end(&mut stream);
    assert!(said.starts_with("HTTP/1.1 408") && said.contains("body_timeout"), "{said}");
    logic.join();
}

/// The place of a connection that ended is free again.
#[test]
fn one_connection_too_many_is_told_busy() {
    let dir = tempfile::tempdir().unwrap();
    let logic = start(dir.path(), |config| config.http.connections_max = 2);
    let mut held: Vec<TcpStream> = (0..2).map(|_| connect(&logic)).collect();
    for stream in &mut held {
        stream.write_all(GET).unwrap();
        assert!(stream.read(&mut [0; 64]).unwrap() > 0, "served");
    }
    let ask = || {
        let mut stream = connect(&logic);
        stream
            .write_all(b"GET /v1/openapi.json HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            .unwrap();
        read_to_end(&mut stream)
    };
    let said = ask();
    assert!(said.starts_with("HTTP/1.1 503") && said.contains("\"busy\""), "{said}");
    assert!(said.to_lowercase().contains("retry-after: "), "{said}");
    drop(held.pop());
    let start = Instant::now();
    while !ask().starts_with("HTTP/1.1 200") {
        assert!(start.elapsed() < DEADLINE, "the place is not given back");
        std::thread::yield_now();
    }
    drop(held);
    logic.join();
}
