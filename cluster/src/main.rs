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

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn command_line_is_consistent() {
        Arguments::command().debug_assert();
    }
}
