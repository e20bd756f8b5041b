//! `roost-bench`: the gateway against the floors and, where they can be had, against brokers.

use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::command::{self, cargo, install_packages};

/// Brokers measured beside us, and the Debian package of each.
const PEERS: [(&str, &str); 2] = [("mosquitto", "mosquitto"), ("nats-server", "nats-server")];

/// Exit code of a run that others on the machine disturbed.
const EXIT_VOID: i32 = 2;

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Do not install brokers to compare with
    #[arg(long)]
    no_peers: bool,
    /// The criterion benches of single parts instead
    #[arg(long)]
    parts: bool,
    /// For roost-bench (--quick, --only NAME, --help ...), or for criterion: a filter
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    if options.parts {
        let bench = ["bench", "--package", "roost-benches", "--"];
        return command::run(cargo().args(bench).args(&options.arguments));
    }
    if !options.no_peers
        && let Err(reason) = install_packages(&PEERS)
    {
        println!("without brokers: {reason:#}");
    }
    command::run(cargo().args(["build", "--release", "--package", "roost-benches"]))?;
    let mut bench = Command::new("target/release/roost-bench");
    let status = bench.args(&options.arguments).status().context("starting roost-bench")?;
    match status.code() {
        Some(0) => Ok(()),
        // Neither good nor bad, and told apart by whoever called us.
        Some(EXIT_VOID) => std::process::exit(EXIT_VOID),
        _ => bail!("roost-bench failed: {status}"),
    }
}
