//! How long the disk lets an acknowledgement wait.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// What one commit writes, at least.
const BLOCK: [u8; 4096] = [0x5a; 4096];
/// Blocks of the file, written in turns.
const BLOCKS: u64 = 256;
/// How long the disk is watched.
const WATCHED: Duration = Duration::from_secs(2);
/// Moments at which a message may come.
const MOMENT: Duration = Duration::from_micros(100);

/// Waits of messages that come at any time while one commit of 4 KiB follows the other: for the end of the one under way, and for their
/// own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Waits {
    pub(super) p50: Duration,
    pub(super) p99: Duration,
    pub(super) max: Duration,
}

/// Watches the disk below `folder`, with a file that is gone afterwards.
pub(super) fn watch(folder: &Path) -> io::Result<Waits> {
    let path = folder.join(format!(".roost-doctor-{}", std::process::id()));
    let file = OpenOptions::new().write(true).create_new(true).open(&path)?;
    let ends = std::fs::remove_file(&path).and_then(|()| commits(&file))?;
    waits(&ends).ok_or_else(|| io::Error::other("no commit ended"))
}

/// When each ended, from the start on.
fn commits(file: &File) -> io::Result<Vec<Duration>> {
    for block in 0..BLOCKS {
        file.write_all_at(&BLOCK, block * BLOCK.len() as u64)?;
    }
    file.sync_all()?;
    let (start, mut ends) = (Instant::now(), Vec::new());
    for block in (0..BLOCKS).cycle() {
        file.write_all_at(&BLOCK, block * BLOCK.len() as u64)?;
        file.sync_data()?;
        ends.push(start.elapsed());
        if start.elapsed() >= WATCHED {
            break;
        }
    }
    Ok(ends)
}

fn waits(ends: &[Duration]) -> Option<Waits> {
    let (mut waits, mut moment) = (Vec::new(), Duration::ZERO);
    for pair in ends.windows(2) {
        while moment < pair[0] {
            waits.push(pair[1].saturating_sub(moment));
            moment += MOMENT;
        }
    }
    waits.sort_unstable();
    let max = *waits.last()?;
    let at = |percent: usize| waits[(waits.len() * percent / 100).min(waits.len() - 1)];
    Some(Waits { p50: at(50), p99: at(99), max })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_waits_for_two_commits() {
        let ms = Duration::from_millis;
        assert_eq!(waits(&[]), None);
        assert_eq!(waits(&[ms(1)]), None);
        let steady: Vec<Duration> = (1..=100).map(ms).collect();
        let Waits { p50, p99, max } = waits(&steady).unwrap();
        assert!((ms(1)..=ms(2)).contains(&p50) && p99 <= ms(2) && max == ms(2), "{p50:?} {p99:?}");
        // One commit of 100 ms between them: half of the messages come while it is under way, or just before.
        let stalled: Vec<Duration> = (1..=50).chain(150..=200).map(ms).collect();
        let Waits { p50, p99, max } = waits(&stalled).unwrap();
        assert!(p50 < ms(60) && p99 > ms(95) && max == ms(101), "{p50:?} {p99:?} {max:?}");
    }

    #[test]
    fn the_file_is_gone_afterwards() {
        let folder = tempfile::tempdir().unwrap();
        let Waits { p50, p99, max } = watch(folder.path()).unwrap();
        assert!(p50 <= p99 && p99 <= max && max > Duration::ZERO);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        assert!(watch(&folder.path().join("absent")).is_err());
    }
}
