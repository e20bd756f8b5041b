//! `roost-planted`: `roost` with one bug, which the environment variable ROOST_PLANTED_BUG names. Tests of the fault tests start it; nobody
//! else has a use for it.

mod cli;
mod config;

use std::process::ExitCode;

use roost_bus::planted;

fn main() -> ExitCode {
    if let Ok(bug) = std::env::var(planted::VARIABLE)
        && let Err(error) = planted::plant(&bug)
    {
        eprintln!("roost-planted: {error}");
        return ExitCode::FAILURE;
    }
    cli::main()
}
