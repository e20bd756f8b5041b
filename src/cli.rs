//! The command line: one module per verb.

pub(crate) mod config;
pub(crate) mod dev;
pub(crate) mod doctor;
pub(crate) mod logging;
pub(crate) mod login;
mod members;
pub(crate) mod send;
pub(crate) mod tail;
pub(crate) mod tier;
pub(crate) mod token;
pub(crate) mod trace;
mod traces;

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};

/// Parses the command line and does what it says.
pub(crate) fn main() -> ExitCode {
    roost_memory::in_small_pages();
    let arguments = Arguments::parse();
    logging::start(arguments.log_format);
    match arguments.run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("roost: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Instant messaging server for very large numbers of live connections.
#[derive(Debug, Parser)]
#[command(name = "roost", version, about, after_help = "Start with:  roost dev")]
pub(crate) struct Arguments {
    /// Format of the log on standard error. Its level is set by the environment variable RUST_LOG, e.g. RUST_LOG=debug.
    #[arg(long, global = true, value_enum, default_value_t = logging::Format::Text, env = "ROOST_LOG_FORMAT")]
    pub(crate) log_format: logging::Format,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Everything in one process: gateway, logic, bus and SQLite. Needs no service and no configuration.
    Dev(dev::Args),
    /// The gateway tier: holds connections. Needs RabbitMQ.
    Gateway(tier::Args),
    /// The logic tier: handles messages and stores them. Needs RabbitMQ; stores in MariaDB, MySQL, PostgreSQL or SQLite.
    Logic(tier::LogicArgs),
    /// Send one message and wait for its acknowledgement.
    Send(send::Args),
    /// Print the messages of a user, one line each, as they come.
    Tail(tail::Args),
    /// Print where a message is and when it passed each hop, as the processes remember it.
    Trace(trace::Args),
    /// Print an access token made with the development key, or with a key of a configuration.
    Token(token::Args),
    /// Print or check configuration.
    Config(config::Args),
    /// Look at this machine: kernel, io_uring, limits, sysctls, ports; and say what to do.
    Doctor(doctor::Args),
    /// Print a shell completion script.
    Completions {
        /// For which shell.
        shell: clap_complete::Shell,
    },
}

impl Arguments {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        match self.verb {
            Verb::Dev(args) => dev::run(&args),
            Verb::Gateway(args) => tier::run(tier::Tier::Gateway, &args),
            Verb::Logic(args) => tier::run_logic(&args),
            Verb::Send(args) => send::run(&args),
            Verb::Tail(args) => tail::run(&args),
            Verb::Trace(args) => trace::run(&args),
            Verb::Token(args) => token::run(&args),
            Verb::Config(args) => config::run(&args),
            Verb::Doctor(args) => doctor::run(&args),
            Verb::Completions { shell } => {
                clap_complete::generate(
                    shell,
                    &mut Self::command(),
                    "roost",
                    &mut std::io::stdout(),
                );
                Ok(ExitCode::SUCCESS)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_line_is_consistent() {
        Arguments::command().debug_assert();
    }
}
