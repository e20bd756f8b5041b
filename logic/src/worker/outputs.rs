//! What a batch says, in order, encoded once, and its distribution over gateways.
//!
//! Per gateway the order of a batch is kept: a sender's acknowledgements and a receiver's deliveries leave in the order in which
//! the messages were placed.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use roost_protocol::envelope::{ConnectionAddress, FanOutTarget, Inbound, OutboundBatchBuilder};
use roost_protocol::frame::ack::{SendAck, SendRefused};
use roost_protocol::frame::deliver::Message;
use roost_protocol::frame::receipt::{Receipt, ReceiptKind};
use roost_protocol::id::{ConversationId, UserId};
use roost_protocol::{ClientMsgId, Encoder, FrameKind, RefusalCode};
use roost_trace::{Hop, Text};

use super::trace::{TracedCopy, TracedOutput};
use crate::handler::{Raised, send};
use crate::store::{Name, Placed};

/// An outbound body is cut when it has this size; one envelope may exceed it.
const BODY_BYTES: usize = 256 * 1024;

/// One thing to say. `body` is the index of the inbound body it answers, whose origin it goes to.
#[derive(Debug)]
enum Output {
    Answer {
        body: usize,
        connection: ConnectionAddress,
        correlation: u16,
        kind: FrameKind,
        inbox_seq: u64,
        payload: Range<usize>,
    },
    Push(Push),
}

/// A frame for all sessions of one or two users.
#[derive(Debug)]
struct Push {
    app: Name,
    kind: FrameKind,
    /// The connection that knows already, at the origin of this body.
    except: Option<(usize, ConnectionAddress)>,
    first: (Name, u64),
    second: Option<(Name, u64)>,
    payload: Range<usize>,
    /// When nobody is there for `first`: the server says "delivered" to `second` itself.
    offline: Option<(Name, u64)>,
}

impl Push {
    fn targets(&self) -> impl Iterator<Item = &(Name, u64)> {
        std::iter::once(&self.first).chain(&self.second)
    }
}

/// All a batch says.
#[derive(Debug, Default)]
pub(super) struct Outputs {
    list: Vec<Output>,
    payloads: Vec<u8>,
    encoder: Encoder,
    now_ms: u64,
    /// Traced messages by the position of what is said about them, ascending.
    traced: Vec<(usize, TracedCopy)>,
}

impl Outputs {
    pub(super) fn new(now_ms: u64) -> Self {
        Self { now_ms, ..Self::default() }
    }

    /// How much was said, for [`Self::truncate`].
    pub(super) fn mark(&self) -> (usize, usize) {
        (self.list.len(), self.payloads.len())
    }

    /// Takes back everything since the mark.
    pub(super) fn truncate(&mut self, (list, payloads): (usize, usize)) {
        self.list.truncate(list);
        self.traced.retain(|(position, _)| *position < list);
        self.payloads.truncate(payloads);
    }

    /// The two ends of an accepted or repeated message.
    pub(super) fn placed(
        &mut self,
        body: usize,
        envelope: &Inbound<'_>,
        input: &send::Input<'_>,
        placed: &Placed,
        push: Option<&send::Names>,
    ) {
        let client_msg_id = input.send.client_msg_id;
        let ack = SendAck {
            client_msg_id,
            conversation: input.conversation,
            seq: placed.seq,
            message_id: placed.message_id,
            server_time_ms: placed.server_time_ms,
        };
        let payload = append(&mut self.payloads, ack.payload(&mut self.encoder));
        self.answer(body, envelope, FrameKind::SendAck, placed.sender_inbox_seq, payload);
        let Some(names) = push else { return };
        let message = Message {
            conversation: input.conversation,
            seq: placed.seq,
            message_id: placed.message_id,
            sender: input.caller.user,
            client_msg_id,
            kind: input.send.kind,
            body: input.send.body,
            server_time_ms: placed.server_time_ms,
        };
        let payload = append(&mut self.payloads, message.payload(&mut self.encoder));
        let is_note = names.peer == names.sender;
        let sender = (Arc::clone(&names.sender), placed.sender_inbox_seq);
        self.list.push(Output::Push(Push {
            app: Arc::clone(&names.app),
            kind: FrameKind::Deliver,
            except: Some((body, envelope.connection)),
            first: (Arc::clone(&names.peer), placed.peer_inbox_seq),
            second: (!is_note).then_some(sender),
            payload,
            offline: (!is_note).then(|| (input.conversation_text.as_str().into(), placed.seq)),
        }));
    }

    /// What was said last is about a traced message; with a push, the last two are.
    pub(super) fn trace_last(&mut self, copy: Option<TracedCopy>, is_pushed: bool) {
        let Some(copy) = copy else { return };
        let end = self.list.len();
        let begin = end.saturating_sub(1 + usize::from(is_pushed));
        self.traced.extend((begin..end).map(|position| (position, copy)));
    }

    /// A refused send.
    pub(super) fn refused(
        &mut self,
        body: usize,
        envelope: &Inbound<'_>,
        client_msg_id: ClientMsgId,
        refusal: Refusal,
    ) {
        let Refusal { code, retry_after_ms, expected_client_seq, detail } = refusal;
        let refused =
            SendRefused { client_msg_id, code, retry_after_ms, expected_client_seq, detail };
        let payload = append(&mut self.payloads, refused.payload(&mut self.encoder));
        self.answer(body, envelope, FrameKind::SendRefused, 0, payload);
    }

    /// A watermark that rose: to the other member and, if a person read, to the reader's other devices.
    pub(super) fn raised(&mut self, body: usize, envelope: &Inbound<'_>, raised: &Raised) {
        let (Ok(conversation), Ok(user)) =
            (ConversationId::parse(&raised.conversation), UserId::new(&raised.user))
        else {
            return;
        };
        let receipt = Receipt {
            conversation,
            user: Some(user),
            kind: raised.kind,
            seq: raised.seq,
            by_server: false,
            server_time_ms: self.now_ms,
        };
        let to_others = raised.peer != raised.user;
        let to_own = raised.kind == ReceiptKind::Read;
        if !to_others && !to_own {
            return;
        }
        let payload = append(&mut self.payloads, receipt.payload(&mut self.encoder));
        let own = (Arc::clone(&raised.user), 0);
        let (first, second) = if to_others {
            ((Arc::clone(&raised.peer), 0), to_own.then_some(own))
        } else {
            (own, None)
        };
        self.list.push(Output::Push(Push {
            app: Arc::clone(&raised.app),
            kind: FrameKind::Receipt,
            except: Some((body, envelope.connection)),
            first,
            second,
            payload,
            offline: None,
        }));
    }

    fn answer(
        &mut self,
        body: usize,
        envelope: &Inbound<'_>,
        kind: FrameKind,
        inbox_seq: u64,
        payload: Range<usize>,
    ) {
        self.list.push(Output::Answer {
            body,
            connection: envelope.connection,
            correlation: envelope.correlation,
            kind,
            inbox_seq,
            payload,
        });
    }

    pub(super) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Every user a push goes to, with its app, in the order in which [`Self::distribute`] asks for their gateways.
    pub(super) fn users(&self) -> impl Iterator<Item = (&str, &str)> {
        self.list
            .iter()
            .filter_map(|output| match output {
                Output::Push(push) => Some(push),
                Output::Answer { .. } => None,
            })
            .flat_map(|push| push.targets().map(|(user, _)| (&*push.app, &**user)))
    }

    /// Where each thing that is said about a traced message goes; `gateways` as in [`Self::distribute`].
    pub(super) fn traced(
        &self,
        origins: &[Arc<str>],
        gateways: Option<&[Vec<Arc<str>>]>,
    ) -> Vec<TracedOutput> {
        let mut made = Vec::new();
        let mut traced = self.traced.iter().peekable();
        let mut routes = gateways.unwrap_or_default();
        for (position, output) in self.list.iter().enumerate() {
            if traced.peek().is_none() {
                break;
            }
            let pushed = match output {
                Output::Answer { .. } => &[][..],
                Output::Push(push) => {
                    let (pushed, rest) =
                        routes.split_at_checked(push.targets().count()).unwrap_or_default();
                    routes = rest;
                    pushed
                }
            };
            let Some((_, copy)) = traced.next_if(|(traced, _)| *traced == position) else {
                continue;
            };
            made.push(match output {
                Output::Answer { body, .. } => TracedOutput {
                    copy: *copy,
                    hop: Hop::AnswerConfirmed,
                    gateways: vec![Arc::clone(&origins[*body])],
                    missed: None,
                },
                Output::Push(push) => {
                    let missed = match (gateways, pushed.first()) {
                        (None, _) => Some((Hop::RoutesUnavailable, Text::default())),
                        (Some(_), Some(first)) if first.is_empty() => {
                            Some((Hop::Offline, Text::new(&push.first.0)))
                        }
                        (Some(_), _) => None,
                    };
                    let mut to: Vec<Arc<str>> = pushed.iter().flatten().cloned().collect();
                    to.sort_unstable();
                    to.dedup();
                    TracedOutput { copy: *copy, hop: Hop::PushConfirmed, gateways: to, missed }
                }
            });
        }
        made
    }

    /// Bodies per gateway. `gateways` has an entry for each of [`Self::users`]; `None`: routes are unavailable, only answers go
    /// out and nobody is called offline.
    pub(super) fn distribute(
        mut self,
        origins: &[Arc<str>],
        gateways: Option<&[Vec<Arc<str>>]>,
    ) -> Vec<GatewayBodies> {
        let mut outgoing = Outgoing::default();
        let mut routes = gateways.unwrap_or_default().iter();
        let mut offline = Vec::new();
        for output in &self.list {
            match output {
                Output::Answer { body, connection, correlation, kind, inbox_seq, payload } => {
                    let builder = outgoing.to(&origins[*body]);
                    let payload = &self.payloads[payload.clone()];
                    builder.to_connection(*connection, *kind, *correlation, *inbox_seq, payload);
                }
                Output::Push(push) => {
                    let first = routes.next().map_or(&[][..], Vec::as_slice);
                    let second = match push.second {
                        Some(_) => routes.next().map_or(&[][..], Vec::as_slice),
                        None => &[],
                    };
                    let payload = &self.payloads[push.payload.clone()];
                    outgoing.push(push, origins, [first, second], payload);
                    if gateways.is_some() && first.is_empty() && !second.is_empty() {
                        note_offline(&mut offline, push, second);
                    }
                }
            }
        }
        for entry in &offline {
            delivered_by_server(entry, self.now_ms, &mut self.encoder, &mut outgoing);
        }
        outgoing.gateways.into_iter().map(Outgoing::finish).collect()
    }
}

/// Why a send was refused.
#[derive(Debug, Clone, Copy)]
pub(super) struct Refusal {
    pub(super) code: RefusalCode,
    pub(super) retry_after_ms: u32,
    pub(super) expected_client_seq: u32,
    pub(super) detail: &'static str,
}

fn append(payloads: &mut Vec<u8>, payload: &[u8]) -> Range<usize> {
    let start = payloads.len();
    payloads.extend_from_slice(payload);
    start..payloads.len()
}

/// A receiver without a session, once per conversation and sender.
struct Offline<'a> {
    app: &'a str,
    conversation: &'a str,
    sender: &'a str,
    receiver: &'a str,
    seq: u64,
    gateways: &'a [Arc<str>],
}

fn note_offline<'a>(list: &mut Vec<Offline<'a>>, push: &'a Push, gateways: &'a [Arc<str>]) {
    let (Some((conversation, seq)), Some((sender, _))) = (&push.offline, &push.second) else {
        return;
    };
    let known = list.iter_mut().rev().take(64).find(|known| {
        known.conversation == &**conversation
            && known.sender == &**sender
            && known.app == &*push.app
    });
    match known {
        Some(known) => known.seq = known.seq.max(*seq),
        None => list.push(Offline {
            app: &push.app,
            conversation,
            sender,
            receiver: &push.first.0,
            seq: *seq,
            gateways,
        }),
    }
}

/// The server's own receipt, after everything else of the batch.
fn delivered_by_server(
    offline: &Offline<'_>,
    now_ms: u64,
    encoder: &mut Encoder,
    outgoing: &mut Outgoing,
) {
    let Ok(conversation) = ConversationId::parse(offline.conversation) else { return };
    let receipt = Receipt {
        conversation,
        user: UserId::new(offline.receiver).ok(),
        kind: ReceiptKind::Delivered,
        seq: offline.seq,
        by_server: true,
        server_time_ms: now_ms,
    };
    let payload = receipt.payload(encoder);
    let targets = [FanOutTarget { user: offline.sender, inbox_seq: 0 }];
    for gateway in offline.gateways {
        let builder = outgoing.to(gateway);
        builder.to_users(offline.app, FrameKind::Receipt, None, &targets, payload);
    }
}

/// Bodies for one gateway, in order.
#[derive(Debug)]
pub(super) struct GatewayBodies {
    pub(super) gateway: Arc<str>,
    pub(super) bodies: Vec<Bytes>,
}

#[derive(Default)]
struct Outgoing {
    gateways: Vec<(GatewayBodies, OutboundBatchBuilder)>,
}

impl Outgoing {
    fn to(&mut self, gateway: &Arc<str>) -> &mut OutboundBatchBuilder {
        let found = self.gateways.iter().position(|(known, _)| known.gateway == *gateway);
        let index = found.unwrap_or_else(|| {
            let bodies = GatewayBodies { gateway: Arc::clone(gateway), bodies: Vec::new() };
            self.gateways.push((bodies, OutboundBatchBuilder::new()));
            self.gateways.len() - 1
        });
        let (bodies, builder) = &mut self.gateways[index];
        if builder.bytes() >= BODY_BYTES {
            bodies.bodies.push(builder.take());
        }
        builder
    }

    fn push(
        &mut self,
        push: &Push,
        origins: &[Arc<str>],
        [first, second]: [&[Arc<str>]; 2],
        payload: &[u8],
    ) {
        for gateway in first.iter().chain(second.iter().filter(|g| !first.contains(g))) {
            let in_first = first.contains(gateway).then_some(&push.first);
            let in_second = push.second.as_ref().filter(|_| second.contains(gateway));
            let targets: Vec<_> = in_first
                .into_iter()
                .chain(in_second)
                .map(|(user, inbox_seq)| FanOutTarget { user, inbox_seq: *inbox_seq })
                .collect();
            // A connection's address means something at its own gateway only.
            let except = push.except.filter(|(body, _)| origins[*body] == *gateway);
            let except = except.map(|(_, connection)| connection);
            self.to(gateway).to_users(&push.app, push.kind, except, &targets, payload);
        }
    }

    fn finish((mut bodies, mut builder): (GatewayBodies, OutboundBatchBuilder)) -> GatewayBodies {
        if !builder.is_empty() {
            bodies.bodies.push(builder.take());
        }
        bodies
    }
}
