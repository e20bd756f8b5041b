//! A shard that echoes, written against `trait Io` alone: its connection table, and one outbox each.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use roost_gateway::io::{
    Completion, ConnectionKey, GatherEntry, Io, IoCounters, SendBuffer, Shutdown,
};

/// Receiving stops while more than this waits to be sent.
const OUTBOX_BYTES_MAX: usize = 64 * 1024;

/// What the shard does with what it receives.
#[derive(Clone)]
pub(crate) enum Mode {
    /// Sends it back.
    Echo,
    /// Sends it back once the peer finished sending.
    AnswerAtEnd,
    /// Sends one gather list of that many frames for each receive.
    Gather { frames: usize, body: Vec<u8> },
    /// Closes sockets instead of attaching them.
    Reject,
}

/// The bytes of `Mode::Gather`.
pub(crate) fn gathered(frames: usize, body: &[u8]) -> Vec<u8> {
    (0..frames).flat_map(|number| header(number).into_iter().chain(body.iter().copied())).collect()
}

fn header(number: usize) -> [u8; 16] {
    (number as u128).to_le_bytes()
}

#[derive(Default)]
struct Connection {
    outbox: Vec<u8>,
    gather: Option<SendBuffer>,
    sending: bool,
    paused: bool,
    ended: bool,
    closing: bool,
}

pub(crate) struct EchoShard<I> {
    io: I,
    mode: Mode,
    connections: HashMap<u32, (u32, Connection)>,
    free: Vec<(u32, u32)>,
    used: u32,
    completions: Vec<Completion>,
    paused: bool,
    pub(crate) accepted: usize,
}

impl<I: Io> EchoShard<I> {
    pub(crate) fn new(io: I) -> Self {
        Self {
            io,
            mode: Mode::Echo,
            connections: HashMap::new(),
            free: Vec::new(),
            used: 0,
            completions: Vec::new(),
            paused: false,
            accepted: 0,
        }
    }

    pub(crate) fn set_mode(&mut self, mode: Mode) {
        self.mode = mode;
    }

    pub(crate) fn connections(&self) -> usize {
        self.connections.len()
    }

    pub(crate) fn keys(&self) -> Vec<ConnectionKey> {
        let key = |(&index, &(generation, _)): (&u32, &(u32, Connection))| ConnectionKey {
            index,
            generation,
        };
        self.connections.iter().map(key).collect()
    }

    pub(crate) fn counters(&self) -> IoCounters {
        self.io.counters()
    }

    pub(crate) fn pause_all(&mut self) {
        self.paused = true;
        for key in self.keys() {
            self.io.pause_receive(key);
        }
    }

    pub(crate) fn resume_all(&mut self) {
        self.paused = false;
        for key in self.keys() {
            self.io.start_receive(key);
        }
    }

    pub(crate) fn shutdown_all(&mut self) {
        for key in self.keys() {
            self.close(key);
        }
    }

    /// Everything one can ask for a key.
    pub(crate) fn poke(&mut self, key: ConnectionKey) {
        self.io.pause_receive(key);
        self.io.start_receive(key);
        self.io.submit_send(key, SendBuffer::Owned(b"to nobody".to_vec()));
        self.io.shutdown(key, Shutdown::Write);
        self.io.shutdown(key, Shutdown::Both);
        assert_eq!(self.io.peer_address(key), None);
    }

    /// One turn.
    pub(crate) fn pump(&mut self, wait: Duration) {
        let mut completions = std::mem::take(&mut self.completions);
        self.io.turn(wait, &mut completions).unwrap();
        for completion in completions.drain(..) {
            self.handle(completion);
        }
        self.completions = completions;
    }

    fn handle(&mut self, completion: Completion) {
        match completion {
            Completion::Accepted { socket } => {
                if matches!(self.mode, Mode::Reject) {
                    return self.io.reject(socket);
                }
                let key = self.new_key();
                self.io.attach(socket, key);
                self.accepted += 1;
                assert!(self.io.peer_address(key).is_some_and(|address| address.is_loopback()));
                if !self.paused {
                    self.io.start_receive(key);
                }
            }
            Completion::Received { key, buffer } => {
                assert!(buffer.size_bytes() > 0);
                let mode = self.mode.clone();
                let connection = connection(&mut self.connections, key);
                assert!(!connection.ended, "bytes after the end");
                match mode {
                    Mode::Gather { frames, body } => {
                        connection.gather = Some(gather(frames, body));
                    }
                    Mode::Echo | Mode::AnswerAtEnd | Mode::Reject => {
                        connection.outbox.extend_from_slice(self.io.received(&buffer));
                    }
                }
                self.io.release_buffer(buffer);
                self.flush(key);
            }
            Completion::ReceiveEnded { key, .. } => {
                let connection = connection(&mut self.connections, key);
                assert!(!connection.ended, "the end twice");
                connection.ended = true;
                self.flush(key);
            }
            Completion::Sent { key, finished, .. } => {
                let connection = connection(&mut self.connections, key);
                assert!(connection.sending, "sent what was not submitted");
                connection.sending = !finished;
                self.flush(key);
            }
            Completion::SendFailed { key, .. } => self.close(key),
            Completion::Released { key } => {
                let (generation, connection) = self.connections.remove(&key.index).unwrap();
                assert_eq!(generation, key.generation);
                assert!(connection.closing, "released without being asked");
                self.free.push((key.index, generation + 1));
            }
            Completion::Woken => {}
        }
    }

    fn new_key(&mut self) -> ConnectionKey {
        let (index, generation) = self.free.pop().unwrap_or_else(|| {
            self.used += 1;
            (self.used - 1, 1)
        });
        self.connections.insert(index, (generation, Connection::default()));
        ConnectionKey { index, generation }
    }

    fn close(&mut self, key: ConnectionKey) {
        connection(&mut self.connections, key).closing = true;
        self.io.shutdown(key, Shutdown::Both);
    }

    fn flush(&mut self, key: ConnectionKey) {
        let waits = matches!(self.mode, Mode::AnswerAtEnd);
        let connection = connection(&mut self.connections, key);
        if connection.closing {
            return;
        }
        if !connection.sending && (connection.ended || !waits) {
            let outbox = std::mem::take(&mut connection.outbox);
            if let Some(gather) = connection.gather.take() {
                connection.sending = true;
                self.io.submit_send(key, gather);
            } else if !outbox.is_empty() {
                connection.sending = true;
                self.io.submit_send(key, SendBuffer::Owned(outbox));
            } else if connection.ended {
                return self.close(key);
            }
        }
        let full = connection.outbox.len() > OUTBOX_BYTES_MAX;
        if full != connection.paused && !self.paused {
            connection.paused = full;
            if full { self.io.pause_receive(key) } else { self.io.start_receive(key) }
        }
    }
}

fn connection(
    connections: &mut HashMap<u32, (u32, Connection)>,
    key: ConnectionKey,
) -> &mut Connection {
    let (generation, connection) = connections.get_mut(&key.index).expect("event of nobody");
    assert_eq!(*generation, key.generation, "event of a former connection");
    connection
}

fn gather(frames: usize, body: Vec<u8>) -> SendBuffer {
    let payload = Bytes::from(body);
    let entry = |number| GatherEntry { header: header(number), payload: payload.clone() };
    SendBuffer::Gather((0..frames).map(entry).collect())
}
