//! One virtual user around the client's core, recording all it sees.
//!
//! ```text
//! arrivals → send() ─┐                ┌─ reader task: socket → core
//! alarms ────────────┼→ core, advance ┤
//!                    │                └─ core → socket, without waiting
//!                    └→ ledger: history, latencies
//! ```
//! One task a user reads; everything else happens within the call that brings it. A message costs
//! two writes and two reads of the system and no wake-up of another task.
//!
//! Invariant: what the core tells is recorded with the time at which the user saw it, before
//! anything that follows from it is written to the socket. A lost connection is the core's to
//! repair; it is counted here, and judged by what it does to the messages.

mod alarms;
mod ledger;

use std::cell::{Cell, RefCell};
use std::io::{self, Write};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use roost_client::core::config::{Config, Tuning};
use roost_client::core::event::{Action, Disconnect, Event, Message};
use roost_client::core::{Core, SendTo};
use roost_protocol::ClientMsgId;
use roost_protocol::frame::receipt::ReceiptKind;
use roost_protocol::frame::send::MessageKind;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use crate::arrival::Arrival;
use crate::checker::{
    ConversationId, DeviceId, History, MessageId, Record, UserId, WatermarkKind, answer_digest,
    payload_hash,
};
use crate::clock::RunClock;
use crate::credential::TokenMint;
use crate::scenario::ChatCounters;

pub use alarms::Alarms;
pub use ledger::Ledger;

/// Hexadecimal intended and sent time at the start of each body.
pub const STAMP_BYTES: usize = 32;
/// More than most reads bring: a few frames.
const READ_BYTES: usize = 4 * 1024;
/// A full socket is tried again after this.
const FULL_SOCKET_WAIT: Duration = Duration::from_millis(2);
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

/// What the users of one thread share.
pub struct Shared {
    /// What they record.
    pub ledger: RefCell<Ledger>,
    /// When they want to be looked at.
    pub alarms: Alarms,
    /// All of them, in order; empty before and after the run.
    pub users: RefCell<Rc<[Rc<User>]>>,
    /// What the schedule wants to be sent now.
    arrivals: Receiver<Arrival>,
    /// Names of the users of all threads.
    names: Arc<[String]>,
    /// Number of the first user of this thread.
    first: u32,
    /// Frames on their way to a socket.
    outgoing: Cell<Vec<u8>>,
}

impl Shared {
    /// Of the users from number `first` on.
    pub fn new(first: u32, names: Arc<[String]>, arrivals: Receiver<Arrival>) -> Self {
        Self {
            ledger: RefCell::default(),
            alarms: Alarms::default(),
            users: RefCell::new(Rc::default()),
            arrivals,
            names,
            first,
            outgoing: Cell::default(),
        }
    }

    /// Sends what is due. Looked at before every other piece of work, so that no message waits for
    /// more than one: what the server has to say must not delay what is said to it.
    pub fn send_due(&self) {
        while let Ok(arrival) = self.arrivals.try_recv() {
            if arrival.is_start() {
                self.ledger.borrow_mut().start_us = arrival.intended_us;
                continue;
            }
            let user = self.users.borrow().get((arrival.sender - self.first) as usize).cloned();
            if let Some(user) = user {
                user.send(&self.names[arrival.receiver as usize], arrival.intended_us);
            }
        }
    }
}

/// The present connection.
struct Socket {
    /// Its end tells the server.
    writer: OwnedWriteHalf,
    /// What the full socket did not take; nothing else leaves before it.
    unsent: Vec<u8>,
}

/// A user and its device.
pub struct User {
    name: String,
    plan: Arc<UserPlan>,
    shared: Rc<Shared>,
    core: RefCell<Core>,
    socket: RefCell<Option<Socket>>,
    /// Counts sockets, so that the end of an old one is not taken for that of a new one.
    socket_number: Cell<u64>,
    /// Position among the users of the thread.
    index: usize,
    alarm: Cell<Option<Instant>>,
    user: UserId,
    device: DeviceId,
    started_us: Cell<u64>,
    is_counted_online: Cell<bool>,
    /// With its neighbours, of whom there are two.
    chats: RefCell<Vec<(Box<str>, ConversationId)>>,
    pending: RefCell<rapidhash::RapidHashMap<ClientMsgId, Pending>>,
}

/// A message without an answer.
struct Pending {
    message: MessageId,
    intended_us: u64,
    sent_us: u64,
}

impl User {
    /// A user at rest, the one at `index` of its thread.
    ///
    /// # Errors
    /// When the name or address is not one.
    pub fn new(
        name: String,
        index: usize,
        plan: Arc<UserPlan>,
        shared: Rc<Shared>,
    ) -> Result<Rc<Self>, String> {
        let seed = fastrand::u128(..);
        let mut config = Config::new(&name, DEVICE, &plan.address, seed);
        config.client_name = "roost-load".to_owned();
        config.token = Some(plan.mint.token(&name));
        config.tuning = Arc::clone(&plan.tuning);
        let core = Core::new(config, Instant::now()).map_err(|e| e.to_string())?;
        let (user, device) = {
            let history = &mut shared.ledger.borrow_mut().history;
            let user = history.user(&name);
            (user, history.device(user, DEVICE))
        };
        Ok(Rc::new(Self {
            name,
            plan,
            shared,
            core: RefCell::new(core),
            socket: RefCell::default(),
            socket_number: Cell::new(0),
            index,
            alarm: Cell::new(None),
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

    /// Starts to connect, and lives until the thread ends.
    pub fn start(self: &Rc<Self>) {
        self.started_us.set(self.plan.clock.now_us());
        let now = Instant::now();
        self.core.borrow_mut().start(now);
        self.advance(now);
    }

    /// Sends a message that the schedule wanted at `intended_us`.
    pub fn send(self: &Rc<Self>, receiver: &str, intended_us: u64) {
        let now = Instant::now();
        let sent_us = self.plan.clock.us_of(now);
        let mut body = vec![b'.'; self.plan.payload_bytes.max(STAMP_BYTES)];
        write_stamps(&mut body, intended_us, sent_us);
        let hash = payload_hash(&body);
        let taken =
            self.core.borrow_mut().send_message(SendTo::User(receiver), MessageKind::TEXT, body);
        let mut ledger = self.shared.ledger.borrow_mut();
        ledger.generator_lag.record(sent_us.saturating_sub(intended_us));
        match taken {
            Ok(client_msg_id) => {
                let history = &mut ledger.history;
                let message = history.message(self.user, id_bits(client_msg_id));
                let conversation = self.chat_with(history, receiver);
                let device = self.device;
                let send = Record::Send { device, conversation, message, hash, intended_us };
                history.record(sent_us, send);
                ledger.set_hash(message, hash);
                let pending = Pending { message, intended_us, sent_us };
                self.pending.borrow_mut().insert(client_msg_id, pending);
                self.plan.counters.sent.fetch_add(1, Relaxed);
            }
            Err(e) => {
                *ledger.refusals.entry(format!("not taken by the client: {e}")).or_insert(0) += 1;
            }
        }
        drop(ledger);
        self.advance(now);
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
            self.shared.ledger.borrow_mut().history.record(now_us, settled);
        }
    }

    /// Looks whether the core wants something at `at`, which was asked of the alarms.
    pub fn on_alarm(self: &Rc<Self>, at: Instant) {
        if self.alarm.get() != Some(at) {
            return;
        }
        self.alarm.set(None);
        let now = Instant::now();
        if self.core.borrow().poll_timeout().is_some_and(|due| due <= now) {
            self.core.borrow_mut().handle_timeout(now);
        }
        self.advance(now);
    }

    /// Does what the core wants: after everything that was told to it.
    fn advance(self: &Rc<Self>, now: Instant) {
        loop {
            self.take_events(now);
            if self.write(now).is_err() {
                self.on_socket_end(now, self.socket_number.get());
                continue;
            }
            let action = self.core.borrow_mut().poll_action();
            match action {
                Some(action) => self.act(now, action),
                None => break,
            }
        }
        self.set_alarm(now);
    }

    fn set_alarm(&self, now: Instant) {
        let is_full = self.socket.borrow().as_ref().is_some_and(|s| !s.unsent.is_empty());
        let due =
            if is_full { Some(now + FULL_SOCKET_WAIT) } else { self.core.borrow().poll_timeout() };
        if let Some(due) = due
            && self.alarm.get().is_none_or(|set| due < set)
        {
            self.alarm.set(Some(due));
            self.shared.alarms.set(due, self.index);
        }
    }

    fn take_events(&self, now: Instant) {
        loop {
            let event = self.core.borrow_mut().poll_event();
            let Some(event) = event else { break };
            self.on_event(self.plan.clock.us_of(now), event);
        }
    }

    fn on_event(&self, now_us: u64, event: Event) {
        let counters = &self.plan.counters;
        let mut ledger = self.shared.ledger.borrow_mut();
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
                let pending = self.pending.borrow_mut().remove(&acked.client_msg_id);
                let message = self.answered(&mut ledger, acked.client_msg_id, pending.as_ref());
                let record = Record::Ack {
                    device: self.device,
                    conversation: ledger.history.conversation(&acked.conversation),
                    message,
                    hash: ledger.hash_of(message),
                    seq: acked.seq,
                    answer: answer_digest(acked.message_id, acked.server_time_ms),
                };
                ledger.history.record(now_us, record);
                if let Some(Pending { intended_us, sent_us, .. }) = pending {
                    let start_us = ledger.start_us;
                    ledger.ack.record(start_us, intended_us, sent_us, now_us);
                    counters.acked.fetch_add(1, Relaxed);
                }
            }
            Event::Refused { client_msg_id, conversation, code, .. } => {
                let pending = self.pending.borrow_mut().remove(&client_msg_id);
                let message = self.answered(&mut ledger, client_msg_id, pending.as_ref());
                let conversation = ledger.history.conversation(&conversation);
                let hash = ledger.hash_of(message);
                let (device, code_number) = (self.device, code as u32);
                let record =
                    Record::Refusal { device, conversation, message, hash, code: code_number };
                ledger.history.record(now_us, record);
                *ledger.refusals.entry(code.to_string()).or_insert(0) += 1;
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

    /// Writes what is due, as far as the socket takes it.
    fn write(&self, now: Instant) -> io::Result<()> {
        let mut bytes = self.shared.outgoing.take();
        bytes.clear();
        let written = match &mut *self.socket.borrow_mut() {
            Some(socket) if !socket.unsent.is_empty() => socket.write_unsent(),
            socket => {
                while self.core.borrow_mut().poll_transmit(now, &mut bytes) {}
                match socket {
                    Some(socket) if !bytes.is_empty() => socket.write(&bytes),
                    Some(_) | None => Ok(()),
                }
            }
        };
        self.shared.outgoing.set(bytes);
        written
    }

    fn act(self: &Rc<Self>, now: Instant, action: Action) {
        match action {
            Action::Connect { address } => {
                let user = Rc::clone(self);
                tokio::task::spawn_local(async move { user.connect(&address).await });
            }
            Action::Disconnect => {
                self.socket_number.set(self.socket_number.get() + 1);
                self.socket.take();
            }
            Action::NeedToken => {
                let token = self.plan.mint.token(&self.name);
                self.core.borrow_mut().provide_token(now, token);
            }
        }
    }

    async fn connect(self: Rc<Self>, address: &str) {
        let limit = self.plan.tuning.connect_timeout;
        let opened = tokio::time::timeout(limit, TcpStream::connect(address)).await;
        let now = Instant::now();
        let Ok(Ok(stream)) = opened else {
            self.core.borrow_mut().handle_disconnected(now);
            return self.advance(now);
        };
        // Without it a small frame may wait for an acknowledgement; a failure only costs time.
        let _ = stream.set_nodelay(true);
        let (reader, writer) = stream.into_split();
        let number = self.socket_number.get() + 1;
        self.socket_number.set(number);
        self.socket.replace(Some(Socket { writer, unsent: Vec::new() }));
        self.core.borrow_mut().handle_connected(now);
        self.advance(now);
        self.read(reader, number).await;
    }

    /// Hands bytes to the core until the socket ends or another one takes its place.
    async fn read(self: Rc<Self>, mut reader: OwnedReadHalf, number: u64) {
        let mut buffer = vec![0; READ_BYTES];
        while let Ok(size @ 1..) = reader.read(&mut buffer).await {
            self.shared.send_due();
            if self.socket_number.get() != number {
                return;
            }
            let now = Instant::now();
            self.core.borrow_mut().handle_bytes(now, &buffer[..size]);
            self.advance(now);
        }
        let now = Instant::now();
        self.on_socket_end(now, number);
        self.advance(now);
    }

    fn on_socket_end(&self, now: Instant, number: u64) {
        if self.socket_number.get() == number {
            self.socket_number.set(number + 1);
            self.socket.take();
            self.core.borrow_mut().handle_disconnected(now);
        }
    }

    /// The message that an answer is about.
    fn answered(
        &self,
        ledger: &mut Ledger,
        id: ClientMsgId,
        pending: Option<&Pending>,
    ) -> MessageId {
        let known = pending.map(|pending| pending.message);
        known.unwrap_or_else(|| ledger.history.message(self.user, id_bits(id)))
    }
}

impl Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let written = match self.writer.try_write(bytes) {
            Ok(size) => size,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => 0,
            Err(e) => return Err(e),
        };
        self.unsent.extend_from_slice(&bytes[written..]);
        Ok(())
    }

    fn write_unsent(&mut self) -> io::Result<()> {
        let unsent = std::mem::take(&mut self.unsent);
        self.write(&unsent)
    }
}

fn write_stamps(body: &mut [u8], intended_us: u64, sent_us: u64) {
    let mut start = &mut body[..STAMP_BYTES];
    write!(start, "{intended_us:016x}{sent_us:016x}").expect("there is room for the stamps");
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
        let mut body = [b'.'; 36];
        write_stamps(&mut body, 17, u64::MAX);
        assert_eq!(stamps(&body), Some((17, u64::MAX)));
        assert_eq!(stamps(b"short"), None);
        assert_eq!(stamps(&[0xff; 40]), None);
    }
}
