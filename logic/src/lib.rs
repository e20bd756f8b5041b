//! The logic tier: workers that give messages their place, handlers that know what operations mean, the durable store, and
//! the HTTP API.
//!
//! Invariants:
//! * Nothing is said to anybody before it is committed ([`store`]), and nothing taken from the bus is acknowledged before it was
//!   said: the worker alone knows that order.
//! * One `client_msg_id` has one place in one conversation, for ever.
//! * Handlers are pure; clock, bus, store and network are outside of them.
//! * Nothing here knows a gateway: only the bus, the routes, and plain key material.
//!
//! Deliberately absent: groups, rooms, events with a sequence of their own, and several workers in one process.

pub mod auth;
pub mod clock;
pub mod config;
pub mod ids;
pub mod metrics;
pub mod report;
pub mod soft_state;
pub mod store;

mod api;
mod background;
mod handler;
mod service;
mod state;
mod worker;

pub use config::LogicConfig;
pub use service::{Claim, Logic, LogicHandle, Neighbours, StartError};
