//! G2: a resend is answered with the identical acknowledgement for ever: at once, on another connection, after a restart, and a
//! day later. The same id with another payload is refused.

mod support;

use std::process::Command;

use roost_protocol::{ClientMsgId, Frame, FrameKind, Header, RefusalCode};
use support::wire::{Wire, token};
use support::{Options, Server};

const ID: ClientMsgId = ClientMsgId([0x42; 16]);

/// The acknowledgement of the message, as bytes.
fn ack(server: &Server, token: &str) -> (Header, Vec<u8>) {
    let mut wire = Wire::login(server.frames(), token, "phone");
    wire.send("bob", ID, 1, b"once and for all");
    wire.read_kind(FrameKind::SendAck)
}

/// The library that moves a program's clock, as `faketime` would preload it, in its build for threads.
fn faketime() -> String {
    let found = Command::new("faketime").args(["-f", "+25h", "env"]).output().expect(
        "faketime is not installed: run the tests by `cargo xtask test`, or apt-get install faketime",
    );
    let text = String::from_utf8(found.stdout).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("LD_PRELOAD="));
    line.expect("faketime preloads its library").replace("libfaketime.so", "libfaketimeMT.so")
}

#[test]
fn the_acknowledgement_is_identical_for_ever() {
    let folder = tempfile::tempdir().unwrap();
    let options = Options::new(folder.path());
    let token_now = token("alice");

    let server = Server::start(&options);
    let first = ack(&server, &token_now);
    assert_eq!(ack(&server, &token_now), first, "on another connection");
    let mut wire = Wire::login(server.frames(), &token_now, "phone");
    wire.send("bob", ID, 1, b"another payload");
    let (_, payload) = wire.read_kind(FrameKind::SendRefused);
    let Ok(Frame::SendRefused(refused)) = Frame::decode(FrameKind::SendRefused, &payload) else {
        panic!("a refusal")
    };
    assert_eq!(refused.code, RefusalCode::IdReuse);
    server.kill_nine();

    let server = Server::start(&options);
    assert_eq!(ack(&server, &token_now), first, "after kill -9");
    assert_eq!(server.stop().code(), Some(0));

    let mut tomorrow = options.clone();
    tomorrow.environment = vec![
        ("LD_PRELOAD".to_owned(), faketime()),
        ("FAKETIME".to_owned(), "+25h".to_owned()),
        ("FAKETIME_DONT_FAKE_MONOTONIC".to_owned(), "1".to_owned()),
    ];
    let server = Server::start(&tomorrow);
    let mut minting = support::roost();
    minting.args(["token", "--as", "alice"]).envs(tomorrow.environment.clone());
    let token_tomorrow = support::run_ok(minting).trim().to_owned();
    assert_ne!(token_tomorrow, token_now);
    assert_eq!(ack(&server, &token_tomorrow), first, "a day later");
}
