//! `roost gateway` and `roost logic`: the two tiers as separate processes.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};

use crate::config::Config;

/// Which tier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tier {
    Gateway,
    Logic,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Configuration file; `roost config print` writes a complete one.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

pub(crate) fn run(tier: Tier, args: &Args) -> Result<ExitCode> {
    Config::load(&args.config)?;
    let name = match tier {
        Tier::Gateway => "gateway",
        Tier::Logic => "logic",
    };
    bail!(
        "{} is valid, but `roost {name}` as its own process needs the RabbitMQ bus, which this version does not have yet.\n\
         Run both tiers in one process instead:  roost dev",
        args.config.display()
    )
}
