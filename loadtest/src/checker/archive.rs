//! A history as a file: compact blocks that are only ever appended.
//!
//! ```text
//! file  = "RSTHIST1" block*
//! block = tag u8 | count u32 | bytes u32 | count entries        (little-endian)
//!         tag 1 users: length u16, name · 2 devices: user u32, length u16, name
//!         tag 3 conversations: as users · 4 messages: user u32, client_msg_id u128
//!         tag 5 labels: as users · 6 events: 40 bytes each
//! ```
//! Invariant: a block's names come before the events that use them, so any prefix that ends on a
//! block's end is a complete history. A recorder that is killed loses its last block at most, and
//! reading says so.

use std::io::{self, Read, Write};

use super::event::Event;
use super::history::History;

const MAGIC: &[u8; 8] = b"RSTHIST1";
const ENTRIES_PER_BLOCK: usize = 64 * 1024;

/// How much of each table is already in the file.
#[derive(Debug, Default)]
pub(super) struct Written {
    header: bool,
    users: usize,
    devices: usize,
    conversations: usize,
    messages: usize,
    labels: usize,
    events: usize,
}

/// Why a file is not a history.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The file could not be read.
    #[error("cannot read the history: {0}")]
    Io(#[from] io::Error),
    /// The file is something else.
    #[error("not a history file: it does not start with RSTHIST1")]
    NotAHistory,
    /// A block holds what no recorder writes.
    #[error("damaged history: {what} in the block at byte {at}")]
    Damaged {
        /// What is wrong.
        what: &'static str,
        /// Where the block starts.
        at: usize,
    },
}

impl History {
    /// Writes what was recorded since the last call with the same history.
    ///
    /// # Errors
    /// Those of the writer; the history must then be written to a new file.
    pub fn append_to(&mut self, out: &mut impl Write) -> io::Result<()> {
        let done = std::mem::take(&mut self.written);
        if !done.header {
            out.write_all(MAGIC)?;
        }
        write_blocks(out, 1, &self.users.keys()[done.users..], put_name)?;
        write_blocks(out, 2, &self.devices.keys()[done.devices..], |(user, name), bytes| {
            bytes.extend(user.to_le_bytes());
            put_name(name, bytes);
        })?;
        write_blocks(out, 3, &self.conversations.keys()[done.conversations..], put_name)?;
        write_blocks(out, 4, &self.messages.keys()[done.messages..], |(user, id), bytes| {
            bytes.extend(user.to_le_bytes());
            bytes.extend(id.to_le_bytes());
        })?;
        write_blocks(out, 5, &self.labels.keys()[done.labels..], put_name)?;
        write_blocks(out, 6, &self.events[done.events..], |event, bytes| {
            bytes.extend(event.to_bytes());
        })?;
        self.written = Written {
            header: true,
            users: self.users.count(),
            devices: self.devices.count(),
            conversations: self.conversations.count(),
            messages: self.messages.count(),
            labels: self.labels.count(),
            events: self.events.len(),
        };
        out.flush()
    }

    /// Reads a history; `true` beside it when the last block was cut off.
    ///
    /// # Errors
    /// When the file cannot be read, is something else or holds what no recorder writes.
    pub fn read_from(input: &mut impl Read) -> Result<(Self, bool), ArchiveError> {
        let mut bytes = Vec::new();
        input.read_to_end(&mut bytes)?;
        if !bytes.starts_with(MAGIC) {
            return Err(ArchiveError::NotAHistory);
        }
        let mut history = Self::new();
        let mut at = MAGIC.len();
        while at < bytes.len() {
            let Some((tag, count, entries)) = next_block(&bytes[at..]) else {
                return Ok((history, true));
            };
            let mut rest = entries;
            for _ in 0..count {
                history
                    .take_entry(tag, &mut rest)
                    .map_err(|what| ArchiveError::Damaged { what, at })?;
            }
            at += 9 + entries.len();
        }
        Ok((history, false))
    }

    fn take_entry(&mut self, tag: u8, rest: &mut &[u8]) -> Result<(), &'static str> {
        let cut = "an entry is cut off";
        match tag {
            1 => {
                self.users.intern(&take_name(rest).ok_or(cut)?);
            }
            2 => {
                let user = u32::from_le_bytes(take(rest).ok_or(cut)?);
                self.devices.intern(&(user, take_name(rest).ok_or(cut)?));
            }
            3 => {
                self.conversations.intern(&take_name(rest).ok_or(cut)?);
            }
            4 => {
                let user = u32::from_le_bytes(take(rest).ok_or(cut)?);
                self.messages.intern(&(user, u128::from_le_bytes(take(rest).ok_or(cut)?)));
            }
            5 => {
                self.labels.intern(&take_name(rest).ok_or(cut)?);
            }
            6 => {
                let event = Event::from_bytes(&take(rest).ok_or(cut)?);
                event.unpack().ok_or("an event of unknown kind")?;
                self.events.push(event);
            }
            _ => return Err("a block of unknown kind"),
        }
        Ok(())
    }
}

fn write_blocks<T>(
    out: &mut impl Write,
    tag: u8,
    entries: &[T],
    put: impl Fn(&T, &mut Vec<u8>),
) -> io::Result<()> {
    let mut bytes = Vec::new();
    for block in entries.chunks(ENTRIES_PER_BLOCK) {
        bytes.clear();
        block.iter().for_each(|entry| put(entry, &mut bytes));
        let size = |n: usize| u32::try_from(n).map_err(io::Error::other);
        out.write_all(&[tag])?;
        out.write_all(&size(block.len())?.to_le_bytes())?;
        out.write_all(&size(bytes.len())?.to_le_bytes())?;
        out.write_all(&bytes)?;
    }
    Ok(())
}

fn put_name(name: &String, bytes: &mut Vec<u8>) {
    let kept = &name.as_bytes()[..name.len().min(usize::from(u16::MAX))];
    bytes.extend((kept.len() as u16).to_le_bytes());
    bytes.extend(kept);
}

fn next_block(bytes: &[u8]) -> Option<(u8, u32, &[u8])> {
    let mut rest = bytes;
    let [tag] = take(&mut rest)?;
    let count = u32::from_le_bytes(take(&mut rest)?);
    let size = u32::from_le_bytes(take(&mut rest)?) as usize;
    Some((tag, count, rest.get(..size)?))
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (head, tail) = rest.split_first_chunk::<N>()?;
    *rest = tail;
    Some(*head)
}

fn take_name(rest: &mut &[u8]) -> Option<String> {
    let length = usize::from(u16::from_le_bytes(take(rest)?));
    let (head, tail) = rest.split_at_checked(length)?;
    *rest = tail;
    Some(String::from_utf8_lossy(head).into_owned())
}
