//! `roost-cluster`: a whole cluster on this machine, and what breaks it.

use std::process::Command;

use anyhow::{Context, Result};

use crate::command::{self, cargo, install_packages};

/// Programs that some verbs need, and the Debian package of each; services are installed when they are started.
const NEEDED: [(&str, &str); 4] =
    [("cc", "gcc"), ("setpriv", "util-linux"), ("nft", "nftables"), ("faketime", "faketime")];

#[derive(clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Options {
    /// For roost-cluster: --help lists them
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

/// `cargo xtask cluster ARGUMENTS`.
pub(crate) fn run(options: &Options) -> Result<()> {
    start(&[], options)
}

/// `cargo xtask chaos ARGUMENTS`.
pub(crate) fn chaos(options: &Options) -> Result<()> {
    start(&["chaos"], options)
}

/// `cargo xtask recovery ARGUMENTS`.
pub(crate) fn recovery(options: &Options) -> Result<()> {
    start(&["recovery"], options)
}

fn start(verb: &[&str], options: &Options) -> Result<()> {
    build()?;
    let mut cluster = Command::new("target/release/roost-cluster");
    let status = cluster.args(verb).args(&options.arguments).status();
    let status = status.context("starting roost-cluster")?;
    // It has said what is wrong.
    std::process::exit(status.code().unwrap_or(1))
}

/// The programs of a cluster and of its load, and what they need.
pub(super) fn build() -> Result<()> {
    install_packages(&NEEDED)?;
    let packages =
        ["--package", "roost", "--package", "roost-loadtest", "--package", "roost-cluster"];
    command::run(cargo().args(["build", "--release", "--quiet"]).args(packages))
}
