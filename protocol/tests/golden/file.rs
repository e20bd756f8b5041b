//! Reads and writes files of vectors. Their form is described in `docs/protocol.md`.

use std::fmt::Write as _;

use roost_protocol::limits::HEADER_BYTES;
use roost_protocol::{CloseReason, Encoder, FrameKind};

use super::cases::Case;
use super::fields;
use super::malformed::Malformed;

/// One case of a file.
pub(crate) struct Vector {
    pub(crate) name: String,
    pub(crate) is_connected: bool,
    pub(crate) expected: Result<FrameKind, CloseReason>,
    pub(crate) fields: Vec<(String, String)>,
    pub(crate) bytes: Vec<u8>,
}

pub(crate) fn parse(text: &str) -> Vec<Vector> {
    let mut vectors: Vec<Vector> = Vec::new();
    for line in text.lines() {
        let line = line.split(" #").next().unwrap_or("").trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        if word == "case" {
            vectors.push(Vector {
                name: rest.to_owned(),
                is_connected: true,
                expected: Err(CloseReason::Internal),
                fields: Vec::new(),
                bytes: Vec::new(),
            });
            continue;
        }
        let vector = vectors.last_mut().expect("`case` comes first");
        match word {
            "state" => vector.is_connected = rest == "connected",
            "frame" => {
                let kind = FrameKind::ALL.iter().find(|kind| kind.as_str() == rest);
                vector.expected = Ok(*kind.expect("a kind of frame"));
            }
            "close" => {
                let reason = CloseReason::ALL.iter().find(|reason| reason.as_str() == rest);
                vector.expected = Err(*reason.expect("a close reason"));
            }
            "field" => {
                let (name, value) = rest.split_once(" = ").expect("name = value");
                if !matches!(name, "correlation" | "inbox_position") {
                    vector.fields.push((name.to_owned(), value.to_owned()));
                }
            }
            _ => {
                let byte = |hex| u8::from_str_radix(hex, 16).expect("two hexadecimal digits");
                vector.bytes.extend(line.split_whitespace().map(byte));
            }
        }
    }
    vectors
}

pub(crate) fn write_frames(kind: FrameKind, cases: &[Case]) -> String {
    let mut text = format!(
        "# {} (kind {}): golden vectors, see docs/protocol.md\n",
        kind.as_str(),
        kind as u8
    );
    for case in cases {
        let _ = writeln!(text, "\ncase {}\nframe {}", case.name, kind.as_str());
        let _ = writeln!(text, "field correlation = {}", case.correlation);
        let _ = writeln!(text, "field inbox_position = {}", case.inbox_seq);
        for (name, value) in fields::of(&case.frame) {
            let _ = writeln!(text, "field {name} = {value}");
        }
        let mut bytes = Vec::new();
        case.frame.encode(&mut Encoder::new(), case.correlation, case.inbox_seq, &mut bytes);
        write_bytes(&mut text, &bytes);
    }
    text
}

pub(crate) fn write_malformed(cases: &[Malformed]) -> String {
    let mut text =
        "# Bytes that end the connection, and the reason: see docs/protocol.md\n".to_owned();
    for case in cases {
        let state = if case.is_connected { "connected" } else { "before_connect" };
        let _ = writeln!(text, "\n# {}\ncase {}\nstate {state}", case.why, case.name);
        let _ = writeln!(text, "close {}", case.expected);
        write_bytes(&mut text, &case.bytes);
    }
    text
}

/// The header on a line of its own, the payload in lines of 16 bytes.
fn write_bytes(text: &mut String, bytes: &[u8]) {
    let mut line = |bytes: &[u8], comment: &str| {
        let hex: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let _ = writeln!(text, "{}{comment}", hex.join(" "));
    };
    let (header, payload) = bytes.split_at(HEADER_BYTES.min(bytes.len()));
    line(header, " # header");
    payload.chunks(16).for_each(|chunk| line(chunk, ""));
}
