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
mod events;
mod ledger;
mod socket;
mod stamp;

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use roost_client::core::config::{Config, Tuning};
use roost_client::core::event::Action;
use roost_client::core::{Core, SendTo};
use roost_protocol::ClientMsgId;
use roost_protocol::frame::send::MessageKind;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedReadHalf;

use crate::arrival::Arrival;
use crate::checker::{ConversationId, DeviceId, History, MessageId, Record, UserId, payload_hash};
use crate::clock::RunClock;
use crate::credential::TokenMint;
use crate::scenario::ChatCounters;
use socket::Socket;
use stamp::write_stamps;

pub use alarms::Alarms;
pub use ledger::{Absence, Ledger};
pub use stamp::STAMP_BYTES;

/// More than most reads bring: a few frames.
const READ_BYTES: usize = 4 * 1024;
/// A full socket is tried again after this.
const FULL_SOCKET_WAIT: Duration = Duration::from_millis(2);
/// Longer than a user needs to come back over another network.
const HALF_OPEN: Duration = Duration::from_secs(4);
const DEVICE: &str = "phone";

/// What all users of a run share.
pub struct UserPlan {
    pub(crate) clock: RunClock,
    pub(crate) mint: TokenMint,
    /// Of the gateways; each user starts at another one.
    pub(crate) addresses: Vec<Arc<str>>,
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
    /// When it lost its session, until it has one again.
    lost_us: Cell<Option<u64>>,
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
        let first = (shared.first as usize + index) % plan.addresses.len();
        let mut config = Config::new(&name, DEVICE, &plan.addresses[first], seed);
        config.addresses = plan.addresses.clone();
        config.addresses.rotate_left(first);
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
            lost_us: Cell::new(None),
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
        if let Some(lost_us) = self.lost_us.take() {
            let absence = Absence { user: self.name.clone(), lost_us, back_us: None };
            self.shared.ledger.borrow_mut().absences.push(absence);
        }
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

    /// Goes on over a new connection. Of every second user the former one stays open for a while, and nobody listens to it.
    pub fn change_network(self: &Rc<Self>) {
        let now = Instant::now();
        let former = self.socket.take();
        if former.is_none() {
            return;
        }
        self.on_socket_end(now, self.socket_number.get());
        if self.index.is_multiple_of(2) {
            tokio::task::spawn_local(async move {
                tokio::time::sleep(HALF_OPEN).await;
                drop(former);
            });
        }
        self.advance(now);
    }

    fn on_socket_end(&self, now: Instant, number: u64) {
        if self.socket_number.get() == number {
            self.socket_number.set(number + 1);
            self.socket.take();
            self.core.borrow_mut().handle_disconnected(now);
        }
    }
}

fn id_bits(id: ClientMsgId) -> u128 {
    u128::from_be_bytes(id.0)
}
