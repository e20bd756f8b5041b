//! The smallest logic: acknowledges each SEND with the next number of its conversation and delivers it to both users.

use std::collections::HashMap;
use std::sync::mpsc;
use std::thread::JoinHandle;

use roost_bus::SharedBus;
use roost_protocol::envelope::{
    FanOutTarget, Inbound, InboundBatch, InboundKind, OutboundBatchBuilder,
};
use roost_protocol::frame::ack::SendAck;
use roost_protocol::frame::deliver::Message;
use roost_protocol::frame::send::Send;
use roost_protocol::{Encoder, FrameKind, UserId};
use tokio::sync::watch;

/// A worker thread. Ends when the bus is closed.
pub(crate) struct LogicStub {
    /// While true nothing is taken from the bus.
    pub(crate) is_stopped: watch::Sender<bool>,
    /// What sessions did, in order: user and whether it was opened.
    pub(crate) sessions: mpsc::Receiver<(String, bool)>,
    pub(crate) thread: JoinHandle<()>,
}

#[derive(Default)]
struct State {
    /// Last number of each conversation.
    seqs: HashMap<String, u64>,
    /// Acknowledged before: the same answer again.
    known: HashMap<(String, u128), u64>,
    encoder: Encoder,
    out: OutboundBatchBuilder,
}

impl LogicStub {
    pub(crate) fn start(bus: SharedBus) -> Self {
        let (is_stopped, mut stopped) = watch::channel(false);
        let (opened, sessions) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(work(bus, &mut stopped, &opened));
        });
        Self { is_stopped, sessions, thread }
    }
}

async fn work(
    bus: SharedBus,
    is_stopped: &mut watch::Receiver<bool>,
    opened: &mpsc::Sender<(String, bool)>,
) {
    let mut consumer = bus.consume_inbound().await.unwrap();
    let mut state = State::default();
    loop {
        // An error: nobody is left who could stop it.
        let _ = is_stopped.wait_for(|is_stopped| !is_stopped).await;
        let Some(delivery) = consumer.next().await else { return };
        let batch = InboundBatch::parse(delivery.body.clone()).unwrap();
        for record in batch.iter() {
            let (inbound, payload) = record.unwrap();
            match inbound.kind {
                InboundKind::Frame if inbound.frame_kind == FrameKind::Send => {
                    state.answer(&inbound, &Send::decode(&payload).unwrap());
                }
                InboundKind::SessionOpened => _ = opened.send((inbound.user.to_owned(), true)),
                InboundKind::SessionClosed => _ = opened.send((inbound.user.to_owned(), false)),
                InboundKind::Frame | InboundKind::DigestCheck => {}
            }
        }
        if !state.out.is_empty() {
            // A gateway that is gone takes nothing: its clients ask the next one.
            _ = bus.publish_outbound(batch.origin(), state.out.take()).await;
        }
        delivery.acknowledge().await;
    }
}

impl State {
    fn answer(&mut self, inbound: &Inbound<'_>, send: &Send<'_>) {
        let sender = UserId::new(inbound.user).unwrap();
        let conversation = send.target.conversation(sender);
        let peer = conversation.peer_of(sender).unwrap();
        let name = conversation.to_string();
        let identity = (name.clone(), u128::from_be_bytes(send.client_msg_id.0));
        let is_new = !self.known.contains_key(&identity);
        let last = self.seqs.entry(name).or_default();
        let seq = *self.known.entry(identity).or_insert_with(|| {
            *last += 1;
            *last
        });
        let ack = SendAck {
            client_msg_id: send.client_msg_id,
            conversation,
            seq,
            message_id: seq,
            server_time_ms: 0,
        };
        let payload = ack.payload(&mut self.encoder);
        let Inbound { connection, correlation, .. } = *inbound;
        self.out.to_connection(connection, FrameKind::SendAck, correlation, seq, payload);
        if is_new {
            let message = Message {
                conversation,
                seq,
                message_id: seq,
                sender,
                client_msg_id: send.client_msg_id,
                kind: send.kind,
                body: send.body,
                server_time_ms: 0,
            };
            let targets =
                [sender, peer].map(|user| FanOutTarget { user: user.as_str(), inbox_seq: seq });
            let payload = message.payload(&mut self.encoder);
            let kind = FrameKind::Deliver;
            self.out.to_users(inbound.app, kind, Some(connection), &targets, payload);
        }
    }
}
