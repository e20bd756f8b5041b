//! 10,000 clients that connect and never speak, send one byte a second, or never read: each is closed by its named rule, the server's
//! memory stays bounded, and an active pair keeps its p99 within twice that of a pair on a server without them, at the same time.

mod support;

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use roost_protocol::frame::request::Request;
use roost_protocol::limits::{
    BODY_BYTES_MAX, CONNECT_TIMEOUT, FRAME_BYTES_MAX, HEADER_BYTES, INFLIGHT_REQUESTS_MAX,
    SLOW_CONSUMER_TIMEOUT,
};
use roost_protocol::{ClientMsgId, CloseReason, Encoder, Frame, FrameKind, Header};
use socket2::{Domain, Socket, Type};
use support::wire::{Wire, connect_frame, mint};
use support::{Options, Server, Stdlog};

const SILENT: usize = 4_000;
const SLOW: usize = 3_000;
const UNREAD_USERS: usize = 200;
const UNREAD_DEVICES: usize = 15;
/// Devices that are opened together: so few that no page is refused because logic is busy.
const UNREAD_TOGETHER: usize = 10 * UNREAD_DEVICES;
/// After the first requests a device asks so often for one page more: together more than the kernel takes for it.
const UNREAD_ROUNDS: u16 = 4;
/// What one unread connection may hold in the server: a page of which less than `outbox.bytes_low` is unsent, and one behind it.
const UNREAD_BYTES_MAX: u64 = 2 * FRAME_BYTES_MAX as u64;
/// What else may grow: caches of the database, 10,000 slots, memory that the allocator keeps.
const REST_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// All windows together stay below the burst that one connection may send, however fast the machine is.
const WINDOWS: usize = 9;
const WINDOW_MESSAGES: usize = 100;
/// Below this a p99 says more about the machine's other work than about the server.
const P99_NOISE: Duration = Duration::from_millis(5);

/// The close reason a server's last frame names; the stream may hold others before.
fn close_reason(socket: &mut TcpStream) -> Option<CloseReason> {
    let mut bytes = Vec::new();
    // A reset after the close frame was read is an end like any other.
    let _ = socket.read_to_end(&mut bytes);
    let mut rest = bytes.as_slice();
    while let Some((head, tail)) = rest.split_first_chunk::<HEADER_BYTES>() {
        let header = Header::decode(head).ok()?;
        let payload = tail.get(..header.payload_bytes as usize)?;
        if let Ok(Frame::Close(close)) = Frame::decode(header.kind, payload) {
            return Some(close.reason);
        }
        rest = &tail[payload.len()..];
    }
    None
}

fn count_reasons(sockets: &mut [TcpStream]) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for socket in sockets {
        socket.set_nonblocking(false).unwrap();
        socket.set_read_timeout(Some(support::DEADLINE)).unwrap();
        let name = close_reason(socket).map_or("none".to_owned(), |reason| reason.to_string());
        *counts.entry(name).or_default() += 1;
    }
    counts
}

/// Silent crowds come from an address of their own: one address may have 10,000 connections, those of the pair included.
fn open(address: SocketAddr, count: usize) -> Vec<TcpStream> {
    let open_one = |_| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from(([127, 0, 0, 2], 0)).into()).unwrap();
        socket.connect(&address.into()).unwrap();
        TcpStream::from(socket)
    };
    (0..count).map(open_one).collect()
}

/// Two people who talk.
struct Pair {
    wire: Wire,
    sent: u32,
}

impl Pair {
    fn new(server: &Server) -> Self {
        Self { wire: Wire::login(server.frames(), &mint("alice"), "phone"), sent: 0 }
    }
    /// From SEND to SEND_ACK.
    fn message(&mut self) -> Duration {
        self.sent += 1;
        let start = Instant::now();
        let id = ClientMsgId(u128::from(self.sent).to_be_bytes());
        self.wire.send("bob", id, self.sent, b"how are you");
        self.wire.read_kind(FrameKind::SendAck);
        start.elapsed()
    }
}

/// The median, over windows, of the p99 of each pair; the two take turns with every message, so that the machine's other work meets both.
fn p99s(pairs: &mut [Pair; 2]) -> [Duration; 2] {
    let mut p99s = [const { Vec::new() }; 2];
    for _ in 0..WINDOWS {
        let mut times = [const { Vec::new() }; 2];
        for _ in 0..WINDOW_MESSAGES {
            for (pair, times) in pairs.iter_mut().zip(&mut times) {
                times.push(pair.message());
            }
        }
        for (mut times, p99s) in times.into_iter().zip(&mut p99s) {
            times.sort_unstable();
            p99s.push(times[WINDOW_MESSAGES * 99 / 100 - 1]);
        }
    }
    p99s.map(|mut p99s| {
        p99s.sort_unstable();
        p99s[WINDOWS / 2]
    })
}

fn resident_bytes(server: &Server) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

/// Users with an inbox that is worth a page.
fn fill_inboxes(server: &Server) {
    let names: Vec<_> = (0..UNREAD_USERS).map(|n| format!("unread-{n}")).collect();
    support::create_users(server, &names);
    for (n, name) in names.iter().enumerate() {
        let mut wire = Wire::login(server.frames(), &mint(name), "writer");
        for copy in 1..=3 {
            let id = ClientMsgId((n as u128 * 10 + u128::from(copy)).to_be_bytes());
            wire.send("bob", id, copy, &vec![b'x'; BODY_BYTES_MAX]);
            wire.read_kind(FrameKind::SendAck);
        }
    }
}

/// Devices that log in, ask for pages and read nothing.
fn open_unread(server: &Server) -> Vec<TcpStream> {
    let page = |correlation| {
        let mut bytes = Vec::new();
        let sync = Request::Sync { after_inbox_seq: 0, limit: 20 };
        sync.encode(&mut Encoder::new(), correlation, &mut bytes);
        bytes
    };
    let devices: Vec<_> = (0..UNREAD_USERS)
        .flat_map(|user| (0..UNREAD_DEVICES).map(move |device| (user, device)))
        .collect();
    let mut sockets = Vec::new();
    for some in devices.chunks(UNREAD_TOGETHER) {
        let opened = sockets.len();
        for (user, device) in some {
            let token = mint(&format!("unread-{user}"));
            let mut bytes = connect_frame(&token, &format!("d{device}"));
            (1..=INFLIGHT_REQUESTS_MAX).for_each(|n| bytes.extend(page(n)));
            sockets.push(connect_unread(server.frames(), &bytes));
        }
        wait_for_answers(server, sockets.len());
        for round in 1..=UNREAD_ROUNDS {
            for socket in &mut sockets[opened..] {
                socket.write_all(&page(INFLIGHT_REQUESTS_MAX + round)).unwrap();
            }
            wait_for_answers(server, sockets.len());
        }
    }
    sockets
}

/// Until every request that the server has read is answered, by a page or a refusal; each device asked at least one whole window.
fn wait_for_answers(server: &Server, devices: usize) {
    let metrics = format!("http://{}/metrics", server.admin());
    let sum = |names: &[&str]| {
        let of = |name: &&str| support::metric(&metrics, &format!("roost_gateway_{name}"));
        names.iter().map(of).sum::<f64>()
    };
    let asked_min = (devices * usize::from(INFLIGHT_REQUESTS_MAX)) as f64;
    support::wait_for("pages", || {
        let answered =
            sum(&["frames_sent_total{kind=\"RESPONSE\"}", "refusals_total{code=\"busy\"}"]);
        let asked = sum(&["frames_received_total{kind=\"REQUEST\"}"]);
        (asked >= asked_min && answered >= asked).then_some(())
    });
}

/// With a receive window so small that the kernel cannot read on the client's behalf, and segments so small that it does not buffer
/// a megabyte on the server's.
fn connect_unread(address: SocketAddr, bytes: &[u8]) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4 * 1024).unwrap();
    socket.set_tcp_mss(536).unwrap();
    socket.connect(&address.into()).unwrap();
    let mut socket = TcpStream::from(socket);
    socket.write_all(bytes).unwrap();
    socket
}

#[test]
fn io_uring_closes_each_by_its_rule() {
    each_is_closed_by_its_rule("io_uring");
}

#[test]
fn epoll_closes_each_by_its_rule() {
    each_is_closed_by_its_rule("epoll");
}

/// `cargo test` runs the tests of a file as threads of one process, whose limit of files holds the clients of one of them only.
static CROWD: Mutex<()> = Mutex::new(());

fn each_is_closed_by_its_rule(driver: &'static str) {
    let _crowd = CROWD.lock().unwrap_or_else(PoisonError::into_inner);
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    // Both ends of 10,000 connections in two processes with 20,000 files each: any driver can.
    let [mut server, quiet_server] = folders.each_ref().map(|folder| {
        let mut options = Options::new(folder.path()).driver(driver);
        options.log = Stdlog::Discard;
        Server::start(&options)
    });
    fill_inboxes(&server);
    support::create_users(&quiet_server, &["bob".to_owned()]);
    let mut pairs = [Pair::new(&server), Pair::new(&quiet_server)];
    let before = resident_bytes(&server);

    let unread = open_unread(&server);
    let opened = Instant::now();
    let mut silent = open(server.frames(), SILENT);
    let mut slow = open(server.frames(), SLOW);
    let is_measured = AtomicBool::new(false);
    let [p99, quiet_p99] = std::thread::scope(|scope| {
        scope.spawn(|| trickle(&mut slow, opened, &is_measured));
        let p99s = p99s(&mut pairs);
        is_measured.store(true, Ordering::Relaxed);
        p99s
    });
    println!("p99 beside 10,000 hostile clients {p99:?}, without them {quiet_p99:?}");
    assert!(p99 <= (2 * quiet_p99).max(P99_NOISE), "{p99:?} beside them, {quiet_p99:?} without");

    let all = |count| BTreeMap::from([(CloseReason::ConnectTimeout.to_string(), count)]);
    assert_eq!(count_reasons(&mut silent), all(SILENT));
    assert_eq!(count_reasons(&mut slow), all(SLOW));

    let grown = resident_bytes(&server).saturating_sub(before);
    let bound = UNREAD_BYTES_MAX * unread.len() as u64 + REST_BYTES_MAX;
    println!("resident memory grew by {} MiB, the bound is {} MiB", grown >> 20, bound >> 20);
    assert!(grown < bound, "{grown} bytes");

    // Nobody reads: only the server can end these, as slow consumers. Of some, all pages fit into the kernel's send buffer, which
    // grows as it likes: those wait for the idle timeout, at no cost to the server.
    let metrics = format!("http://{}/metrics", server.admin());
    let closed = support::wait_at_most(
        SLOW_CONSUMER_TIMEOUT + support::DEADLINE,
        "slow consumers to be closed",
        || {
            let count =
                support::metric(&metrics, "roost_gateway_closes_total{reason=\"slow_consumer\"}");
            (2.0 * count >= unread.len() as f64).then_some(count)
        },
    );
    println!("{closed} slow consumers closed");
    drop(unread);
    assert!(server.is_running());
    pairs[0].message();
}

/// One byte a second, until the rule has closed them and the pairs are done.
fn trickle(slow: &mut [TcpStream], opened: Instant, is_measured: &AtomicBool) {
    let connect = connect_frame(&mint("alice"), "slow");
    for byte in connect.chunks(1) {
        for socket in &mut *slow {
            let _ = socket.write_all(byte);
        }
        let is_over = opened.elapsed() > CONNECT_TIMEOUT + Duration::from_secs(3);
        if is_over && is_measured.load(Ordering::Relaxed) {
            return;
        }
        std::thread::park_timeout(Duration::from_secs(1));
    }
}
