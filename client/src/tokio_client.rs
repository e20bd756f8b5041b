//! A client for tokio: one task moves bytes between a socket and the [`Core`]; the application sends and asks for events.
//!
//! Invariants: the core's lock is never held across an await; nothing is buffered beside the core but the bytes of one write, so
//! a connection that is lost takes no message with it. An event is given out only when asked for, and asking for the next one
//! says that the one before is dealt with.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use roost_protocol::ClientMsgId;
use roost_protocol::frame::send::MessageKind;
use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::core::config::{Config, SavedState};
use crate::core::event::{Action, Event};
use crate::core::{ConfigError, Core, SendError, SendTo};

/// Bytes read at a time.
const READ_BYTES: usize = 16 * 1024;
/// The last bytes of a connection may take this long.
const FAREWELL: Duration = Duration::from_secs(1);

/// A client. Dropping it ends the connection at once; [`Client::close`] says goodbye first.
#[derive(Debug)]
pub struct Client {
    shared: Arc<Shared>,
    driver: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    inner: Mutex<Inner>,
    /// For the driver: the core was called.
    changed: Notify,
    /// For the application: there may be an event.
    event: Notify,
}

#[derive(Debug)]
struct Inner {
    core: Core,
    closing: bool,
    connect_error: Option<String>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn call<T>(&self, call: impl FnOnce(&mut Core) -> T) -> T {
        let result = call(&mut self.lock().core);
        self.changed.notify_one();
        result
    }
}

impl Client {
    /// Starts to connect. Must be called within a tokio runtime with I/O and time.
    pub fn connect(config: Config) -> Result<Self, ConfigError> {
        let now = Instant::now();
        let mut core = Core::new(config, now)?;
        core.start(now);
        let inner = Inner { core, closing: false, connect_error: None };
        let shared = Arc::new(Shared {
            inner: Mutex::new(inner),
            changed: Notify::new(),
            event: Notify::new(),
        });
        let driver = tokio::spawn(Driver::new(shared.clone()).run());
        Ok(Self { shared, driver })
    }

    /// Takes a message into the send queue. It stays there, over any number of connections, until [`Event::Acked`] or
    /// [`Event::Refused`].
    pub fn send(
        &self,
        to: SendTo<'_>,
        kind: MessageKind,
        body: impl Into<Bytes>,
    ) -> Result<ClientMsgId, SendError> {
        self.shared.call(|core| core.send_message(to, kind, body))
    }

    /// The next event. Asking says that the one before is dealt with, so that it may be acknowledged.
    pub async fn next_event(&self) -> Event {
        loop {
            let event = self.shared.call(Core::poll_event);
            match event {
                Some(event) => return event,
                None => self.shared.event.notified().await,
            }
        }
    }

    /// See [`Core::mark_read`].
    pub fn mark_read(&self, conversation: &str, seq: u64) -> Result<(), SendError> {
        self.shared.call(|core| core.mark_read(conversation, seq))
    }

    /// See [`Core::request_history`].
    pub fn request_history(
        &self,
        conversation: &str,
        after: u64,
        before: u64,
        limit: u16,
        newest_first: bool,
    ) -> Result<u16, SendError> {
        let ask = |core: &mut Core| {
            core.request_history(conversation, after, before, limit, newest_first)
        };
        self.shared.call(ask)
    }

    /// See [`Core::provide_token`].
    pub fn provide_token(&self, token: String) {
        self.shared.call(|core| core.provide_token(Instant::now(), token));
    }

    /// Messages without an answer.
    pub fn unsent(&self) -> usize {
        self.shared.lock().core.unsent()
    }

    /// What has to survive a restart, as of now.
    pub fn save(&self) -> SavedState {
        self.shared.lock().core.save()
    }

    /// What the operating system said about the last socket that could not be opened or broke.
    pub fn last_socket_error(&self) -> Option<String> {
        self.shared.lock().connect_error.clone()
    }

    /// Acknowledges what was dealt with, says goodbye and ends the connection. What is still unsent is in the result.
    pub async fn close(mut self) -> SavedState {
        self.shared.lock().closing = true;
        self.shared.call(|core| core.close(Instant::now()));
        // A driver that panicked has said so already.
        let _ = (&mut self.driver).await;
        self.save()
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

type Connecting = Pin<Box<dyn Future<Output = io::Result<TcpStream>> + Send>>;

enum Socket {
    None,
    Connecting(Connecting),
    Open(TcpStream),
}

struct Driver {
    shared: Arc<Shared>,
    socket: Socket,
    /// Taken from the core, not yet written.
    out: Vec<u8>,
    buffer: Box<[u8]>,
}

/// What the driver waited for.
enum Wake {
    Called,
    Timeout,
    Connected(io::Result<TcpStream>),
    Ready(io::Result<tokio::io::Ready>),
}

impl Driver {
    fn new(shared: Arc<Shared>) -> Self {
        let buffer = vec![0; READ_BYTES].into();
        Self { shared, socket: Socket::None, out: Vec::new(), buffer }
    }

    async fn run(mut self) {
        loop {
            let (actions, timeout, wants_bytes) = self.collect();
            for action in actions {
                self.act(action).await;
            }
            if matches!(self.socket, Socket::None) && self.shared.lock().closing {
                return;
            }
            let wake = self.wait(timeout, wants_bytes).await;
            self.on_wake(wake);
            self.shared.event.notify_one();
        }
    }

    fn collect(&mut self) -> (Vec<Action>, Option<Instant>, bool) {
        let mut inner = self.shared.lock();
        let core = &mut inner.core;
        if self.out.is_empty() {
            core.poll_transmit(Instant::now(), &mut self.out);
        }
        let actions = std::iter::from_fn(|| core.poll_action()).collect();
        (actions, core.poll_timeout(), core.wants_bytes())
    }

    async fn act(&mut self, action: Action) {
        match action {
            Action::Connect { address } => {
                self.out.clear();
                let connect = async move {
                    let stream = TcpStream::connect(&*address).await?;
                    stream.set_nodelay(true)?;
                    Ok(stream)
                };
                self.socket = Socket::Connecting(Box::pin(connect));
            }
            Action::Disconnect => {
                let socket = std::mem::replace(&mut self.socket, Socket::None);
                if let Socket::Open(mut stream) = socket
                    && !self.out.is_empty()
                {
                    let goodbye = async {
                        stream.write_all(&self.out).await?;
                        stream.shutdown().await
                    };
                    // The connection ends either way.
                    let _ = tokio::time::timeout(FAREWELL, goodbye).await;
                }
                self.out.clear();
            }
            // The application sees it as an event.
            Action::NeedToken => {}
        }
    }

    async fn wait(&mut self, timeout: Option<Instant>, wants_bytes: bool) -> Wake {
        let interest = match (wants_bytes, self.out.is_empty()) {
            (true, true) => Some(Interest::READABLE),
            (true, false) => Some(Interest::READABLE | Interest::WRITABLE),
            (false, false) => Some(Interest::WRITABLE),
            (false, true) => None,
        };
        let socket = &mut self.socket;
        let io = async move {
            match (socket, interest) {
                (Socket::Connecting(connecting), _) => Wake::Connected(connecting.await),
                (Socket::Open(stream), Some(interest)) => Wake::Ready(stream.ready(interest).await),
                (Socket::Open(_), None) | (Socket::None, _) => std::future::pending().await,
            }
        };
        let sleep = async move {
            match timeout {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.shared.changed.notified() => Wake::Called,
            wake = io => wake,
            () = sleep => Wake::Timeout,
        }
    }

    fn on_wake(&mut self, wake: Wake) {
        match wake {
            Wake::Called => {}
            Wake::Timeout => self.shared.lock().core.handle_timeout(Instant::now()),
            Wake::Connected(Ok(stream)) => {
                self.socket = Socket::Open(stream);
                self.shared.lock().core.handle_connected(Instant::now());
            }
            Wake::Connected(Err(error)) => self.lost(Some(error)),
            Wake::Ready(Ok(ready)) => {
                if ready.is_writable() {
                    self.write();
                }
                if ready.is_readable() || ready.is_read_closed() {
                    self.read();
                }
            }
            Wake::Ready(Err(error)) => self.lost(Some(error)),
        }
    }

    fn write(&mut self) {
        let Socket::Open(stream) = &self.socket else { return };
        if self.out.is_empty() {
            return;
        }
        match stream.try_write(&self.out) {
            Ok(written) => {
                self.out.drain(..written);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => {
                // A server that closed has said why: those bytes are still there.
                self.read();
                self.lost(Some(error));
            }
        }
    }

    fn read(&mut self) {
        let Socket::Open(stream) = &self.socket else { return };
        match stream.try_read(&mut self.buffer) {
            Ok(0) => self.lost(None),
            Ok(count) => {
                let bytes = &self.buffer[..count];
                self.shared.lock().core.handle_bytes(Instant::now(), bytes);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => self.lost(Some(error)),
        }
    }

    fn lost(&mut self, error: Option<io::Error>) {
        self.socket = Socket::None;
        self.out.clear();
        let mut inner = self.shared.lock();
        inner.connect_error = error.map(|error| error.to_string());
        inner.core.handle_disconnected(Instant::now());
    }
}
