//! How a process is, told once for both tiers: [`breaker`], the state of what may be away, and [`admin`], the operator's HTTP endpoint.
//!
//! It knows no part of Roost: a tier brings its checks and metrics.

pub mod admin;
pub mod breaker;

pub use admin::{Check, Level, Report};
pub use breaker::{Breaker, BreakerState};
