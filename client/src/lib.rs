//! Client of Roost: a core without I/O ([`core::Core`]), and a client for tokio on it ([`tokio_client::Client`]).
//!
//! What a user of this crate may rely on:
//! * A message handed over stays in the send queue until it is acknowledged or definitely refused.
//! * Every message is shown once per device, and each conversation strictly in the order 1, 2, 3 ...
//! * What was shown is acknowledged only after the application asked for the next event.
//!
//! Nothing here stores anything: [`core::Core::save`] gives what has to survive a restart.

pub mod core;
pub mod tokio_client;

pub use crate::core::config::{Config, SavedState, Start, Tuning, UnsentMessage};
pub use crate::core::event::{Action, Disconnect, Event, Message, NextStep, Receipt};
pub use crate::core::{ConfigError, Core, SendError, SendTo};
pub use crate::tokio_client::Client;
