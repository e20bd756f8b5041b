//! G1-G4 under crashes: `kill -9` of the whole server at any moment, fifty times under load, loses, repeats and reorders
//! nothing; the drivers take turns.
//! The load's users reconnect by themselves; the history checker judges everything that was sent, shown and stored.

mod support;

use std::time::Duration;

use clap::Parser as _;
use roost_loadtest::options::{Command, Options as LoadOptions};
use roost_loadtest::run::Outcome;
use roost_loadtest::scenario::chat;

use support::{DRIVERS, Options, Server, Stdlog};

const KILLS: usize = 50;
/// Load goes on at least this long; the kills have to be done before.
const LOAD_SECONDS: u32 = 120;

#[test]
fn fifty_kills_under_load_lose_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut options = Options::new(folder.path());
    options.log = Stdlog::Discard;
    let mut server = Server::start(&options);
    let arguments = [
        "roost-load".to_owned(),
        "chat".to_owned(),
        format!("--server={}", server.frames()),
        format!("--http={}", server.http()),
        "--users=60".to_owned(),
        "--rate=300".to_owned(),
        format!("--duration={LOAD_SECONDS}"),
        "--drain=60".to_owned(),
        // The machine is busy starting servers: latency is not judged here.
        "--lag-limit-ms=3600000".to_owned(),
    ];
    let Command::Chat(load) = LoadOptions::try_parse_from(arguments).unwrap().command else {
        panic!("not chat")
    };
    let load = std::thread::spawn(move || chat::run(load).unwrap());

    // Not before the load runs: creating users and logging in are not what is killed here.
    let metrics = format!("http://{}/metrics", server.admin());
    support::wait_for("the load to run", || {
        let received = support::metric(&metrics, "roost_gateway_received_bytes_total");
        (received > 200_000.0).then_some(())
    });
    let seed = u64::from(std::process::id());
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    for kill in 0..KILLS {
        // The fault itself: a random moment of a life, from just after `ready` to well into traffic.
        let life = Duration::from_millis(random.u64(0..1_200));
        std::thread::park_timeout(life);
        server.kill_nine();
        options.driver = DRIVERS[kill % DRIVERS.len()];
        server = Server::start(&options);
    }
    assert!(!load.is_finished(), "the load ended before the last kill");
    assert_eq!(load.join().unwrap(), Outcome::Good);
}
