//! A whole gateway with real sockets, on both drivers: clients at one end, the in-process bus and a tiny logic at the other.
//!
//! Proves: who may connect and how each refusal is named; a message reaches the other user and is acknowledged; a newer session
//! takes over; nothing is lost when the way to logic is full; a drain tells every client and loses nothing.

#[path = "end_to_end/client.rs"]
mod client;
#[path = "end_to_end/logic_stub.rs"]
mod logic_stub;

use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use roost_bus::in_process::InProcessBus;
use roost_gateway::config::{DriverChoice, GatewayConfig};
use roost_gateway::gateway::{Gateway, GatewayHandle, Neighbours, StartError};
use roost_gateway::session::keys::VerificationKeys;
use roost_membership::{Member, Ring, RingWatch};
use roost_protocol::frame::ack::{SendAck, SendRefused};
use roost_protocol::frame::connect::Credential;
use roost_protocol::frame::deliver::Message;
use roost_protocol::frame::redirect::{GoAway, Redirect};
use roost_protocol::{CloseReason, FrameKind, RefusalCode};

use client::{Client, KEY_ID, PATIENCE, SECRET, token};
use logic_stub::LogicStub;

/// A gateway with two shards and its logic.
struct Rig {
    gateway: GatewayHandle,
    bus: InProcessBus,
    logic: LogicStub,
    address: SocketAddr,
}

fn config(driver: DriverChoice) -> GatewayConfig {
    let mut config = GatewayConfig {
        listen: vec![SocketAddr::from(([127, 0, 0, 1], 0))],
        admin_listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        shards: 2,
        ..GatewayConfig::default()
    };
    config.io.driver = driver;
    config.limits.connections_max = 1000;
    config
}

fn keys() -> VerificationKeys {
    let mut keys = VerificationKeys::new();
    keys.add_hs256(KEY_ID, Some("demo"), SECRET).unwrap();
    keys
}

impl Rig {
    fn start(driver: DriverChoice) -> Self {
        Self::with(InProcessBus::new(4), config(driver))
    }

    fn with(bus: InProcessBus, config: GatewayConfig) -> Self {
        let logic = LogicStub::start(bus.shared());
        let gateway = Gateway::start(config, keys(), bus.shared()).unwrap();
        let address = gateway.addresses()[0];
        Self { gateway, bus, logic, address }
    }

    fn end(self) {
        let report = self.gateway.shutdown();
        assert_eq!(report.unconfirmed, 0);
        self.bus.close();
        self.logic.thread.join().unwrap();
    }

    fn log_in(&self, user: &str, device: &str) -> Client {
        Client::log_in(self.address, user, device).0
    }
}

/// Waits for `condition` with a deadline.
fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < until, "{what}");
        std::thread::yield_now();
    }
}

fn http_get(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn connect_ping_and_resume(driver: DriverChoice) {
    let rig = Rig::start(driver);
    let (mut first, session) = Client::log_in(rig.address, "alice", "d1");
    first.ping();
    first.expect(FrameKind::Pong);
    assert_eq!(rig.logic.sessions.recv_timeout(PATIENCE), Ok(("alice".to_owned(), true)));

    let resume = Credential::Resume(&session.resume_token);
    let mut resumed = Client::connect(rig.address, resume, "d1");
    let again = resumed.expect_connected();
    assert_eq!(again.user, "alice");
    assert!(again.epoch > session.epoch);
    first.expect_close(CloseReason::Superseded);
    assert_eq!(rig.logic.sessions.recv_timeout(PATIENCE), Ok(("alice".to_owned(), true)));
    assert_eq!(rig.logic.sessions.recv_timeout(PATIENCE), Ok(("alice".to_owned(), false)));
    assert_eq!(rig.gateway.directory().count(), 1, "the older end left the newer route alone");

    let stolen = Credential::Resume(&again.resume_token);
    Client::connect(rig.address, stolen, "d2").expect_close(CloseReason::BadToken);
    drop(resumed);
    eventually("the route ends with the connection", || rig.gateway.directory().count() == 0);
    rig.end();
}

fn a_message_reaches_the_other_user(driver: DriverChoice) {
    let rig = Rig::start(driver);
    let mut alice = rig.log_in("alice", "d1");
    let mut tablet = rig.log_in("alice", "d2");
    let mut bob = rig.log_in("bob", "d1");
    for number in 1..=100u16 {
        alice.send("bob", number);
        let (header, payload) = alice.expect(FrameKind::SendAck);
        let ack = SendAck::decode(&payload).unwrap();
        assert_eq!((header.correlation, header.inbox_seq), (number, u64::from(number)));
        assert_eq!(
            (ack.seq, ack.conversation.to_string().as_str()),
            (u64::from(number), "s:alice:bob")
        );
        for receiver in [&mut bob, &mut tablet] {
            let (header, payload) = receiver.expect(FrameKind::Deliver);
            let message = Message::decode(&payload).unwrap();
            assert_eq!(header.inbox_seq, u64::from(number));
            assert_eq!(
                (message.sender.as_str(), message.body),
                ("alice", &number.to_le_bytes()[..])
            );
        }
    }
    rig.end();
}

fn each_refusal_has_its_name(driver: DriverChoice) {
    let mut config = config(driver);
    config.limits.sessions_per_user_max = 2;
    let rig = Rig::with(InProcessBus::new(4), config);
    let connect = |token: &str| Client::connect(rig.address, Credential::Token(token), "d1");
    connect("no.token.atall").expect_close(CloseReason::BadToken);
    let mut forged = token("alice", 900);
    forged.truncate(forged.len() - 2);
    connect(&forged).expect_close(CloseReason::BadToken);
    connect(&token("alice", -31)).expect_close(CloseReason::TokenExpired);
    connect(&token("not an id", 900)).expect_close(CloseReason::BadToken);
    let mut rude = Client::open(rig.address);
    rude.ping();
    rude.expect_close(CloseReason::ConnectExpected);

    let _first = rig.log_in("alice", "d1");
    let _second = rig.log_in("alice", "d2");
    let third = token("alice", 900);
    Client::connect(rig.address, Credential::Token(&third), "d3")
        .expect_close(CloseReason::TooManySessionsPerUser);
    let _other_user = rig.log_in("bob", "d3");
    rig.end();
}

fn a_session_ends_with_its_token(driver: DriverChoice) {
    let rig = Rig::start(driver);
    // Valid for two more seconds, thanks to the 30 of allowed clock skew.
    let token = token("alice", -28);
    let mut client = Client::connect(rig.address, Credential::Token(&token), "d1");
    client.expect_connected();
    client.ping();
    client.expect(FrameKind::Pong);
    client.expect_close(CloseReason::TokenExpired);
    rig.end();
}

fn devices_supersede_across_shards(driver: DriverChoice) {
    let rig = Rig::start(driver);
    let mut older = rig.log_in("alice", "d1");
    for _ in 0..50 {
        let newer = rig.log_in("alice", "d1");
        older.expect_close(CloseReason::Superseded);
        older = newer;
    }
    assert_eq!(rig.gateway.directory().count(), 1);
    older.ping();
    older.expect(FrameKind::Pong);
    rig.end();
}

/// Logic stands still and everything on the way to it is small: clients are answered busy and not read. When logic goes on,
/// every message that was repeated until its acknowledgement is there exactly once.
fn nothing_is_lost_when_the_way_to_logic_is_full(driver: DriverChoice) {
    const MESSAGES: u16 = 300;
    let mut config = config(driver);
    config.inbound.messages_max = 16;
    config.inbound.batch_messages_max = 4;
    config.inbound.busy_retry_after = Duration::from_millis(1);
    config.limits.frames_per_second = 0;
    let rig = Rig::with(InProcessBus::with_capacity(4, 1, 16), config);
    let mut alice = rig.log_in("alice", "d1");
    let mut bob = rig.log_in("bob", "d1");
    rig.logic.is_stopped.send_replace(true);

    let mut unanswered: Vec<u16> = Vec::new();
    let mut acked = HashSet::new();
    let mut waiting: Vec<u16> = (1..=MESSAGES).rev().collect();
    let mut refused = 0;
    while acked.len() < usize::from(MESSAGES) {
        while unanswered.len() < 64 && !waiting.is_empty() {
            let number = waiting.pop().unwrap();
            alice.send("bob", number);
            unanswered.push(number);
        }
        let (header, payload) = alice.next().expect("the connection stays");
        unanswered.retain(|number| *number != header.correlation);
        if header.kind == FrameKind::SendAck {
            assert!(acked.insert(header.correlation));
            continue;
        }
        assert_eq!(header.kind, FrameKind::SendRefused);
        assert_eq!(SendRefused::decode(&payload).unwrap().code, RefusalCode::Busy);
        refused += 1;
        waiting.push(header.correlation);
        // The way is full and was noticed: logic goes on.
        rig.logic.is_stopped.send_replace(false);
    }
    assert!(refused > 0, "the test proves something");
    let mut seen = HashSet::new();
    while seen.len() < usize::from(MESSAGES) {
        let (_, payload) = bob.expect(FrameKind::Deliver);
        assert!(seen.insert(Message::decode(&payload).unwrap().client_msg_id));
    }
    rig.end();
}

fn a_drain_tells_every_client(driver: DriverChoice) {
    let mut config = config(driver);
    config.drain.go_away_window = Duration::from_millis(200);
    config.drain.close_after = Duration::from_millis(300);
    let rig = Rig::with(InProcessBus::new(4), config);
    let admin = rig.gateway.admin_address();
    assert!(http_get(admin, "/readyz").starts_with("HTTP/1.1 200"));
    let mut clients: Vec<_> = (0..20).map(|n| rig.log_in(&format!("user{n}"), "d1")).collect();
    let Rig { gateway, bus, logic, address } = rig;
    let draining = std::thread::spawn(move || gateway.drain());
    for (number, client) in clients.iter_mut().enumerate() {
        let (_, payload) = client.expect(FrameKind::GoAway);
        assert!(GoAway::decode(&payload).unwrap().reconnect_after_ms <= 5000);
        if number == 0 {
            let answer = http_get(admin, "/readyz?verbose");
            assert!(
                answer.starts_with("HTTP/1.1 503") && answer.contains("draining: yes"),
                "{answer}"
            );
            assert!(TcpStream::connect(address).is_err(), "nobody new comes in");
        }
    }
    // What was sent before the close is still answered.
    clients[0].ping();
    clients[0].expect(FrameKind::Pong);
    clients.iter_mut().for_each(|client| client.expect_close(CloseReason::Draining));
    let report = draining.join().unwrap();
    assert_eq!((report.connections, report.cut_off, report.unconfirmed), (20, 0, 0));
    bus.close();
    logic.thread.join().unwrap();
}

fn the_operator_is_answered(driver: DriverChoice) {
    let rig = Rig::start(driver);
    let _alice = rig.log_in("alice", "d1");
    let admin = rig.gateway.admin_address();
    assert!(http_get(admin, "/livez").starts_with("HTTP/1.1 200"));
    let name = if driver == DriverChoice::Epoll { "epoll" } else { "io_uring" };
    let ready = http_get(admin, "/readyz?verbose");
    assert!(ready.contains(&format!("driver: {name}")) && ready.contains("sessions: 1"), "{ready}");
    let metrics = http_get(admin, "/metrics");
    for line in [
        format!("roost_gateway_driver{{driver=\"{name}\"}} 1"),
        "roost_gateway_frames_received_total{kind=\"CONNECT\"} 1".to_owned(),
        "roost_gateway_acceptor_accepted_total 1".to_owned(),
    ] {
        assert!(metrics.lines().any(|l| l == line), "{line}\n{metrics}");
    }
    assert!(http_get(admin, "/nothing").starts_with("HTTP/1.1 404"));
    rig.end();
}

fn a_busy_port_is_named(driver: DriverChoice) {
    let rig = Rig::start(driver);
    let mut second = config(driver);
    second.listen = vec![rig.address];
    let bus = InProcessBus::new(4);
    let error = Gateway::start(second, keys(), bus.shared()).map(GatewayHandle::shutdown);
    let error = error.expect_err("the port is taken");
    assert!(matches!(error, StartError::Listen(_)), "{error}");
    assert!(error.to_string().contains(&rig.address.to_string()), "{error}");
    rig.end();
}

fn users_of_another_gateway_are_sent_there(driver: DriverChoice) {
    let member = |name: &str, address: &str| Member {
        name: name.into(),
        address: address.into(),
        weight: 1,
    };
    let members = vec![member("gw-1", "10.0.0.1:7401"), member("gw-2", "10.0.0.2:7401")];
    let ring = Arc::new(ArcSwap::from_pointee(Ring::new(members).unwrap()));
    let owner = |user: &str| ring.load().owner("demo", user).unwrap().name.to_string();
    let find = |name: &str| (0..1000).map(|i| format!("u{i}")).find(|user| owner(user) == name);
    let (ours, theirs) = (find("gw-1").unwrap(), find("gw-2").unwrap());

    let bus = InProcessBus::new(4);
    let logic = LogicStub::start(bus.shared());
    let neighbours =
        Neighbours { ring: Some(RingWatch::fixed(Arc::clone(&ring))), ..bus.shared().into() };
    let gateway = Gateway::start(config(driver), keys(), neighbours).unwrap();
    let address = gateway.addresses()[0];
    let rig = Rig { gateway, bus, logic, address };

    let (mut here, _) = Client::log_in(address, &ours, "d1");
    let mut there = Client::connect(address, Credential::Token(&token(&theirs, 900)), "d1");
    let (_, payload) = there.expect(FrameKind::Redirect);
    assert_eq!(Redirect::decode(&payload).unwrap().address, "10.0.0.2:7401");
    there.expect_close(CloseReason::Redirected);
    assert_eq!(rig.gateway.directory().count(), 1, "who is sent away has no session");
    // Nobody is told the way without a valid credential.
    let forged = Credential::Token("forged");
    Client::connect(address, forged, "d1").expect_close(CloseReason::BadToken);

    // The other gateway leaves the ring: its users are welcome here.
    ring.store(Arc::new(Ring::new(vec![member("gw-1", "10.0.0.1:7401")]).unwrap()));
    Client::log_in(address, &theirs, "d1");
    here.ping();
    here.expect(FrameKind::Pong);
    rig.end();
}

macro_rules! on_both_drivers {
    ($($test:ident)*) => {
        mod io_uring {
            $(#[test] fn $test() { super::$test(super::DriverChoice::IoUring); })*
        }
        mod epoll {
            $(#[test] fn $test() { super::$test(super::DriverChoice::Epoll); })*
        }
    };
}
on_both_drivers! {
    connect_ping_and_resume
    a_message_reaches_the_other_user
    each_refusal_has_its_name
    a_session_ends_with_its_token
    devices_supersede_across_shards
    nothing_is_lost_when_the_way_to_logic_is_full
    a_drain_tells_every_client
    the_operator_is_answered
    a_busy_port_is_named
    users_of_another_gateway_are_sent_there
}
