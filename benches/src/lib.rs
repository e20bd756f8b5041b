//! Roost's floors, the generator that loads them, and the measurements that compare the gateway
//! with them in one run. `cargo xtask bench` runs the lot; the criterion benches in `benches/`
//! ask about single parts.
//!
//! Every subject is a process of its own, started and ended by its id, on an ephemeral loopback
//! port: server on one core, generator on another. Ratios against the raw io_uring floor of the
//! same run are the result; absolute figures belong to the machine that printed them.
//!
//! Deliberately absent: assertions on speed. A run that others on the machine disturbed is void
//! (exit code 2), neither good nor bad.

pub mod ballast;
pub mod floors;
pub mod gateway;
pub mod generator;
pub mod measure;
pub mod probe;
pub mod ring;
pub mod subject;
pub mod sys;
