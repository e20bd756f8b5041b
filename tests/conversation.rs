//! Two people talk through `roost dev` from two terminals, on both drivers; a restart on the same folder keeps everything.

mod support;

use support::{DRIVERS, Options, Server, run, run_ok, send, tail};

fn field<'a>(line: &'a str, name: &str) -> &'a str {
    line.split_whitespace()
        .find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
        .unwrap_or_else(|| panic!("{line:?} has no {name}"))
}

#[test]
fn two_people_talk_and_a_restart_keeps_everything() {
    for driver in DRIVERS {
        let folder = tempfile::tempdir().unwrap();
        let options = Options::new(folder.path()).driver(driver);
        let server = Server::start(&options);
        assert!(server.banner[0].contains(driver), "{:?}", server.banner);

        let acked = run_ok(send(&server, "alice", "bob", "hello bob"));
        assert!(acked.starts_with("acked conversation=s:alice:bob seq=1 message_id="), "{acked}");
        assert!(field(&acked, "latency_ms").parse::<f64>().unwrap() > 0.0);
        let acked = run_ok(send(&server, "bob", "alice", "hello alice"));
        assert_eq!(field(&acked, "seq"), "2");

        let seen =
            run_ok(tail(&server, "alice", &["--from-start", "--count", "2", "--timeout", "20"]));
        assert_eq!(seen, "s:alice:bob 1 alice hello bob\ns:alice:bob 2 bob hello alice\n");
        assert_eq!(server.stop().code(), Some(0));

        let server = Server::start(&options);
        let acked = run_ok(send(&server, "alice", "bob", "still here?"));
        assert_eq!(field(&acked, "seq"), "3");
        let json = run_ok(tail(
            &server,
            "bob",
            &["--json", "--from-start", "--count", "3", "--timeout", "20"],
        ));
        let lines: Vec<serde_json::Value> =
            json.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 3);
        assert_eq!(lines[2]["text"], "still here?");
        assert_eq!(lines[2]["conversation"], "s:alice:bob");
        for key in ["seq", "message_id", "sender", "client_msg_id", "server_time_ms"] {
            assert!(!lines[0][key].is_null(), "{key} in {json}");
        }
        server.signal("-INT");
        drop(server);
    }
}

#[test]
fn tail_ends_with_3_at_its_timeout() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(&Options::new(folder.path()));
    let output = run(tail(&server, "bob", &["--count", "1", "--timeout", "1"]));
    assert_eq!(output.status.code(), Some(3));
}

#[test]
fn a_live_tail_gets_what_is_sent_afterwards() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(&Options::new(folder.path()));
    let waiting = tail(&server, "bob", &["--from-start", "--count", "3", "--timeout", "20"]);
    let tail = std::thread::spawn(move || run_ok(waiting));
    for text in ["one", "two", "three"] {
        run_ok(send(&server, "alice", "bob", text));
    }
    let seen = tail.join().unwrap();
    assert_eq!(
        seen,
        "s:alice:bob 1 alice one\ns:alice:bob 2 alice two\ns:alice:bob 3 alice three\n"
    );
}
