//! `cargo xtask TASK`: the tasks of this repository under the names CI runs.
//!
//! A task is a list of ordinary commands, printed as they run; what each needs and is missing is
//! installed when this can be done quietly, else named together with the command that gets it.

mod command;
mod task;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Tasks of this repository")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Everything CI checks: format, clippy, and all tests
    Test,
    /// Format check and clippy, warnings denied
    Lint,
    /// End-to-end tests of the `roost` binary
    E2e,
    /// The gateway against the floors in one run, or with --cluster all tiers on two cores
    Bench(task::bench::Options),
    /// A whole cluster on this machine: up, status, restart --rolling, down
    Cluster(task::cluster::Options),
    /// Break a cluster under load and judge what was kept
    Chaos(task::cluster::Options),
    /// Take each part of a cluster away under load, and measure for how long that is felt
    Recovery(task::cluster::Options),
    /// Fuzz targets, on the nightly toolchain
    Fuzz(task::fuzz::Options),
    /// Code generated from the FlatBuffers schema
    Generate(task::generate::Options),
}

fn main() -> ExitCode {
    let Arguments { task } = Arguments::parse();
    match command::enter_workspace().and_then(|()| run(&task)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: &Task) -> anyhow::Result<()> {
    match task {
        Task::Test => task::test::run(),
        Task::Lint => task::lint::run(),
        Task::E2e => task::test::end_to_end(),
        Task::Bench(options) => task::bench::run(options),
        Task::Cluster(options) => task::cluster::run(options),
        Task::Chaos(options) => task::cluster::chaos(options),
        Task::Recovery(options) => task::cluster::recovery(options),
        Task::Fuzz(options) => task::fuzz::run(options),
        Task::Generate(options) => task::generate::run(options),
    }
}
