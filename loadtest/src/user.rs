//! One virtual user: a task on monoio around the client's core, recording all it sees.
//!
//! ```text
//! arrivals → send() ─┐                          ┌─ reader task: socket → core
//!                    ├→ core ← driver task ─────┤
//! timers ────────────┘   (core → socket)        └─ ledger: history, latencies
//! ```
//! Invariant: what the core tells is recorded with the time at which the user saw it, before
//! anything that follows from it is written to the socket. A lost connection is the core's to
//! repair; it is counted here, and judged by what it does to the messages.

mod ledger;
mod wake;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use monoio::io::{AsyncReadRent, AsyncWriteRentExt, Splitable};
use monoio::net::TcpStream;
use monoio::net::tcp::{TcpOwnedReadHalf, TcpOwnedWriteHalf};
use roost_client::core::config::{Config, Tuning};
use roost_client::core::event::{Action, Disconnect, Event, Message};
use roost_client::core::{Core, SendTo};
use roost_protocol::ClientMsgId;
use roost_protocol::frame::receipt::ReceiptKind;
use roost_protocol::frame::send::MessageKind;

use crate::checker::{
    ConversationId, DeviceId, History, Record, UserId, WatermarkKind, answer_digest, payload_hash,
};
use crate::clock::RunClock;
use crate::credential::TokenMint;
use crate::scenario::ChatCounters;

pub use ledger::Ledger;
use wake::Wake;

/// Hexadecimal intended and sent time at the start of each body.
pub const STAMP_BYTES: usize = 32;
const READ_BYTES: usize = 16 * 1024;
const DEVICE: &str = "phone";

/// What all users of a run share.
pub struct UserPlan {
    pub(crate) clock: RunClock,
    pub(crate) mint: TokenMint,
    pub(crate) address: String,
    pub(crate) tuning: Arc<Tuning>,
    pub(crate) payload_bytes: usize,
    pub(crate) counters: Arc<ChatCounters>,
}

/// A user and its device.
pub struct User {
    name: String,
    plan: Arc<UserPlan>,
    ledger: Rc<RefCell<Ledger>>,
    core: RefCell<Core>,
    writer: RefCell<Option<TcpOwnedWriteHalf>>,
    /// Counts sockets, so that the end of an old one is not taken for that of a new one.
    socket: Cell<u64>,
    wake: Wake,
    user: UserId,
    device: DeviceId,
    started_us: Cell<u64>,
    is_counted_online: Cell<bool>,
    /// With its neighbours, of whom there are two.
    chats: RefCell<Vec<(Box<str>, ConversationId)>>,
    pending: RefCell<rapidhash::RapidHashMap<ClientMsgId, (u64, u64)>>,
}

impl User {
    /// A user at rest.
    ///
    /// # Errors
    /// When the name or address is not one.
    pub fn new(
        name: String,
        plan: Arc<UserPlan>,
        ledger: Rc<RefCell<Ledger>>,
    ) -> Result<Rc<Self>, String> {
        let seed = fastrand::u128(..);
        let mut config = Config::new(&name, DEVICE, &plan.address, seed);
        config.client_name = "roost-load".to_owned();
        config.token = Some(plan.mint.token(&name));
        config.tuning = Arc::clone(&plan.tuning);
        let core = Core::new(config, Instant::now()).map_err(|e| e.to_string())?;
        let (user, device) = {
            let history = &mut ledger.borrow_mut().history;
            let user = history.user(&name);
            (user, history.device(user, DEVICE))
        };
        Ok(Rc::new(Self {
            name,
            plan,
            ledger,
            core: RefCell::new(core),
            writer: RefCell::new(None),
            socket: Cell::new(0),
            wake: Wake::default(),
            user,
            device,
            started_us: Cell::new(0),
            is_counted_online: Cell::new(false),
            chats: RefCell::default(),
            pending: RefCell::default(),
        }))
    }

    /// The user's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Starts to connect, and lives until the worker ends.
    pub async fn live(self: Rc<Self>) {
        self.started_us.set(self.plan.clock.now_us());
        self.core.borrow_mut().start(Instant::now());
        loop {
            self.take_events();
            self.write().await;
            let action = self.core.borrow_mut().poll_action();
            match action {
                Some(action) => self.act(action).await,
                None => {
                    let deadline = self.core.borrow().poll_timeout();
                    self.wait(deadline).await;
                }
            }
        }
    }

    /// Sends a message that the schedule wanted at `intended_us`.
    pub fn send(&self, receiver: &str, intended_us: u64) {
        let sent_us = self.plan.clock.now_us();
        let mut body = format!("{intended_us:016x}{sent_us:016x}").into_bytes();
        body.resize(self.plan.payload_bytes.max(STAMP_BYTES), b'.');
        let hash = payload_hash(&body);
        let taken =
            self.core.borrow_mut().send_message(SendTo::User(receiver), MessageKind::TEXT, body);
        let mut ledger = self.ledger.borrow_mut();
        ledger.generator_lag.record(sent_us.saturating_sub(intended_us));
        match taken {
            Ok(client_msg_id) => {
                let history = &mut ledger.history;
                let message = history.message(self.user, id_bits(client_msg_id));
                let conversation = self.chat_with(history, receiver);
                let device = self.device;
                let send = Record::Send { device, conversation, message, hash, intended_us };
                history.record(sent_us, send);
                let index = message.index();
                if ledger.hashes.len() <= index {
                    ledger.hashes.resize(index + 1, 0);
                }
                ledger.hashes[index] = hash;
                self.pending.borrow_mut().insert(client_msg_id, (intended_us, sent_us));
                self.plan.counters.sent.fetch_add(1, Relaxed);
                self.wake.wake();
            }
            Err(e) => {
                *ledger.refusals.entry(format!("not taken by the client: {e}")).or_insert(0) += 1;
            }
        }
    }

    fn chat_with(&self, history: &mut History, receiver: &str) -> ConversationId {
        let mut chats = self.chats.borrow_mut();
        if let Some((_, id)) = chats.iter().find(|(peer, _)| **peer == *receiver) {
            return *id;
        }
        let id = history.single_chat(&self.name, receiver);
        chats.push((receiver.into(), id));
        id
    }

    /// At the end: whether this device stayed and has everything, in its own opinion.
    pub fn settle(&self) {
        if self.core.borrow().is_online() {
            let now_us = self.plan.clock.now_us();
            let settled = Record::Settled { device: self.device };
            self.ledger.borrow_mut().history.record(now_us, settled);
        }
    }

    fn take_events(&self) {
        loop {
            let event = self.core.borrow_mut().poll_event();
            let Some(event) = event else { break };
            self.on_event(event);
        }
    }

    fn on_event(&self, event: Event) {
        let now_us = self.plan.clock.now_us();
        let counters = &self.plan.counters;
        let mut ledger = self.ledger.borrow_mut();
        match event {
            Event::Connected { .. } => {
                counters.online.fetch_add(1, Relaxed);
                let started_us = self.started_us.replace(0);
                if started_us > 0 {
                    ledger.connect.record(now_us - started_us);
                    counters.first_logins.fetch_add(1, Relaxed);
                    counters.last_login_us.fetch_max(now_us, Relaxed);
                }
                self.is_counted_online.set(true);
            }
            Event::Disconnected { reason, .. } => {
                if self.is_counted_online.replace(false) {
                    counters.online.fetch_sub(1, Relaxed);
                }
                if reason != Disconnect::Closed {
                    *ledger.disconnects.entry(reason.to_string()).or_insert(0) += 1;
                    counters.disconnects.fetch_add(1, Relaxed);
                }
            }
            Event::Acked(acked) => {
                let message = ledger.history.message(self.user, id_bits(acked.client_msg_id));
                let conversation = ledger.history.conversation(&acked.conversation);
                let hash = ledger.hashes.get(message.index()).copied().unwrap_or(0);
                let record = Record::Ack {
                    device: self.device,
                    conversation,
                    message,
                    hash,
                    seq: acked.seq,
                    answer: answer_digest(acked.message_id, acked.server_time_ms),
                };
                ledger.history.record(now_us, record);
                if let Some((intended_us, sent_us)) =
                    self.pending.borrow_mut().remove(&acked.client_msg_id)
                {
                    let start_us = ledger.start_us;
                    ledger.ack.record(start_us, intended_us, sent_us, now_us);
                    counters.acked.fetch_add(1, Relaxed);
                }
            }
            Event::Refused { client_msg_id, conversation, code, .. } => {
                let message = ledger.history.message(self.user, id_bits(client_msg_id));
                let conversation = ledger.history.conversation(&conversation);
                let hash = ledger.hashes.get(message.index()).copied().unwrap_or(0);
                let (device, code_number) = (self.device, code as u32);
                let record =
                    Record::Refusal { device, conversation, message, hash, code: code_number };
                ledger.history.record(now_us, record);
                *ledger.refusals.entry(code.to_string()).or_insert(0) += 1;
                self.pending.borrow_mut().remove(&client_msg_id);
                counters.refused.fetch_add(1, Relaxed);
            }
            Event::Message(message) => self.on_message(&mut ledger, now_us, &message),
            Event::Receipt(receipt) => {
                let record = Record::Watermark {
                    observer: self.device,
                    conversation: ledger.history.conversation(&receipt.conversation),
                    subject: ledger.history.user(&receipt.user),
                    kind: match receipt.kind {
                        ReceiptKind::Delivered => WatermarkKind::Delivered,
                        ReceiptKind::Read => WatermarkKind::Read,
                    },
                    seq: receipt.seq,
                };
                ledger.history.record(now_us, record);
            }
            Event::Synced { .. } | Event::History { .. } | Event::RequestRefused { .. } => {}
        }
    }

    fn on_message(&self, ledger: &mut Ledger, now_us: u64, shown: &Message) {
        let sender = ledger.history.user(&shown.sender);
        let record = Record::Displayed {
            device: self.device,
            conversation: ledger.history.conversation(&shown.conversation),
            message: ledger.history.message(sender, id_bits(shown.client_msg_id)),
            seq: shown.seq,
            hash: payload_hash(&shown.body),
        };
        ledger.history.record(now_us, record);
        if sender == self.user {
            return;
        }
        self.plan.counters.delivered.fetch_add(1, Relaxed);
        if let Some((intended_us, sent_us)) = stamps(&shown.body) {
            let start_us = ledger.start_us;
            ledger.delivery.record(start_us, intended_us, sent_us, now_us);
        }
    }

    async fn write(&self) {
        let mut bytes = Vec::new();
        let now = Instant::now();
        while self.core.borrow_mut().poll_transmit(now, &mut bytes) {}
        if bytes.is_empty() {
            return;
        }
        // Taken out while the write goes on: only this task writes.
        let Some(mut writer) = self.writer.take() else { return };
        let socket = self.socket.get();
        let (result, _) = writer.write_all(bytes).await;
        if result.is_ok() {
            self.writer.replace(Some(writer));
        } else {
            self.on_socket_end(socket);
        }
    }

    async fn act(self: &Rc<Self>, action: Action) {
        match action {
            Action::Connect { address } => self.connect(&address).await,
            Action::Disconnect => {
                self.socket.set(self.socket.get() + 1);
                self.writer.take();
            }
            Action::NeedToken => {
                let token = self.plan.mint.token(&self.name);
                self.core.borrow_mut().provide_token(Instant::now(), token);
            }
        }
    }

    async fn connect(self: &Rc<Self>, address: &str) {
        let limit = self.plan.tuning.connect_timeout;
        let opened = monoio::time::timeout(limit, TcpStream::connect(address)).await;
        let Ok(Ok(stream)) = opened else {
            self.core.borrow_mut().handle_disconnected(Instant::now());
            return;
        };
        // Without it a small frame may wait for an acknowledgement; a failure only costs time.
        let _ = stream.set_nodelay(true);
        let (reader, writer) = stream.into_split();
        self.socket.set(self.socket.get() + 1);
        self.writer.replace(Some(writer));
        self.core.borrow_mut().handle_connected(Instant::now());
        monoio::spawn(Rc::clone(self).read(reader, self.socket.get()));
    }

    async fn read(self: Rc<Self>, mut reader: TcpOwnedReadHalf, socket: u64) {
        let mut buffer = vec![0; READ_BYTES];
        loop {
            let (result, returned) = reader.read(buffer).await;
            buffer = returned;
            let size = result.unwrap_or(0);
            if size == 0 || self.socket.get() != socket {
                break;
            }
            self.core.borrow_mut().handle_bytes(Instant::now(), &buffer[..size]);
            self.take_events();
            self.wake.wake();
        }
        self.on_socket_end(socket);
    }

    fn on_socket_end(&self, socket: u64) {
        if self.socket.get() == socket {
            self.socket.set(socket + 1);
            self.writer.take();
            self.core.borrow_mut().handle_disconnected(Instant::now());
            self.wake.wake();
        }
    }

    async fn wait(&self, deadline: Option<Instant>) {
        match deadline {
            Some(at) => {
                let at = monoio::time::Instant::from_std(at);
                if monoio::time::timeout_at(at, self.wake.wait()).await.is_err() {
                    self.core.borrow_mut().handle_timeout(Instant::now());
                }
            }
            None => self.wake.wait().await,
        }
    }
}

fn id_bits(id: ClientMsgId) -> u128 {
    u128::from_be_bytes(id.0)
}

/// The intended and sent time that a body starts with.
fn stamps(body: &[u8]) -> Option<(u64, u64)> {
    let text = std::str::from_utf8(body.get(..STAMP_BYTES)?).ok()?;
    let (intended, sent) = text.split_at(STAMP_BYTES / 2);
    Some((u64::from_str_radix(intended, 16).ok()?, u64::from_str_radix(sent, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_are_read_back() {
        let body = format!("{:016x}{:016x}....", 17, u64::MAX);
        assert_eq!(stamps(body.as_bytes()), Some((17, u64::MAX)));
        assert_eq!(stamps(b"short"), None);
        assert_eq!(stamps(&[0xff; 40]), None);
    }
}
