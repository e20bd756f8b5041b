//! Format and clippy, warnings denied.

use anyhow::{Result, ensure};

use crate::command::{self, cargo, works};

pub(crate) fn run() -> Result<()> {
    for component in ["fmt", "clippy"] {
        let name = if component == "fmt" { "rustfmt" } else { component };
        ensure!(
            works("cargo", &[component, "--version"])
                || works("rustup", &["component", "add", name]),
            "cargo {component} is missing: rustup component add {name}"
        );
    }
    command::run(cargo().args(["fmt", "--all", "--check"]))?;
    command::run(cargo().args([
        "clippy",
        "--workspace",
        "--all-targets",
        "--",
        "--deny",
        "warnings",
    ]))
}
