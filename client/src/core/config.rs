//! What a client is told at its start: who it is, where to connect, what it saved, and every duration and limit it uses.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use roost_protocol::frame::connect::DeviceClass;
use roost_protocol::frame::send::MessageKind;
use roost_protocol::{ClientMsgId, limits};

/// Settings of one client.
#[derive(Debug, Clone)]
pub struct Config {
    /// The user the token names. Another one in CONNECTED ends the client.
    pub user_id: String,
    /// This installation; the same at every start.
    pub device_id: String,
    /// Its class.
    pub device_class: DeviceClass,
    /// Name and version of the program, for the server's logs; at most
    /// [`limits::CLIENT_NAME_BYTES_MAX`] bytes.
    pub client_name: String,
    /// `host:port` of the gateways to try, in turn. At least one.
    pub addresses: Vec<Arc<str>>,
    /// Access token; `None`: the core asks by [`super::event::Action::NeedToken`].
    pub token: Option<String>,
    /// Randomness of ids and jitter. Take it from the operating system, or from a seed in a simulation; never use one twice.
    pub seed: u128,
    /// Which messages a device without saved state sees.
    pub start: Start,
    /// What an earlier run saved.
    pub saved: SavedState,
    /// Durations and limits, shared by many clients.
    pub tuning: Arc<Tuning>,
}

impl Config {
    /// A seed from the operating system.
    pub fn random_seed() -> std::io::Result<u128> {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).map_err(std::io::Error::other)?;
        Ok(u128::from_le_bytes(bytes))
    }

    /// A client of `user_id` on `device_id` at one address, with default settings.
    pub fn new(user_id: &str, device_id: &str, address: &str, seed: u128) -> Self {
        Self {
            user_id: user_id.to_owned(),
            device_id: device_id.to_owned(),
            device_class: DeviceClass::Other,
            client_name: concat!("roost-client/", env!("CARGO_PKG_VERSION")).to_owned(),
            addresses: vec![address.into()],
            token: None,
            seed,
            start: Start::Saved,
            saved: SavedState::default(),
            tuning: Arc::default(),
        }
    }
}

/// Where a client begins in its inbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Start {
    /// After [`SavedState::inbox_seq`]; 0 is the whole inbox.
    #[default]
    Saved,
    /// At the end of the inbox as it is when the first session begins: only what comes later is shown.
    Latest,
}

/// What has to survive a restart of the program.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SavedState {
    /// The device's cursor: it stored every inbox entry up to here.
    pub inbox_seq: u64,
    /// Highest session epoch this device ever got.
    pub session_epoch: u64,
    /// Resume token of the last session; empty: none.
    pub resume_token: String,
    /// Per conversation the last seq shown.
    pub shown: Vec<(String, u64)>,
    /// Messages without an answer, oldest first.
    pub unsent: Vec<UnsentMessage>,
}

/// A message in the send queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnsentMessage {
    /// Its identity, for ever.
    pub client_msg_id: ClientMsgId,
    /// Where it goes.
    pub conversation: String,
    /// What the body is.
    pub kind: MessageKind,
    /// The body.
    pub body: Bytes,
}

/// Durations and limits of a client. The defaults suit a person's device on a mobile network.
#[derive(Debug, Clone)]
pub struct Tuning {
    /// A SEND without an answer is repeated after this, then after twice as long, and so on.
    pub send_timeout: Duration,
    /// Longest wait before a SEND is repeated.
    pub send_timeout_max: Duration,
    /// The same for a REQUEST.
    pub request_timeout: Duration,
    /// Stored deliveries are acknowledged together after this. Well below
    /// [`limits::DELIVER_ACK_TIMEOUT`], or the server takes them for lost.
    pub deliver_ack_delay: Duration,
    /// ... or as soon as so many wait.
    pub deliver_ack_messages_max: u32,
    /// A gap in inbox or conversation is given this long to fill by itself before it is pulled.
    pub gap_delay: Duration,
    /// Messages per page pulled.
    pub page_messages: u16,
    /// The socket must be open, and CONNECTED be received, within this.
    pub connect_timeout: Duration,
    /// Something waits for an answer and no byte arrives for this long: the connection is dead. A PING goes out at half of it.
    pub silence_timeout: Duration,
    /// After traffic, one PING with the cursor goes out this late: it finds a lost last message.
    pub digest_delay: Duration,
    /// Upper bound of the first reconnect delay; doubles with each failure. The delay is random below it.
    pub reconnect_delay: Duration,
    /// Largest upper bound of a reconnect delay.
    pub reconnect_delay_max: Duration,
    /// A session that lived this long resets the reconnect delay; one that lost its socket without a CLOSE does at any age.
    pub stable_session: Duration,
    /// Messages the send queue holds.
    pub send_queue_max: usize,
    /// Messages held back until those before them arrived; further ones are dropped and pulled later.
    pub held_messages_max: usize,
    /// Events the application may leave unpolled before [`super::Core::wants_bytes`] says no.
    pub events_max: usize,
    /// Redirects followed without reaching CONNECTED.
    pub redirects_max: u8,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            send_timeout: Duration::from_secs(3),
            send_timeout_max: Duration::from_secs(30),
            request_timeout: Duration::from_secs(5),
            deliver_ack_delay: Duration::from_millis(50),
            deliver_ack_messages_max: 32,
            gap_delay: Duration::from_millis(100),
            page_messages: 100,
            connect_timeout: Duration::from_secs(10),
            silence_timeout: Duration::from_secs(20),
            digest_delay: Duration::from_secs(45),
            reconnect_delay: Duration::from_secs(1),
            reconnect_delay_max: Duration::from_secs(30),
            stable_session: Duration::from_secs(5),
            send_queue_max: 10_000,
            held_messages_max: 256,
            events_max: 1024,
            redirects_max: 5,
        }
    }
}

const _: () = assert!(limits::PAGE_MESSAGES_MAX >= 100, "the default page is a page");
