//! Fuzz targets, and the replay of their corpus.
//!
//! The body of each target is a function here, so that it runs three ways: under libFuzzer (`fuzz_targets/`, nightly, feature
//! `libfuzzer`), over the checked-in corpus on stable (`tests/replay.rs`), and on one input in a debugger. A body panics when a
//! promise is broken; whatever the input is, it must return.
//!
//! To fuzz, in the root of the workspace: `cargo +nightly fuzz run --features libfuzzer -s none connection_bytes`; with
//! `--no-trace-compares` it runs three times as often. An input that is found becomes a file in `found/<target>/` with a name that
//! says what it showed, or a named test beside the target.

pub mod connection_bytes;
pub mod connection_operations;
pub mod decode_frame;
mod peer;
mod world;

pub use connection_bytes::connection_bytes;
pub use connection_operations::connection_operations;
pub use decode_frame::decode_frame;
