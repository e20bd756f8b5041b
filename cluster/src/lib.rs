//! A whole cluster on one machine: every service and both tiers as real processes, each on its own ports and in one scratch folder.
//!
//! * [`Cluster`] owns the processes: it starts, kills, pauses and restarts them, and they end with it.
//! * [`command`] is the command line: `up` leaves a supervisor behind that owns a cluster until `down`.
//! * [`chaos`] breaks a cluster under load and lets the history checker judge.
//! * [`recovery`] takes its parts away one after the other and measures for how long that is felt; [`bench`] measures it undisturbed.
//!
//! Services are started by `roost-testing`; configuration and broker definitions come from `deploy/`, so that what an operator copies is
//! what runs here.

pub mod bench;
pub mod chaos;
mod clock;
mod cluster;
pub mod command;
mod goals;
mod link;
mod node;
mod plan;
mod probe;
pub mod recovery;
mod services;
mod state;
mod supervisor;

pub use cluster::{Cluster, Service};
pub use plan::{Membership, Shape, StoreKind};
