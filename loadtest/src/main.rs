//! `roost-load`: parses the command line, runs a scenario, turns its outcome into the exit code.

use std::fs::File;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use roost_loadtest::checker::{Expectations, History, judge};
use roost_loadtest::options::{Command, Judge, Options};
use roost_loadtest::run::Outcome;
use roost_loadtest::scenario::{chat, idle};

/// A run that could not be made.
const EXIT_ERROR: u8 = 3;

fn main() -> ExitCode {
    roost_memory::in_small_pages();
    let options = match Options::try_parse() {
        Ok(options) => options,
        Err(e) => {
            let is_mistake = e.use_stderr();
            // Nothing is left to tell when even this cannot be written.
            let _ = e.print();
            return ExitCode::from(if is_mistake { EXIT_ERROR } else { 0 });
        }
    };
    let outcome = match options.command {
        Command::Idle(options) => idle::run(options),
        Command::Chat(options) => chat::run(options),
        Command::Judge(options) => judge_files(&options),
    };
    match outcome {
        Ok(outcome) => ExitCode::from(outcome.exit_code()),
        Err(e) => {
            eprintln!("roost-load: {e:#}");
            ExitCode::from(EXIT_ERROR)
        }
    }
}

fn judge_files(options: &Judge) -> Result<Outcome> {
    let mut history = History::new();
    for path in &options.files {
        let name = path.display();
        let mut file = File::open(path).with_context(|| format!("cannot open {name}"))?;
        let (part, is_cut) = History::read_from(&mut file).with_context(|| name.to_string())?;
        if is_cut {
            eprintln!("{name}: the recorder was cut off, its last block is left out");
        }
        history.absorb(&part);
    }
    let verdict = judge(&history, &Expectations::default());
    println!("{verdict}");
    Ok(if verdict.is_pass() { Outcome::Good } else { Outcome::Failed })
}
