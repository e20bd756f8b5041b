//! A disk of the database's own that can be full: a file system in memory whose size shrinks to what is used. Unmounted with the value; what a
//! killed run left is unmounted by the next one.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

const PREFIX: &str = "roost-chaos-";
/// Takes memory only as far as it is used.
const BYTES: u64 = 8 << 30;
/// The database goes on writing while its disk shrinks.
const SHRINK_ATTEMPTS: u32 = 50;
/// Larger than what is left of the last page.
const PROBE_BYTES: usize = 1 << 20;

/// A mounted one.
#[derive(Debug)]
pub(super) struct Disk {
    folder: PathBuf,
}

impl Disk {
    /// # Errors
    /// When this process may not mount.
    pub(super) fn mount(folder: &Path) -> Result<Self> {
        std::fs::create_dir(folder)?;
        let name = format!("{PREFIX}{}", std::process::id());
        let options = format!("size={BYTES},mode=755");
        mount(&["-t", "tmpfs", "-o", &options, &name], folder).context(
            "the disk that is to be full (root and CAP_SYS_ADMIN; or leave --only disk out)",
        )?;
        Ok(Self { folder: folder.to_owned() })
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// No page is left.
    pub(super) fn fill(&self) -> Result<()> {
        for _ in 0..SHRINK_ATTEMPTS {
            let now = rustix::fs::statvfs(&self.folder)?;
            let used = (now.f_blocks - now.f_bfree) * now.f_frsize;
            let shrunk = mount(&["-o", &format!("remount,size={used}")], &self.folder);
            if shrunk.is_ok() && self.is_full()? {
                return Ok(());
            }
        }
        self.free()?;
        bail!("the disk could not be made small enough");
    }

    /// As much room as before.
    pub(super) fn free(&self) -> Result<()> {
        mount(&["-o", &format!("remount,size={BYTES}")], &self.folder)
    }

    /// Whether the kernel takes no further byte.
    pub(super) fn is_full(&self) -> Result<bool> {
        let file = self.folder.join("probe");
        let written = std::fs::write(&file, vec![0; PROBE_BYTES]);
        // It may not have been made at all.
        _ = std::fs::remove_file(&file);
        match written {
            Ok(()) => Ok(false),
            Err(error) if error.kind() == ErrorKind::StorageFull => Ok(true),
            Err(error) => Err(error.into()),
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        unmount(&self.folder);
    }
}

/// Disks of processes that are gone.
pub(super) fn remove_leftovers() {
    for line in std::fs::read_to_string("/proc/mounts").unwrap_or_default().lines() {
        let mut words = line.split(' ');
        let (Some(name), Some(folder)) = (words.next(), words.next()) else { continue };
        let Some(process) = name.strip_prefix(PREFIX) else { continue };
        if !Path::new("/proc").join(process).exists() {
            unmount(Path::new(folder));
        }
    }
}

fn mount(arguments: &[&str], folder: &Path) -> Result<()> {
    let done = Command::new("mount").args(arguments).arg(folder).output()?;
    let errors = String::from_utf8_lossy(&done.stderr);
    ensure!(done.status.success(), "mount {arguments:?}: {errors}");
    Ok(())
}

fn unmount(folder: &Path) {
    // Lazily: a process that was killed a moment ago may still hold files.
    let done = Command::new("umount").arg("-l").arg(folder).output();
    if !done.is_ok_and(|done| done.status.success()) {
        eprintln!("unmount it by hand: umount {}", folder.display());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_takes_nothing_until_it_is_freed() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("disk");
        let disk = Disk::mount(&place).unwrap();
        let file = place.join("file");
        std::fs::write(&file, vec![1; 100_000]).unwrap();
        assert!(!disk.is_full().unwrap());
        disk.fill().unwrap();
        assert!(disk.is_full().unwrap());
        assert!(std::fs::write(place.join("another"), [1; 10_000]).is_err());
        disk.free().unwrap();
        assert!(!disk.is_full().unwrap());
        assert_eq!(std::fs::read(&file).unwrap().len(), 100_000);
        drop(disk);
        assert!(!file.exists());
    }
}
