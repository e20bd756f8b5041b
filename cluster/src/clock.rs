//! The clocks of processes that were started under libfaketime: each reads a file of its own, from which it learns how far its clock is off.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

/// A process looks into its file so often; in seconds, as libfaketime takes it.
const LOOKS_EVERY_S: u64 = 1;

/// faketime ends when something in /dev/shm has its process id already: a process that was killed, long ago, left it there.
const ATTEMPTS: u32 = 20;

/// Removes what libfaketime leaves in memory when its process is killed; its id may be another one's some day.
pub(crate) fn clean_up_after(process: u32) {
    for name in [format!("faketime_shm_{process}"), format!("sem.faketime_sem_{process}")] {
        // Only a process with a clock of its own has any.
        let _ = std::fs::remove_file(Path::new("/dev/shm").join(name));
    }
}

/// libfaketime, in its build for threads, and where its files are.
#[derive(Debug)]
pub(crate) struct Clocks {
    library: String,
    folder: PathBuf,
}

impl Clocks {
    /// # Errors
    /// When libfaketime is not installed.
    pub(crate) fn new(folder: &Path) -> Result<Self> {
        let mut said = String::new();
        for _ in 0..ATTEMPTS {
            let found = Command::new("faketime").args(["-f", "+0", "env"]).output();
            let found = found.context("faketime is missing: apt-get install faketime")?;
            let text = String::from_utf8(found.stdout)?;
            if let Some(library) = text.lines().find_map(|line| line.strip_prefix("LD_PRELOAD=")) {
                let library = library.replace("libfaketime.so", "libfaketimeMT.so");
                return Ok(Self { library, folder: folder.to_owned() });
            }
            said = String::from_utf8_lossy(&found.stderr).into_owned();
        }
        bail!("faketime preloads no library: {said}")
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.clock"))
    }

    /// What the process `name` is to be started with; its clock is right.
    pub(crate) fn variables(&self, name: &str) -> Result<Vec<(String, String)>> {
        self.step(name, 0)?;
        let file = self.file(name).display().to_string();
        let variables = [
            ("LD_PRELOAD", self.library.clone()),
            ("FAKETIME_TIMESTAMP_FILE", file),
            ("FAKETIME_CACHE_DURATION", LOOKS_EVERY_S.to_string()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
            ("NO_FAKE_STAT", "1".to_owned()),
        ];
        Ok(variables.map(|(variable, value)| (variable.to_owned(), value)).to_vec())
    }

    /// From the next look on the clock of the process `name` is off by so many seconds.
    pub(crate) fn step(&self, name: &str, offset_s: i64) -> Result<()> {
        // Never seen half written.
        let next = self.folder.join(format!("{name}.clock.next"));
        std::fs::write(&next, format!("{offset_s:+}\n"))?;
        Ok(std::fs::rename(next, self.file(name))?)
    }

    /// Whether the process has looked since the last step: the first reading of a file shows in its time of access (mount(8), `relatime`).
    /// No answer of a process would do: HTTP dates stand still after a step back.
    pub(crate) fn is_read(&self, name: &str) -> Result<bool> {
        let file = std::fs::metadata(self.file(name))?;
        Ok(file.accessed()? > file.modified()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{SystemTime, UNIX_EPOCH};

    #[test]
    fn a_process_follows_its_file() {
        roost_testing::host::need_package("/usr/bin/faketime", "faketime");
        let folder = tempfile::tempdir().unwrap();
        let clocks = Clocks::new(folder.path()).unwrap();
        let variables = clocks.variables("date").unwrap();
        for offset_s in [3_600, -90, 0] {
            clocks.step("date", offset_s).unwrap();
            assert!(!clocks.is_read("date").unwrap());
            let said = Command::new("date").arg("+%s").envs(variables.clone()).output().unwrap();
            let said: i64 = String::from_utf8(said.stdout).unwrap().trim().parse().unwrap();
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64;
            assert!((said - now - offset_s).abs() <= 5, "{said} at {now}, off by {offset_s}");
            assert!(clocks.is_read("date").unwrap());
        }
    }
}
