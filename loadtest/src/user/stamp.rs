//! What each body starts with: when the message was wanted, and when it was sent.

use std::io::Write;

/// Hexadecimal intended and sent time at the start of each body.
pub const STAMP_BYTES: usize = 32;
/// Writes them to the start of a body, which has room.
pub(super) fn write_stamps(body: &mut [u8], intended_us: u64, sent_us: u64) {
    let mut start = &mut body[..STAMP_BYTES];
    write!(start, "{intended_us:016x}{sent_us:016x}").expect("there is room for the stamps");
}

/// The intended and sent time that a body starts with.
pub(super) fn stamps(body: &[u8]) -> Option<(u64, u64)> {
    let text = std::str::from_utf8(body.get(..STAMP_BYTES)?).ok()?;
    let (intended, sent) = text.split_at(STAMP_BYTES / 2);
    Some((u64::from_str_radix(intended, 16).ok()?, u64::from_str_radix(sent, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_are_read_back() {
        let mut body = [b'.'; 36];
        write_stamps(&mut body, 17, u64::MAX);
        assert_eq!(stamps(&body), Some((17, u64::MAX)));
        assert_eq!(stamps(b"short"), None);
        assert_eq!(stamps(&[0xff; 40]), None);
    }
}
