//! `docs/protocol.md` names every kind of frame, close reason, refusal and limit with the code's number, and has the schema.

use roost_protocol::close_reason::Reconnect;
use roost_protocol::frame::SentBy;
use roost_protocol::limits::*;
use roost_protocol::{CloseReason, FrameKind, RefusalCode};
use std::time::Duration;

fn read(path: &str) -> String {
    let path = format!("{}/{path}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn document() -> String {
    read("../docs/protocol.md")
}

/// The rows of the section of this heading that begin with a number or a name in backticks.
fn rows(heading: &str) -> Vec<Vec<String>> {
    let document = document();
    let (_, rest) = document.split_once(&format!("\n## {heading}\n")).expect("the section");
    let section = rest.split("\n## ").next().unwrap_or(rest);
    let cells =
        |line: &str| line.trim_matches('|').split('|').map(|c| c.trim().to_owned()).collect();
    let is_row = |line: &&str| {
        let cell = line.trim_start_matches("| ");
        line.starts_with("| ") && cell.starts_with(|c: char| c.is_ascii_digit() || c == '`')
    };
    section.lines().filter(is_row).map(cells).collect()
}

/// The first cells of the rows of a section, exactly.
#[track_caller]
fn check(heading: &str, expected: Vec<Vec<String>>) {
    let found: Vec<Vec<String>> = rows(heading)
        .into_iter()
        .map(|row| row.into_iter().take(expected[0].len()).collect())
        .collect();
    assert_eq!(found, expected, "{heading}");
}

#[test]
fn every_kind_of_frame() {
    let row = |kind: &FrameKind| {
        let by = match kind.sent_by() {
            SentBy::Client => "client",
            SentBy::Server => "server",
            SentBy::Both => "both",
        };
        vec![(*kind as u8).to_string(), format!("`{}`", kind.as_str()), by.to_owned()]
    };
    let document = document();
    let section = document.split_once("\n## 6 Frames\n").expect("the section").1;
    for kind in FrameKind::ALL {
        assert!(section.contains(&format!("**{}**", kind.as_str())), "{kind:?} is not described");
    }
    let found: Vec<_> = rows("6 Frames")
        .into_iter()
        .filter(|row| row[0].parse::<u8>().is_ok())
        .map(|row| row[..3].to_vec())
        .collect();
    assert_eq!(found, FrameKind::ALL.iter().map(row).collect::<Vec<_>>());
}

#[test]
fn every_close_reason() {
    let row = |reason: &CloseReason| {
        let then = match reason.reconnect() {
            Reconnect::Backoff => "backoff",
            Reconnect::NewToken => "new_token",
            Reconnect::Never => "never",
        };
        vec![(*reason as u16).to_string(), format!("`{reason}`"), then.to_owned()]
    };
    check("11 Ends", CloseReason::ALL.iter().map(row).collect());
}

#[test]
fn every_refusal() {
    let row = |code: &RefusalCode| {
        let retry = if code.is_retryable() { "yes" } else { "no" };
        vec![(*code as u16).to_string(), format!("`{code}`"), retry.to_owned()]
    };
    check("12 Refusals", RefusalCode::ALL.iter().map(row).collect());
}

/// The value of a limit as the document writes it.
trait Value {
    fn written(&self) -> String;
}
macro_rules! numbers {
    ($($type:ty)*) => { $(impl Value for $type { fn written(&self) -> String { self.to_string() } })* };
}
numbers!(u8 u16 u64 usize);
impl Value for Duration {
    fn written(&self) -> String {
        format!("{} s", self.as_secs())
    }
}

macro_rules! limits {
    ($($name:ident)*) => {
        vec![$(vec![format!("`{}`", stringify!($name)), $name.written()]),*]
    };
}

#[test]
fn every_limit() {
    let expected = limits!(
        PROTOCOL_VERSION HEADER_BYTES FRAME_BYTES_MAX_BEFORE_CONNECT FRAME_BYTES_MAX BODY_BYTES_MAX PAGE_MESSAGES_MAX
        PAGE_MESSAGES_DEFAULT ID_BYTES_MAX CONVERSATION_ID_BYTES_MAX TOKEN_BYTES_MAX CLIENT_NAME_BYTES_MAX
        DETAIL_BYTES_MAX NUMBER_MAX INFLIGHT_SENDS_MAX INFLIGHT_REQUESTS_MAX WATERMARKS_MAX WATERMARK_MEMBERS_MAX CONNECT_TIMEOUT IDLE_TIMEOUT
        HEARTBEAT_INTERVAL SLOW_CONSUMER_TIMEOUT DELIVER_ACK_TIMEOUT DELIVER_HINTS_MAX DIGEST_INTERVAL
        VERIFIER_DEPTH_MAX VERIFIER_TABLES_MAX VERIFIER_APPARENT_SIZE_FACTOR
    );
    let declared = read("src/limits.rs").lines().filter(|l| l.starts_with("pub const")).count();
    assert_eq!(expected.len(), declared, "a limit is missing in this test");
    check("14 Limits", expected);
}

#[test]
fn the_schema_is_that_of_the_code() {
    assert!(document().contains(read("schema/roost.fbs").trim()), "copy schema/roost.fbs into it");
}
