//! From a record of an inbound body to an operation. Payloads were verified by the gateway; what does not parse all the same
//! is ignored and counted, because nobody can be answered.

use bytes::Bytes;
use roost_protocol::envelope::{Forwarded, Inbound, InboundKind};
use roost_protocol::frame::deliver::DeliverAck;
use roost_protocol::frame::receipt::Receipt;
use roost_protocol::id::UserId;

use crate::handler::{self, Caller, send};
use crate::store::Store;

/// One thing to do.
#[derive(Debug)]
pub(super) enum Operation<'a> {
    Send(send::Input<'a>),
    DeliverAck(Caller<'a>, DeliverAck<'a>),
    Receipt(Caller<'a>, Receipt<'a>),
    SessionClosed(Caller<'a>),
    /// A request or digest check: answered by the readers.
    Read,
    /// Nothing to do: a session began; it syncs by itself.
    SessionOpened,
    /// Not of a kind that clients send, or unreadable.
    Malformed,
}

/// An operation and where its answer goes.
#[derive(Debug)]
pub(super) struct Item<'a> {
    pub(super) operation: Operation<'a>,
    pub(super) envelope: &'a Inbound<'a>,
    pub(super) payload: &'a Bytes,
    /// Index of its body in the batch.
    pub(super) body: usize,
}

impl<'a> Item<'a> {
    pub(super) fn read(
        body: usize,
        redelivered: bool,
        (envelope, payload): &'a (Inbound<'a>, Bytes),
    ) -> Self {
        let operation = operation(envelope, payload, redelivered).unwrap_or(Operation::Malformed);
        Self { operation, envelope, payload, body }
    }
}

impl Item<'_> {
    /// Whether the databases that it needs are there, as far as is known.
    pub(super) fn is_within_reach(&self, store: &dyn Store) -> bool {
        let of_caller = |caller: &Caller<'_>, conversations: &[&str]| {
            store.is_within_reach(caller.app, &[caller.user.as_str()], conversations)
        };
        match &self.operation {
            Operation::Send(send::Input { caller, conversation, conversation_text, .. }) => {
                let members = [Some(caller.user), handler::peer(conversation, caller.user)];
                let members: Vec<&str> = members.iter().flatten().map(|m| m.as_str()).collect();
                store.is_within_reach(caller.app, &members, &[conversation_text])
            }
            Operation::DeliverAck(caller, ack) => {
                let texts: Vec<String> =
                    ack.watermarks.iter().map(|(c, _)| c.to_string()).collect();
                of_caller(caller, &texts.iter().map(String::as_str).collect::<Vec<_>>())
            }
            Operation::Receipt(caller, receipt) => {
                of_caller(caller, &[&receipt.conversation.to_string()])
            }
            Operation::SessionClosed(caller) => of_caller(caller, &[]),
            Operation::Read | Operation::SessionOpened | Operation::Malformed => true,
        }
    }
}

fn operation<'a>(
    envelope: &'a Inbound<'a>,
    payload: &'a Bytes,
    redelivered: bool,
) -> Option<Operation<'a>> {
    let caller = Caller {
        app: envelope.app,
        user: UserId::new(envelope.user).ok()?,
        device: envelope.device,
        session_epoch: envelope.session_epoch,
    };
    match envelope.kind {
        InboundKind::SessionOpened => return Some(Operation::SessionOpened),
        InboundKind::SessionClosed => return Some(Operation::SessionClosed(caller)),
        InboundKind::DigestCheck => return Some(Operation::Read),
        InboundKind::Frame => {}
    }
    Some(match Forwarded::decode(envelope.frame_kind, payload)? {
        Forwarded::Send(send) => {
            let conversation = send.target.conversation(caller.user);
            Operation::Send(send::Input {
                caller,
                body: payload.slice_ref(send.body),
                conversation,
                conversation_text: conversation.to_string(),
                send,
                redelivered,
            })
        }
        Forwarded::DeliverAck(ack) => Operation::DeliverAck(caller, ack),
        Forwarded::Receipt(receipt) => Operation::Receipt(caller, receipt),
        Forwarded::Request(_) => Operation::Read,
    })
}
