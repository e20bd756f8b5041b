//! `roost-cluster`: what `cargo xtask cluster` and `cargo xtask chaos` run.

use std::process::ExitCode;

use clap::Parser as _;
use roost_cluster::command::{self, Arguments};

fn main() -> ExitCode {
    match command::run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
