//! Connections: shards, io_uring and epoll drivers, sessions, outboxes.

mod chunks;
pub mod clock;
pub mod config;
pub mod connection;
pub mod control;
mod dispatcher;
pub mod gateway;
pub mod io;
pub mod metrics;
pub mod router;
pub mod session;
pub mod shard;
