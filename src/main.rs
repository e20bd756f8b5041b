//! The `roost` binary: the command line, and nothing that a library should know.
//!
//! Standard output carries results (lines that other programs read), standard error the log and errors. Exit codes: 0 done,
//! 1 an error that the message explains, 2 a wrong command line, 3 a timeout of `tail`.

mod cli;
mod config;

use std::process::ExitCode;

#[cfg(feature = "planted-bugs")]
compile_error!("`roost` has no bugs on purpose: build `--bin roost-planted`");

fn main() -> ExitCode {
    cli::main()
}
