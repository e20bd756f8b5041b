//! 10,000 clients that connect and never speak, send one byte a second, or never read: each is closed by its named rule, the server's
//! memory stays bounded, and a pair that talks meanwhile goes on (its p99 is printed; `--nocapture` shows it).

mod support;

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
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
/// One page each, so that a device that reads nothing asks for about half a megabyte.
const UNREAD_REQUESTS: u16 = INFLIGHT_REQUESTS_MAX;
/// What one unread connection may hold in the server: the pages it may have asked for at once.
const UNREAD_BYTES_MAX: u64 = INFLIGHT_REQUESTS_MAX as u64 * FRAME_BYTES_MAX as u64;
const RESPONSES: &str = "roost_gateway_frames_sent_total{kind=\"RESPONSE\"}";
/// All rounds together stay below the burst that one connection may send, however fast the machine is.
const ROUND_MESSAGES: usize = 90;

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

fn open(address: SocketAddr, count: usize) -> Vec<TcpStream> {
    (0..count).map(|_| TcpStream::connect(address).unwrap()).collect()
}

/// Two people who talk: the p99 of the time from SEND to SEND_ACK, in the best of five rounds, because the machine has others.
struct Pair {
    wire: Wire,
    sent: u32,
}

impl Pair {
    fn p99(&mut self) -> Duration {
        (0..5).map(|_| self.round()).min().unwrap()
    }
    fn round(&mut self) -> Duration {
        let mut times: Vec<_> = (0..ROUND_MESSAGES).map(|_| self.message()).collect();
        times.sort_unstable();
        times[ROUND_MESSAGES * 99 / 100]
    }
    fn message(&mut self) -> Duration {
        self.sent += 1;
        let start = Instant::now();
        let id = ClientMsgId(u128::from(self.sent).to_be_bytes());
        self.wire.send("bob", id, self.sent, b"how are you");
        self.wire.read_kind(FrameKind::SendAck);
        start.elapsed()
    }
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

/// Devices that log in, ask for pages and read nothing; user after user, so that no page is refused as busy.
fn open_unread(server: &Server) -> Vec<TcpStream> {
    let (address, metrics) = (server.frames(), format!("http://{}/metrics", server.admin()));
    let answers = || support::metric(&metrics, RESPONSES);
    let before = answers();
    let mut sockets: Vec<TcpStream> = Vec::new();
    for user in 0..UNREAD_USERS {
        let token = mint(&format!("unread-{user}"));
        for device in 0..UNREAD_DEVICES {
            let mut bytes = connect_frame(&token, &format!("d{device}"));
            for correlation in 1..=UNREAD_REQUESTS {
                let sync = Request::Sync { after_inbox_seq: 0, limit: 20 };
                sync.encode(&mut Encoder::new(), correlation, &mut bytes);
            }
            sockets.push(connect_unread(address, &bytes));
        }
        let asked = sockets.len() * usize::from(UNREAD_REQUESTS);
        support::wait_for("pages", || (answers() - before >= asked as f64).then_some(()));
    }
    sockets
}

/// With a receive window so small that the kernel cannot read on the client's behalf.
fn connect_unread(address: SocketAddr, bytes: &[u8]) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4 * 1024).unwrap();
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

fn each_is_closed_by_its_rule(driver: &'static str) {
    let folder = tempfile::tempdir().unwrap();
    let mut options = Options::new(folder.path()).driver(driver);
    options.log = Stdlog::Discard;
    // Both ends of 10,000 connections in two processes with 20,000 files each: any driver can.
    let mut server = Server::start(&options);
    fill_inboxes(&server);
    let mut pair = Pair { wire: Wire::login(server.frames(), &mint("alice"), "phone"), sent: 0 };
    let quiet = pair.p99();
    let before = resident_bytes(&server);

    let opened = Instant::now();
    let mut silent = open(server.frames(), SILENT);
    let mut slow = open(server.frames(), SLOW);
    let trickle = connect_frame(&mint("alice"), "slow");
    let mut written = 0;
    let unread = open_unread(&server);
    let hostile = pair.p99();
    println!("p99 quiet {quiet:?}, beside 10,000 hostile clients {hostile:?}");

    // One byte a second, until the rule has closed them.
    while opened.elapsed() < CONNECT_TIMEOUT + Duration::from_secs(3) {
        for socket in &mut slow {
            let _ = socket.write_all(&trickle[written..=written]);
        }
        written += 1;
        std::thread::park_timeout(Duration::from_secs(1));
    }
    let all = |count| BTreeMap::from([(CloseReason::ConnectTimeout.to_string(), count)]);
    assert_eq!(count_reasons(&mut silent), all(SILENT));
    assert_eq!(count_reasons(&mut slow), all(SLOW));

    let grown = resident_bytes(&server).saturating_sub(before);
    let bound = UNREAD_BYTES_MAX * unread.len() as u64;
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
    pair.message();
}
