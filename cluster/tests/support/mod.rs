//! What tests of whole clusters share.
#![allow(dead_code, unreachable_pub, missing_docs, reason = "each test file uses its own share")]

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::AtomicU16;
use std::sync::atomic::Ordering::Relaxed;

/// The server's program: `cargo test --workspace` builds it beside the one of this package, else it is built now.
pub fn roost() -> PathBuf {
    let roost = Path::new(env!("CARGO_BIN_EXE_roost-cluster")).with_file_name("roost");
    if !roost.exists() {
        let built = Command::new(env!("CARGO"))
            .args(["build", "--quiet", "--package", "roost", "--bin", "roost"])
            .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
            .status();
        assert!(built.expect("cargo starts").success());
    }
    roost
}

/// A base whose ports up to +29 are free, and that nobody else of this process gets. Test processes start at different places, by their id.
pub fn free_port_base() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = (std::process::id() as u16).wrapping_mul(37) % 300;
    std::iter::repeat_with(|| NEXT.fetch_add(1, Relaxed))
        .take(300)
        .map(|step| 10_000 + (first + step) % 300 * 30)
        .find(|base| (0..30).all(|o| TcpListener::bind((Ipv4Addr::LOCALHOST, base + o)).is_ok()))
        .expect("a free block of ports")
}

/// `roost-cluster VERB ... --dir FOLDER`.
pub fn cluster(arguments: &[&str], folder: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_roost-cluster"));
    command.args(arguments).arg("--dir").arg(folder).stdin(Stdio::null());
    command.output().expect("roost-cluster starts")
}

/// Its standard output.
#[track_caller]
pub fn ok(output: &Output) -> String {
    let (said, errors) = texts(output);
    assert!(output.status.success(), "{said}{errors}");
    said
}

/// Its error, which names every one of `parts`.
#[track_caller]
pub fn fails(output: &Output, parts: &[&str]) {
    let (said, errors) = texts(output);
    assert!(!output.status.success(), "{said}");
    for part in parts {
        assert!(errors.contains(part) || said.contains(part), "{part:?} in {said}{errors}");
    }
    assert!(!errors.contains("panicked"), "{errors}");
}

fn texts(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr))
}
