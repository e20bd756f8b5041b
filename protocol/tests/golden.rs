//! The wire is frozen: the vectors in `golden/` decode to the frames listed here, which encode to the same bytes again, and malformed
//! bytes end a connection for the reason given.
//!
//! After a deliberate change of the wire run `ROOST_GOLDEN=write cargo test -p roost-protocol --test golden` and look at the difference.
//! The form of the files is described in `docs/protocol.md`.

#[path = "golden/cases.rs"]
mod cases;
#[path = "golden/fields.rs"]
mod fields;
#[path = "golden/file.rs"]
mod file;
#[path = "golden/malformed.rs"]
mod malformed;

use std::collections::BTreeSet;
use std::path::PathBuf;

use cases::Case;
use file::Vector;
use roost_protocol::{CloseReason, Decoder, Encoder, Frame, FrameKind, Header};

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden")
}

/// Compares a file with what it should be, or writes it.
fn check_file(name: &str, expected: &str) {
    let path = folder().join(name);
    if std::env::var_os("ROOST_GOLDEN").is_some_and(|value| value == "write") {
        std::fs::write(&path, expected).expect("the folder is writable");
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found == expected,
        "{} differs from what the code encodes. If the wire was changed on purpose, run \
         ROOST_GOLDEN=write cargo test -p roost-protocol --test golden",
        path.display()
    );
}

fn vectors(name: &str) -> Vec<Vector> {
    let text = std::fs::read_to_string(folder().join(name)).expect("a file of vectors");
    file::parse(&text)
}

/// What a connection does with these bytes: its frames, re-encoded, or why it ends.
fn receive(vector: &Vector) -> Result<Vec<(Header, Vec<u8>)>, CloseReason> {
    let mut decoder = Decoder::new();
    if vector.is_connected {
        decoder.set_connected();
    }
    let (mut frames, mut scratch) = (Vec::new(), Vec::new());
    let mut input = &vector.bytes[..];
    while let Some(raw) = decoder.next(&mut input, &mut scratch)? {
        let frame = Frame::decode(raw.header.kind, raw.payload)?;
        let mut bytes = Vec::new();
        let Header { correlation, inbox_seq, .. } = raw.header;
        frame.encode(&mut Encoder::new(), correlation, inbox_seq, &mut bytes);
        frames.push((raw.header, bytes));
    }
    assert_eq!(decoder.buffered_bytes(), 0, "{}: an incomplete frame", vector.name);
    Ok(frames)
}

fn file_of(kind: FrameKind) -> String {
    format!("{}.hex", kind.as_str().to_ascii_lowercase())
}

#[test]
fn frames_are_frozen() {
    let mut kinds = BTreeSet::new();
    for kind in FrameKind::ALL {
        let cases: Vec<Case> =
            cases::all().into_iter().filter(|case| case.frame.kind() == *kind).collect();
        assert!(cases.len() > 1 || *kind == FrameKind::Redirect, "{kind:?} has too few vectors");
        kinds.insert(*kind);
        check_file(&file_of(*kind), &file::write_frames(*kind, &cases));
        let vectors = vectors(&file_of(*kind));
        assert_eq!(vectors.len(), cases.len());
        for (vector, case) in vectors.iter().zip(&cases) {
            assert_eq!((&*vector.name, &vector.expected), (case.name, &Ok(*kind)));
            let frames = receive(vector).expect(case.name);
            let [(header, encoded)] = &frames[..] else { panic!("{}: one frame", case.name) };
            assert_eq!(encoded, &vector.bytes, "{}: encodes differently", case.name);
            assert_eq!((header.correlation, header.inbox_seq), (case.correlation, case.inbox_seq));
            let decoded = Frame::decode(header.kind, &vector.bytes[16..]).expect(case.name);
            assert_eq!(decoded, case.frame, "{}", case.name);
            assert_eq!(vector.fields, fields::of(&case.frame), "{}", case.name);
        }
    }
    assert_eq!(kinds.len(), FrameKind::ALL.len());
}

#[test]
fn malformed_bytes_close_for_the_named_reason() {
    let cases = malformed::all();
    check_file("malformed.hex", &file::write_malformed(&cases));
    let vectors = vectors("malformed.hex");
    assert_eq!(vectors.len(), cases.len());
    for (vector, case) in vectors.into_iter().zip(&cases) {
        if let Some(kind) = vector.bytes.get(4).and_then(|code| FrameKind::from_code(*code))
            && case.expected == CloseReason::BadPayload
        {
            let error = Frame::decode(kind, &vector.bytes[16..]).expect_err(case.name);
            assert_eq!(error.to_string(), case.why, "{}", case.name);
        }
        let result = receive(&vector).map(|frames| frames.len());
        assert_eq!(result, Err(vector.expected.expect_err("a close reason")), "{}", vector.name);
    }
}

#[test]
fn any_split_of_the_vectors_gives_the_same_frames() {
    let mut stream = Vec::new();
    for kind in FrameKind::ALL {
        vectors(&file_of(*kind)).iter().for_each(|vector| stream.extend_from_slice(&vector.bytes));
    }
    for step in (1..50).chain([997, 4096, stream.len()]) {
        let mut decoder = Decoder::new();
        decoder.set_connected();
        let (mut kinds, mut scratch) = (Vec::new(), Vec::new());
        for mut input in stream.chunks(step) {
            while let Some(raw) = decoder.next(&mut input, &mut scratch).expect("good headers") {
                Frame::decode(raw.header.kind, raw.payload).expect("good payloads");
                kinds.push(raw.header.kind);
            }
        }
        assert!(kinds.is_sorted());
        assert_eq!(kinds.len(), cases::all().len());
    }
}
