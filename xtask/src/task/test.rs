//! All tests: unit, property, simulation, replay of the fuzz corpora, end to end.
//!
//! With cargo-nextest when it is installed (a process for each test), else with `cargo test`; both
//! run the same tests, and the last line is the runner's own.

use anyhow::Result;

use super::lint;
use crate::command::{self, cargo, install_packages, works};

/// Programs that building and testing need, and the Debian package of each: SQLite and the fuzz
/// harness are compiled from C and C++; one test moves the clock, one verifies systemd units, one cuts connections.
const NEEDED: [(&str, &str); 5] = [
    ("cc", "gcc"),
    ("c++", "g++"),
    ("faketime", "faketime"),
    ("systemd-analyze", "systemd"),
    ("nft", "nftables"),
];

/// Everything CI checks.
pub(crate) fn run() -> Result<()> {
    install_packages(&NEEDED)?;
    lint::run()?;
    command::run(cargo().args(["test", "--workspace", "--doc", "--quiet"]))?;
    // As its test does it, which so need not wait for it.
    let planted = ["--features", "roost/planted-bugs", "--bin", "roost-planted"];
    let alike = ["build", "--workspace", "--test", "planted_bugs"];
    command::run(cargo().args(alike).args(planted))?;
    run_tests(&["--workspace"])
}

/// Only the tests that start the `roost` binary.
pub(crate) fn end_to_end() -> Result<()> {
    install_packages(&NEEDED)?;
    run_tests(&["--package", "roost"])
}

fn run_tests(selection: &[&str]) -> Result<()> {
    if works("cargo", &["nextest", "--version"]) {
        command::run(cargo().args(["nextest", "run", "--no-fail-fast"]).args(selection))
    } else {
        let targets = ["--lib", "--bins", "--tests"];
        command::run(cargo().args(["test", "--no-fail-fast"]).args(selection).args(targets))
    }
}
