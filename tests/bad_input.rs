//! Bad input gets a clear error that names what to do: command lines, configuration, ports, folders, tokens, receivers, bodies.

mod support;

use std::io::Write as _;
use std::net::TcpListener;

use support::{Options, Server, roost, run_fails, run_ok, send};

fn command(arguments: &[&str]) -> std::process::Command {
    let mut command = roost();
    command.args(arguments);
    command
}

#[test]
fn wrong_flags() {
    run_fails(command(&["dev", "--shrads", "2"]), 2, &["--shrads", "--shards"]);
    run_fails(command(&["dev", "--driver", "kqueue"]), 2, &["kqueue", "io_uring", "epoll"]);
    run_fails(command(&["dev", "--shards", "0"]), 2, &["--shards"]);
    run_fails(command(&["dev", "--port-base", "70000"]), 2, &["--port-base"]);
    run_fails(command(&["send", "--as", "alice"]), 2, &["--to"]);
    run_fails(command(&["token", "--as", "not valid!"]), 1, &["not valid!"]);
    run_fails(command(&["sned"]), 2, &["send"]);
}

#[test]
fn configuration_mistakes_name_line_and_nearest_key() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    writeln!(file, "[bus]\npartitons = 64").unwrap();
    let path = file.path().to_str().unwrap().to_owned();
    run_fails(
        command(&["config", "check", &path]),
        1,
        &[":2:", "`bus.partitons`", "did you mean `partitions`"],
    );
    run_fails(command(&["gateway", "--config", &path]), 1, &["partitons"]);
    run_fails(
        command(&["config", "check", "/nowhere/roost.toml"]),
        1,
        &["/nowhere/roost.toml", "config print"],
    );

    let printed = run_ok(command(&["config", "print"]));
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(printed.as_bytes()).unwrap();
    let path = file.path().to_str().unwrap().to_owned();
    run_ok(command(&["config", "check", &path]));
    // Nobody listens on port 9 of this machine.
    for tier in ["gateway", "logic"] {
        let mut without_broker = command(&[tier, "--config", &path]);
        without_broker.env("ROOST_BUS__URL", "amqp://127.0.0.1:9/%2f");
        run_fails(without_broker, 1, &["127.0.0.1:9", "bus.url", "RabbitMQ running"]);
    }
    let mut with_variable = command(&["config", "check", &path]);
    with_variable.env("ROOST_BUS__PARTITION", "3");
    run_fails(with_variable, 1, &["ROOST_BUS__PARTITION", "partitions"]);
}

#[test]
fn busy_port() {
    let folder = tempfile::tempdir().unwrap();
    let options = Options::new(folder.path());
    let taken = TcpListener::bind(("127.0.0.1", options.port_base + 1)).unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    run_fails(options.command(), 1, &[&port, "--port-base"]);
    drop(taken);
    let taken = TcpListener::bind(("127.0.0.1", options.port_base)).unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    run_fails(options.command(), 1, &[&port, "--port-base"]);
}

#[test]
fn doctor_knows_a_server_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let options = Options::new(folder.path());
    let port_base = options.port_base.to_string();
    let path = folder.path().to_str().unwrap();
    let doctor = || command(&["doctor", "--port-base", &port_base, "--data-dir", path]);

    let taken = TcpListener::bind(("127.0.0.1", options.port_base)).unwrap();
    run_fails(doctor(), 1, &[]);
    drop(taken);
    let server = Server::start(&options);
    let said = run_ok(doctor());
    let used = format!("{port_base} is used by the Roost that runs here");
    assert!(said.contains(&used), "{said}");
    drop(server);
}

#[test]
fn folders() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a-file");
    std::fs::write(&file, "x").unwrap();
    run_fails(Options::new(&file).command(), 1, &["a-file", "--data-dir"]);
    run_fails(
        Options::new("/proc/roost-data".as_ref()).command(),
        1,
        &["/proc/roost-data", "--data-dir"],
    );

    let options = Options::new(folder.path());
    let server = Server::start(&options);
    let path = folder.path().to_str().unwrap();
    run_fails(Options::new(folder.path()).command(), 1, &[path, "in use", "--data-dir"]);
    // With the same ports too it is the folder that is named: other ports would not help.
    run_fails(options.command(), 1, &[path, "in use", "--data-dir"]);
    let is_lock = |name: &String| name.contains("lock");
    let names = std::fs::read_dir(folder.path()).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert_eq!(names.filter(is_lock).collect::<Vec<_>>(), ["roost.lock"]);
    drop(server);

    let damaged = tempfile::tempdir().unwrap();
    Server::start(&Options::new(damaged.path())).stop();
    let database = std::fs::read_dir(damaged.path())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().is_some_and(|e| e == "db" || e == "sqlite"))
        .expect("a database file");
    std::fs::write(&database, vec![0x5a; 64 * 1024]).unwrap();
    let name = database.file_name().unwrap().to_str().unwrap().to_owned();
    run_fails(Options::new(damaged.path()).command(), 1, &[&name]);
}

#[test]
fn tokens_receivers_and_bodies() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(&Options::new(folder.path()));
    run_fails(send(&server, "alice", "nobody-at-all", "hi"), 1, &["unknown_user", "nobody-at-all"]);
    run_fails(send(&server, "alice", "bob", &"x".repeat(17 * 1024)), 1, &["16384"]);

    // Far enough in the past that no leeway for clocks covers it.
    let now_s = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
    let mut with_expired = send(&server, "alice", "bob", "hi");
    with_expired.args(["--token", &support::wire::mint_at("alice", now_s - 7_200)]);
    run_fails(with_expired, 1, &["token_expired"]);

    let token = run_ok(command(&["token", "--as", "alice"]));
    let mut forged = token.trim().to_owned();
    let last = forged.pop().unwrap();
    forged.push(if last == 'A' { 'B' } else { 'A' });
    let middle = forged.len() / 2;
    forged.replace_range(middle..=middle, if &forged[middle..=middle] == "x" { "y" } else { "x" });
    let mut with_forged = send(&server, "alice", "bob", "hi");
    with_forged.args(["--token", &forged]);
    run_fails(with_forged, 1, &["bad_token"]);

    // Still alive and well.
    run_ok(send(&server, "alice", "bob", "hi"));
}

#[test]
fn no_server() {
    let mut to_nowhere = roost();
    to_nowhere.args(["send", "--server", "127.0.0.1:9", "--as", "alice", "--to", "bob", "hi"]);
    run_fails(to_nowhere, 1, &["127.0.0.1:9", "roost dev"]);
}
