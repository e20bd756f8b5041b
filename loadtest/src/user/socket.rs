//! The writing half of a user's connection, which never waits.

use std::io;

use tokio::net::tcp::OwnedWriteHalf;

/// The present connection.
pub(super) struct Socket {
    /// Its end tells the server.
    pub(super) writer: OwnedWriteHalf,
    /// What the full socket did not take; nothing else leaves before it.
    pub(super) unsent: Vec<u8>,
}

impl Socket {
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let written = match self.writer.try_write(bytes) {
            Ok(size) => size,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => 0,
            Err(e) => return Err(e),
        };
        self.unsent.extend_from_slice(&bytes[written..]);
        Ok(())
    }

    pub(super) fn write_unsent(&mut self) -> io::Result<()> {
        let unsent = std::mem::take(&mut self.unsent);
        self.write(&unsent)
    }
}
