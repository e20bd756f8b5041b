//! G1-G4 under crashes: `kill -9` of the whole server at any moment, fifty times under load, loses, repeats and reorders
//! nothing; the drivers take turns.
//! The load's users reconnect by themselves; the history checker judges everything that was sent, shown and stored. The load goes on until
//! the last kill. Latency is not judged: the machine may be busy with anything.

mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser as _;
use roost_loadtest::options::{Command, Options as LoadOptions};
use roost_loadtest::scenario::{Conductor, chat};

use support::{DRIVERS, Options, Server, Stdlog};

const KILLS: usize = 50;
/// A life ends after fewer SENDs than this: from just after `ready` to well into traffic.
const LIFE_SENDS_MAX: u32 = 600;
/// Longest time for the users to come back to a server and send so much.
const LIFE_MAX: Duration = Duration::from_secs(60);
/// The load ends with the kills; this only bounds it.
const LOAD_SECONDS_MAX: usize = KILLS * LIFE_MAX.as_secs() as usize;
/// For users to come back after the last kill and everything to be delivered.
const DRAIN_SECONDS_MAX: u32 = 120;

/// Fewer acknowledgements prove little; as many are offered in half a minute, and the kills take longer.
const ACKED_MIN: u64 = 8_000;

/// Waits for a moment in the server's life, counted in what it received: a slow machine lives longer, not idler.
fn live(server: &Server, sends: u32) {
    let metrics = format!("http://{}/metrics", server.admin());
    support::wait_at_most(LIFE_MAX, "the users to be back and send", || {
        let name = "roost_gateway_frames_received_total{kind=\"SEND\"";
        (support::metric(&metrics, name) >= f64::from(sends)).then_some(())
    });
}

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
        format!("--duration={LOAD_SECONDS_MAX}"),
        format!("--drain={DRAIN_SECONDS_MAX}"),
    ];
    let Command::Chat(load) = LoadOptions::try_parse_from(arguments).unwrap().command else {
        panic!("not chat")
    };
    let conductor = Arc::<Conductor>::default();
    let load = std::thread::spawn({
        let conductor = Arc::clone(&conductor);
        move || chat::run_with(load, &conductor).unwrap()
    });

    // Not before the load runs: creating users and logging in are not what is killed here.
    live(&server, LIFE_SENDS_MAX);
    let seed = u64::from(std::process::id());
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut sends_seen = 0;
    for kill in 0..KILLS {
        let sends = random.u32(0..LIFE_SENDS_MAX);
        live(&server, sends);
        sends_seen += u64::from(sends);
        let at = Instant::now();
        server.kill_nine();
        conductor.record_kill(at, true);
        options.driver = DRIVERS[kill % DRIVERS.len()];
        server = Server::start(&options);
    }
    conductor.end();
    let run = load.join().unwrap();
    let verdict = run.verdict.as_ref().expect("messages were sent");
    assert!(verdict.is_pass(), "{verdict}");
    assert_eq!(run.failures, [""; 0]);
    let counts = verdict.counts;
    assert_eq!((counts.acked, counts.settled), (counts.sent, 60), "{verdict}");
    println!(
        "{} acknowledged; the killed servers received {sends_seen} SENDs at least",
        counts.acked
    );
    assert!(counts.acked >= ACKED_MIN, "proves little: {verdict}");
    assert_eq!(counts.kills, KILLS as u64);
}
