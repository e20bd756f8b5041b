//! Proves, for whole clients against a model of the server on a network that loses, cuts, delays and repeats: every
//! message is acknowledged at one place; each device shows each conversation strictly +1 and every message once; when
//! faults end, send queues empty and all devices of a conversation agree with the server's log.
//!
//! One seed decides everything and is printed on failure: `ROOST_SEED=<n> cargo test -p roost-client --test simulation`.

mod faults;
mod model;
mod promises;
mod server;
mod world;

use faults::Faults;
use world::World;

fn run(seed: u64, faults: Faults) {
    let outcome = std::panic::catch_unwind(|| {
        let mut world = World::new(seed, faults);
        world.run_with_faults();
        world.heal();
        world.check();
    });
    if let Err(panic) = outcome {
        eprintln!("seed {seed}, {faults:?}: rerun with ROOST_SEED={seed}");
        std::panic::resume_unwind(panic);
    }
}

fn seeds(count: u64) -> std::ops::Range<u64> {
    let number = |name| std::env::var(name).ok().map(|n: String| n.parse().expect("a number"));
    match number("ROOST_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("ROOST_SEEDS").unwrap_or(count),
    }
}

#[test]
fn quiet_network() {
    for seed in seeds(10) {
        run(seed, Faults::NONE);
    }
}

#[test]
fn lossy_network() {
    for seed in seeds(40) {
        run(seed, Faults::LOSSY);
    }
}

#[test]
fn hostile_network() {
    for seed in seeds(60) {
        run(seed, Faults::HOSTILE);
    }
}
