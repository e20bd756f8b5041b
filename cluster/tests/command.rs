//! `up` leaves a working cluster behind, `status` says what is wrong with it, `restart` and `down` do what they say: with the programs and
//! files that a person has.

mod support;

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use roost_testing::host::wait_until;
use support::{cluster, fails, free_port_base, ok, roost};

fn act(roost: &Path, verb: &str, folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(roost);
    command.args([verb, "--config"]).arg(folder.join("logic-1.toml")).args(arguments);
    command.stdin(Stdio::null());
    command
}

/// The process of a line of `status`.
fn process(status: &str, name: &str) -> u32 {
    let line = status.lines().find(|line| line.starts_with(name)).expect(name);
    let mut words = line.split_whitespace().skip_while(|word| *word != "process").skip(1);
    words.next().and_then(|word| word.parse().ok()).expect(line)
}

fn signal(signal: &str, process: u32) {
    let sent = Command::new("kill").args([signal, &process.to_string()]).status();
    assert!(sent.unwrap().success());
}

/// Ends the cluster when the test fails.
struct Cleared<'a>(&'a Path);

impl Drop for Cleared<'_> {
    fn drop(&mut self) {
        if self.0.exists() {
            _ = cluster(&["down"], self.0);
        }
    }
}

#[test]
fn a_cluster_lives_from_up_to_down() {
    let roost = roost();
    let scratch = tempfile::tempdir().unwrap();
    // Services have users of their own, who must be able to enter.
    let everybody = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(scratch.path(), everybody).unwrap();
    let folder = scratch.path().join("cluster");
    let cleared = Cleared(&folder);
    let base = free_port_base().to_string();
    let up = ["up", "--store", "mariadb", "--port-base", &base];

    fails(&cluster(&["status"], &folder), &["no cluster in", "up"]);
    fails(&cluster(&["up", "--store", "sqlite", "--logic", "2"], &folder), &["--logic 1"]);
    assert!(!folder.exists(), "what cannot be leaves nothing behind");

    let said = ok(&cluster(&up, &folder));
    assert_eq!(said.lines().last(), Some("ready"), "{said}");
    assert!(said.contains("roost send") && said.contains("roost-load chat"), "{said}");
    let status = ok(&cluster(&["status"], &folder));
    for name in ["gw-1", "gw-2", "logic-1", "RabbitMQ", "Redis", "MariaDB"] {
        assert!(status.lines().any(|l| l.starts_with(name) && l.ends_with(" ready")), "{status}");
    }
    fails(&cluster(&up, &folder), &["a cluster runs in", "down"]);

    // Its users reach each other, whichever gateway each belongs to.
    let sent = act(&roost, "send", &folder, &["--as", "alice", "--to", "bob", "hello"]).output();
    assert!(ok(&sent.unwrap()).contains("acked conversation=s:alice:bob seq=1"));
    let mut tail = act(&roost, "tail", &folder, &["--as", "bob", "--from-start", "--count", "2"]);
    let mut tail = tail.stdout(Stdio::piped()).spawn().unwrap();
    let mut tailed = BufReader::new(tail.stdout.take().expect("piped"));
    let mut seen = String::new();
    tailed.read_line(&mut seen).unwrap();
    assert!(seen.contains("hello"), "{seen}");
    let restarted = ok(&cluster(&["restart", "--rolling"], &folder));
    assert_eq!(restarted.lines().count(), 3, "{restarted}");
    let after = ok(&cluster(&["status"], &folder));
    assert_ne!(process(&status, "gw-2"), process(&after, "gw-2"));
    assert_eq!(process(&status, "Redis"), process(&after, "Redis"));
    let sent = act(&roost, "send", &folder, &["--as", "alice", "--to", "bob", "again"]).output();
    assert!(ok(&sent.unwrap()).contains("seq=2"));
    tailed.read_to_string(&mut seen).unwrap();
    assert!(seen.contains("again") && tail.wait().unwrap().success(), "{seen}");

    // What is wrong is named.
    let redis = process(&after, "Redis");
    signal("-STOP", redis);
    fails(&cluster(&["status"], &folder), &["STOPPED", "1 of 7"]);
    signal("-CONT", redis);
    signal("-KILL", process(&after, "gw-1"));
    // Until the system has ended it, its port still answers something.
    wait_until("the end of gw-1", Duration::from_secs(30), || {
        String::from_utf8_lossy(&cluster(&["status"], &folder).stdout).contains("GONE")
    });
    fails(&cluster(&["status"], &folder), &["GONE"]);

    ok(&cluster(&["down"], &folder));
    assert!(!folder.exists());
    for name in ["gw-1", "gw-2", "logic-1", "RabbitMQ", "epmd", "Redis", "MariaDB"] {
        let id = process(&after, name);
        // One that ended has none, also until its new parent has noticed.
        let command_line = std::fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
        assert!(command_line.is_empty(), "{name} still runs");
    }
    drop(cleared);
}
