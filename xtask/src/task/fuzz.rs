//! Fuzz targets with libFuzzer, one after the other. The replay of their corpora is part of the
//! ordinary tests; this task looks for new findings.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::command::{self, works};

const TARGETS: &str = "fuzz/fuzz_targets";
/// Inputs found here; the checked-in corpus stays as it is.
const FOUND: &str = "target/fuzz-corpus";

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Executions of each target
    #[arg(long, default_value_t = 10_000_000)]
    executions: u64,
    /// Only these targets
    targets: Vec<String>,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    ensure!(
        works("cargo", &["+nightly", "--version"]),
        "libFuzzer needs the nightly toolchain: rustup toolchain install nightly"
    );
    ensure!(
        works("cargo", &["+nightly", "fuzz", "--version"]),
        "cargo-fuzz is missing: cargo install --locked cargo-fuzz"
    );
    let known = targets()?;
    let wanted = if options.targets.is_empty() { &known } else { &options.targets };
    for target in wanted {
        ensure!(known.contains(target), "no fuzz target {target}; there are {}", known.join(", "));
        fuzz(target, options.executions)?;
    }
    Ok(())
}

fn targets() -> Result<Vec<String>> {
    let entries = fs::read_dir(TARGETS).with_context(|| format!("reading {TARGETS}"))?;
    let mut names = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "rs")
            && let Some(name) = path.file_stem()
        {
            names.push(name.to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
}

/// New inputs go to the first corpus folder named.
fn fuzz(target: &str, executions: u64) -> Result<()> {
    let found = format!("{FOUND}/{target}");
    fs::create_dir_all(&found).with_context(|| format!("making {found}"))?;
    let checked_in = format!("fuzz/corpus/{target}");
    let mut command = Command::new("cargo");
    command.args(["+nightly", "fuzz", "run", "--features", "libfuzzer", target, &found]);
    if Path::new(&checked_in).is_dir() {
        command.arg(&checked_in);
    }
    command::run(command.args(["--", &format!("-runs={executions}")]))
}
