//! `roost-bench`: the gateway against the floors and, where they can be had, against brokers. `roost-cluster bench`: all tiers.

use std::process::Command;

use anyhow::{Context, Result, bail};

use super::cluster;
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
    /// All tiers with RabbitMQ, Redis and each database on two cores instead, and batches over RabbitMQ
    #[arg(long, conflicts_with = "parts")]
    cluster: bool,
    /// Cores of --cluster, services and load included
    #[arg(long, value_name = "LIST", default_value = "0,1")]
    cores: String,
    /// For roost-bench (--quick, --only NAME, --help ...), or for criterion: a filter, or for roost-cluster bench
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    if options.parts {
        let bench = ["bench", "--package", "roost-benches", "--"];
        return command::run(cargo().args(bench).args(&options.arguments));
    }
    if options.cluster {
        return of_cluster(options);
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

fn of_cluster(options: &Options) -> Result<()> {
    install_packages(&[("taskset", "util-linux")])?;
    cluster::build()?;
    let example = ["--release", "--quiet", "--package", "roost-bus", "--example", "rabbitmq"];
    command::run(cargo().arg("build").args(example))?;
    let on_cores = |program: &str| {
        let mut command = Command::new("taskset");
        command.args(["--cpu-list", &options.cores, program]);
        command
    };
    // Both are run, and either fails the task.
    let batches = command::run(&mut on_cores("target/release/examples/rabbitmq"));
    let mut tiers = on_cores("target/release/roost-cluster");
    command::run(tiers.arg("bench").args(&options.arguments)).and(batches)
}
