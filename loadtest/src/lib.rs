//! Load tester of Roost: open loop, judged by a history checker.
//!
//! The checker is of use without the rest: every fault test records a [`checker::History`] and
//! lets [`checker::judge`] decide.

pub mod arrival;
pub mod ballast;
pub mod checker;
pub mod clock;
pub mod credential;
pub mod environment;
pub mod histogram;
pub mod http;
pub mod options;
pub mod priority;
pub mod report;
pub mod run;
pub mod scenario;
pub mod server_watch;
pub mod slo;
pub mod target;
pub mod user;
pub mod waits;
