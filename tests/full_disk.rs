//! A full disk: the sender is told to try again, the log says what is wrong, the process lives on; once there is room again the same send is
//! acknowledged, and nothing that was acknowledged is lost.

mod support;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use roost_protocol::limits::BODY_BYTES_MAX;
use roost_protocol::{ClientMsgId, Frame, RefusalCode};
use support::wire::{Wire, mint};
use support::{Options, Server, Stdlog, run_ok, send, tail, wait_for};

const DISK_BYTES: u64 = 64 << 20;
/// What something else keeps on the disk, until it is freed.
const TAKEN_BYTES: usize = 56 << 20;

/// One connection may send so much at once, and no more: 4 MiB are its burst.
const SENDS_PER_CONNECTION: u32 = 200;

/// A small file system, unmounted at the end.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={DISK_BYTES}"), "tmpfs"])
            .arg(folder.path())
            .output()
            .expect("mount starts");
        let errors = String::from_utf8_lossy(&mounted.stderr);
        assert!(
            mounted.status.success(),
            "a file system of its own cannot be mounted: run this test as root with CAP_SYS_ADMIN ({errors})"
        );
        Self(folder)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).output();
    }
}

/// One device of alice, which notes what is acknowledged.
struct Sender<'s> {
    server: &'s Server,
    wire: Wire,
    /// Message number by its `seq`.
    acknowledged: BTreeMap<u64, u32>,
}

impl<'s> Sender<'s> {
    fn new(server: &'s Server) -> Self {
        Self { server, wire: login(server), acknowledged: BTreeMap::new() }
    }

    /// Sends message `number`, again if it was sent before: acknowledged, or the reason why not.
    fn send(&mut self, number: u32) -> Result<(), RefusalCode> {
        let id = ClientMsgId(u128::from(number).to_be_bytes());
        let mut body = format!("{number} ").into_bytes();
        body.resize(BODY_BYTES_MAX, b'x');
        let client_seq = (number - 1) % SENDS_PER_CONNECTION + 1;
        self.wire.send("bob", id, client_seq, &body);
        loop {
            let (header, payload) = self.wire.read().expect("an answer");
            let frame = Frame::decode(header.kind, &payload).expect("a payload");
            if let Frame::SendAck(ack) = &frame
                && ack.client_msg_id == id
            {
                self.acknowledged.insert(ack.seq, number);
                return Ok(());
            }
            if let Frame::SendRefused(refused) = &frame
                && refused.client_msg_id == id
            {
                assert!(refused.retry_after_ms > 0, "when to try again");
                return Err(refused.code);
            }
        }
    }

    /// Until the first message that is not taken; its number.
    fn fill(&mut self) -> u32 {
        for number in 1.. {
            if number % SENDS_PER_CONNECTION == 1 {
                self.wire = login(self.server);
            }
            if let Err(code) = self.send(number) {
                assert_eq!(code, RefusalCode::Unavailable);
                return number;
            }
            assert!(
                u64::from(number) * BODY_BYTES_MAX as u64 <= DISK_BYTES,
                "the disk is not full"
            );
        }
        unreachable!("the disk is full before the numbers end")
    }
}

fn login(server: &Server) -> Wire {
    Wire::login(server.frames(), &mint("alice"), "phone")
}

fn refusals(server: &Server) -> f64 {
    let metrics = format!("http://{}/metrics", server.admin());
    support::metric(&metrics, "roost_logic_refusals_total{code=\"unavailable\"")
}

/// Everything bob has, message number by `seq`.
fn inbox(server: &Server, count: usize) -> BTreeMap<u64, String> {
    let count = count.to_string();
    let lines = run_ok(tail(server, "bob", &["--from-start", "--json", "--count", &count]));
    let message = |line: &str| {
        let message: serde_json::Value = serde_json::from_str(line).unwrap();
        let text = message["text"].as_str().unwrap();
        let first_word = text.split(' ').next().unwrap_or_default();
        (message["seq"].as_u64().unwrap(), first_word.to_owned())
    };
    lines.lines().map(message).collect()
}

#[test]
fn sends_wait_for_room_and_nothing_is_lost() {
    let (disk, logs) = (SmallDisk::mount(), tempfile::tempdir().unwrap());
    let taken = disk.0.path().join("taken");
    std::fs::write(&taken, vec![0; TAKEN_BYTES]).unwrap();
    let log: PathBuf = logs.path().join("log");
    let mut options = Options::new(&disk.0.path().join("data"));
    options.log = Stdlog::File(log.clone());
    let mut server = Server::start(&options);

    let mut sender = Sender::new(&server);
    let refused = sender.fill();
    assert_eq!(sender.send(refused), Err(RefusalCode::Unavailable), "still full");
    wait_for("the log says why", || says_why(&log).then_some(()));

    // A client tries again by itself until there is room: a message as large as those before, which does not fit into the rest.
    let text = format!("patient {}", "x".repeat(BODY_BYTES_MAX - 8));
    let before = refusals(&server);
    let patient = std::thread::spawn({
        let mut patient = send(&server, "alice", "bob", &text);
        patient.args(["--timeout", "60"]);
        || run_ok(patient)
    });
    wait_for("it tries again", || (refusals(&server) >= before + 2.0).then_some(()));
    assert!(!patient.is_finished(), "nothing is acknowledged on a full disk");
    std::fs::remove_file(&taken).unwrap();
    assert!(patient.join().unwrap().starts_with("acked "));
    sender.send(refused).expect("the same message is taken once there is room");
    let acknowledged = sender.acknowledged;
    assert!(server.is_running());

    server.kill_nine();
    let server = Server::start(&options);
    let found = inbox(&server, acknowledged.len() + 1);
    for (seq, number) in &acknowledged {
        assert_eq!(found.get(seq), Some(&number.to_string()), "seq {seq} was acknowledged");
    }
    assert!(found.values().any(|text| text == "patient"));
}

/// Which file cannot be written, why, what to do, and what follows.
fn says_why(log: &Path) -> bool {
    let log = std::fs::read_to_string(log).unwrap();
    log.lines().any(|line| {
        ["roost-journal.db", "full", "make room there", "sends are refused until"]
            .iter()
            .all(|part| line.contains(part))
    })
}
