//! Every planted bug is found, by an attack that the ordinary program survives; and the ordinary program has none.
//!
//! `ROOST_PLANTED_ONLY=no-mandatory` looks for one alone.

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;

use clap::Parser as _;
use roost_cluster::chaos::planted;

use support::{fails, free_port_base, ok, roost};

/// A name that only a program with bugs knows.
const NAME: &str = "delete-route-on-close";

#[derive(clap::Parser)]
struct Line {
    #[command(flatten)]
    shape: roost_cluster::Shape,
}

/// `roost-planted`, built into the same folder as all else. The whole workspace and a test are named so that dependencies have the features
/// that they have in a build of all tests: four packages are built, and nothing else.
fn roost_planted() -> PathBuf {
    let built = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--workspace", "--features", "roost/planted-bugs"])
        .args(["--bin", "roost-planted", "--test", "planted_bugs"])
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .status();
    assert!(built.expect("cargo starts").success());
    Path::new(env!("CARGO_BIN_EXE_roost-cluster")).with_file_name("roost-planted")
}

#[test]
fn every_planted_bug_is_found() {
    let base = free_port_base().to_string();
    let shape = Line::parse_from(["planted", "--port-base", &base]).shape;
    let only = std::env::var("ROOST_PLANTED_ONLY").ok();
    planted::run(&roost(), &roost_planted(), &shape, only.as_deref()).unwrap();
}

#[test]
fn the_ordinary_program_has_no_bug_and_takes_none() {
    let knows = |program: &Path| {
        let bytes = std::fs::read(program).unwrap();
        bytes.windows(NAME.len()).any(|window| window == NAME.as_bytes())
    };
    let (ordinary, planted) = (roost(), roost_planted());
    assert!(knows(&planted) && !knows(&ordinary));
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("roost.toml");
    std::fs::write(&file, "").unwrap();
    let check = |program: &Path, bug: &str| {
        let mut command = Command::new(program);
        command.args(["config", "check"]).arg(&file).env("ROOST_PLANTED_BUG", bug);
        command.output().unwrap()
    };
    fails(&check(&ordinary, NAME), &["ROOST_PLANTED_BUG"]);
    ok(&check(&planted, NAME));
    fails(&check(&planted, "no-such-bug"), &["ROOST_PLANTED_BUG", NAME]);
}
