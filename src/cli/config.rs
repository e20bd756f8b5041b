//! `roost config print` and `roost config check FILE`.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;

use crate::config::Config;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Write the complete configuration with its defaults and comments.
    Print,
    /// Check a file and the ROOST_* environment variables over it; an error names line, key and the nearest known key.
    Check {
        /// The file.
        file: PathBuf,
    },
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    match &args.verb {
        Verb::Print => {
            std::io::stdout().write_all(roost_config::commented_toml::<Config>().as_bytes())?
        }
        Verb::Check { file } => {
            Config::load(file)?;
            println!("{}: valid", file.display());
        }
    }
    Ok(ExitCode::SUCCESS)
}
