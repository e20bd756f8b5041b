//! Proves the exit codes and reports of `roost-load` against a server that behaves, one that
//! loses, one that refuses, one that is not there, and with a generator that is held up.
//!
//! Nothing here depends on the speed of the machine: runs take every lag and share the machine,
//! but for the one test that is about a void run, which holds the generator up by itself.

mod fake;

use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use fake::{Fake, Fault};
use serde_json::Value;

const DEADLINE: Duration = Duration::from_secs(60);

struct Run {
    code: i32,
    text: String,
    json: Option<Value>,
    page: Option<String>,
}

fn start(folder: &std::path::Path, server: Option<&Fake>, arguments: &[&str]) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_roost-load"));
    command.args(arguments).current_dir(folder).stdin(Stdio::null());
    if let Some(fake) = server {
        command.arg("--server").arg(fake.frames.to_string());
        command.arg("--http").arg(fake.http.to_string());
        command.args(["--report", "run.html", "--json", "run.json"]);
    }
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn finish(folder: &std::path::Path, child: Child) -> Run {
    let Output { status, stdout, stderr } = child.wait_with_output().unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).ok();
    let json = read("run.json").map(|text| serde_json::from_str(&text).unwrap());
    Run { code: status.code().unwrap_or(-1), text, json, page: read("run.html") }
}

fn run(server: Option<&Fake>, arguments: &[&str]) -> Run {
    let folder = tempfile::tempdir().unwrap();
    let child = start(folder.path(), server, arguments);
    finish(folder.path(), child)
}

/// A short chat.
const CHAT: [&str; 10] = [
    "chat",
    "--users",
    "10",
    "--rate",
    "500",
    "--duration",
    "2",
    "--lag-limit-ms",
    "600000",
    "--shared-machine",
];

#[test]
fn a_good_chat_ends_with_0_and_all_figures() {
    let fake = Fake::start(Fault::None);
    let run = run(Some(&fake), &[&CHAT[..], &["--idle", "20"]].concat());
    assert_eq!(run.code, 0, "{}", run.text);
    assert!(run.text.contains("result: good"), "{}", run.text);
    let json = run.json.unwrap();
    let number = |name: &str| json[name].as_u64().unwrap_or_else(|| panic!("{name} in {json}"));
    assert_eq!(json["scenario"], "chat");
    assert_eq!(number("connections_held"), 30);
    assert!((800..1200).contains(&number("offered")), "{json}");
    for name in ["sent", "acked", "delivered"] {
        assert_eq!(number(name), number("offered"), "{name}");
    }
    for name in ["lost", "duplicates", "inversions"] {
        assert_eq!(number(name), 0, "{name}");
    }
    assert!(json["ack_us"]["p50"].as_u64().unwrap() > 0);
    assert!(json["delivery_us"]["max"].as_u64().unwrap() > 0);
    assert!(json["ack_us"]["p9999"].is_null());
    assert!(json["server"]["rss_bytes"].as_u64().unwrap() > 0);
    assert_eq!(json["environment"]["outcome"], "good");
    assert!(run.page.unwrap().contains("<h1>Good</h1>"));
}

#[test]
fn a_loss_in_the_database_ends_with_1() {
    let fake = Fake::start(Fault::LosesAcked);
    let run = run(Some(&fake), &CHAT);
    assert_eq!(run.code, 1, "{}", run.text);
    assert!(run.text.contains("acknowledged_lost"), "{}", run.text);
    assert!(run.json.unwrap()["lost"].as_u64().unwrap() > 0);
    assert!(run.page.unwrap().contains("<h1>Failed</h1>"));
}

#[test]
fn a_message_never_delivered_ends_with_1() {
    let fake = Fake::start(Fault::NeverDelivers);
    let run = run(Some(&fake), &[&CHAT[..], &["--drain", "2"]].concat());
    assert_eq!(run.code, 1, "{}", run.text);
    assert!(run.text.contains("acknowledged_unseen"), "{}", run.text);
}

#[test]
fn a_missed_threshold_ends_with_1_and_a_mistyped_one_with_3() {
    let fake = Fake::start(Fault::None);
    let folder = tempfile::tempdir().unwrap();
    let slo = |text: &str| {
        let path = folder.path().join("slo.toml");
        std::fs::write(&path, text).unwrap();
        let path = path.to_str().unwrap().to_owned();
        run(Some(&fake), &[&CHAT[..], &["--slo", &path]].concat())
    };
    let missed = slo("ack_us.p50 = 0\nlost = 0");
    assert_eq!(missed.code, 1, "{}", missed.text);
    assert!(missed.text.contains("missed: ack_us.p50 is"), "{}", missed.text);
    let mistyped = slo("ack_us.p5O = 10");
    assert_eq!(mistyped.code, 3, "{}", mistyped.text);
    assert!(mistyped.text.contains("did you mean `ack_us.p50`?"), "{}", mistyped.text);
}

#[test]
fn a_generator_that_was_held_up_ends_with_2() {
    let fake = Fake::start(Fault::None);
    let folder = tempfile::tempdir().unwrap();
    let arguments =
        ["chat", "--users", "10", "--rate", "500", "--duration", "4", "--arrivals", "constant"];
    let child = start(folder.path(), Some(&fake), &arguments);
    wait_until(|| fake.quiet_for().is_some());
    signal(&child, "STOP");
    wait_until(|| fake.quiet_for().is_some_and(|quiet| quiet > Duration::from_millis(500)));
    signal(&child, "CONT");
    let run = finish(folder.path(), child);
    assert_eq!(run.code, 2, "{}", run.text);
    assert!(run.text.contains("the generator lagged"), "{}", run.text);
    // What waited is counted from the time at which it was wanted.
    let json = run.json.unwrap();
    assert!(json["ack_us"]["max"].as_u64().unwrap() > 450_000, "{json}");
    assert_eq!(json["sent"], json["offered"]);
}

#[test]
fn no_server_ends_with_3_and_says_what_to_do() {
    for scenario in [&CHAT[..], &["idle", "--connections", "5"]] {
        let run = run(None, &[scenario, &["--server", "127.0.0.1:1"]].concat());
        assert_eq!(run.code, 3, "{}", run.text);
        assert!(run.text.contains("cannot reach the server at 127.0.0.1:1"), "{}", run.text);
        assert!(run.text.contains("roost dev"), "{}", run.text);
    }
}

#[test]
fn a_server_that_lets_nobody_in_ends_with_3_and_its_reason() {
    let fake = Fake::start(Fault::RefusesTokens);
    let run = run(Some(&fake), &["idle", "--connections", "5", "--hold", "1"]);
    assert_eq!(run.code, 3, "{}", run.text);
    assert!(run.text.contains("bad_token no such key"), "{}", run.text);
}

#[test]
fn mistakes_on_the_command_line_end_with_3() {
    for arguments in [
        &["chat", "--users", "1", "--rate", "5"][..],
        &["chat", "--users", "5", "--rate", "none"],
        &["idle"],
        &["idle", "--connections", "5", "--hodl", "3"],
        &["judge", "/does/not/exist"],
    ] {
        let run = run(None, arguments);
        assert_eq!(run.code, 3, "{arguments:?}: {}", run.text);
        assert!(!run.text.is_empty());
    }
    assert_eq!(run(None, &["--help"]).code, 0);
}

#[test]
fn idle_connections_are_held_and_answer_heartbeats() {
    let fake = Fake::start(Fault::None);
    let run =
        run(Some(&fake), &["idle", "--connections", "200", "--hold", "3", "--shared-machine"]);
    assert_eq!(run.code, 0, "{}", run.text);
    let json = run.json.unwrap();
    assert_eq!(json["connections_held"], 200);
    assert!(json["connect_rate"].as_f64().unwrap() > 0.0);
    assert!(run.page.unwrap().contains("Connections over time"));
}

#[test]
fn a_written_history_is_judged_again() {
    let fake = Fake::start(Fault::LosesAcked);
    let folder = tempfile::tempdir().unwrap();
    let arguments = [&CHAT[..], &["--history", "run.history"]].concat();
    let first = finish(folder.path(), start(folder.path(), Some(&fake), &arguments));
    let again = finish(folder.path(), start(folder.path(), None, &["judge", "run.history"]));
    assert_eq!((first.code, again.code), (1, 1), "{}{}", first.text, again.text);
    assert!(again.text.contains("C1 broken"), "{}", again.text);
}

fn signal(child: &Child, name: &str) {
    let pid = child.id().to_string();
    assert!(Command::new("kill").args(["-s", name, &pid]).status().unwrap().success());
}

fn wait_until(condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < DEADLINE, "waited too long");
        std::thread::yield_now();
    }
}

fn idle_environment(run: &Run) -> &Value {
    &run.json.as_ref().unwrap_or_else(|| panic!("no figures: {}", run.text))["environment"]
}

#[test]
fn idle_connections_go_where_they_are_sent() {
    let owner = Fake::start(Fault::None);
    let gateway = Fake::start(Fault::Redirects(owner.frames));
    let idle = ["idle", "--connections", "200", "--hold", "1", "--shared-machine"];
    let run = run(Some(&gateway), &idle);
    assert_eq!(run.code, 0, "{}", run.text);
    assert_eq!(run.json.as_ref().unwrap()["connections_held"], 200);
    assert_eq!(idle_environment(&run)["idle_lost"], 0);
}

#[test]
fn idle_connections_that_are_sent_to_nobody_fail() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let nowhere = listener.local_addr().unwrap();
    drop(listener);
    let gateway = Fake::start(Fault::Redirects(nowhere));
    let run = run(Some(&gateway), &["idle", "--connections", "20", "--shared-machine"]);
    assert_eq!(run.code, 3, "{}", run.text);
    assert!(run.text.contains("not one of 20"), "{}", run.text);
}

#[test]
fn lost_idle_connections_come_back_when_told_to() {
    // Heartbeats are sent after 0.9 s, and a pause before coming back is at most 1 s.
    let idle = ["idle", "--connections", "50", "--hold", "10", "--shared-machine"];
    let fake = Fake::start(Fault::Cuts);
    let stays = run(Some(&fake), &[&idle[..], &["--reconnect"]].concat());
    assert_eq!(stays.code, 0, "{}", stays.text);
    assert_eq!(idle_environment(&stays)["idle_lost"], 10);
    let fake = Fake::start(Fault::Cuts);
    let goes = run(Some(&fake), &idle);
    assert_eq!(goes.code, 1, "{}", goes.text);
    assert!(goes.text.contains("40 of 50 idle connections held"), "{}", goes.text);
}
