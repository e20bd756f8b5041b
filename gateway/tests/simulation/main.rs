//! A whole shard on simulated sockets and a virtual clock: what it promises to each peer, to logic, and about its memory.
//!
//! * `chaos`: whatever the kernel splits, shortens, delays or resets, no frame is lost, invented or reordered, every end is
//!   reported once, and nothing is left.
//! * `limits`: every limit ends in its named reason, harms no other connection, and time ends what should end.
//! * `flow`: full queues in both directions: answered, held or hinted, never silent, and bounded.
//! * `overload`: who logged in is never closed for the load of others; repeats, CONNECT and pages wait.
//! * `drain`: everyone is told, paced, and the shard finishes.
#![allow(clippy::wildcard_enum_match_arm, reason = "a test looks for one frame among all")]

mod chaos;
mod drain;
mod flow;
mod harness;
mod limits;
mod overload;
mod shed;
