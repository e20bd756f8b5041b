//! One passage as one span: names and attributes by OpenTelemetry's semantic conventions for messaging and databases, ids by derivation.
//!
//! ```text
//! send                         gateway: SEND read … answer written        (the root; one for each copy that the client sent)
//! └─ publish roost.in.N        gateway: given to the bus … confirmed
//!    └─ process roost.in.N     logic: taken … acknowledged
//!       ├─ COMMIT              the database
//!       └─ publish roost.out.G logic: given to the bus … confirmed
//!          └─ receive roost.out.G     gateway G
//!             └─ deliver              written to a device
//!                └─ settle            … acknowledged by the device
//! ```
//! A span id is a hash of the trace id, the kind of span and what tells spans of that kind apart, all of which the next process
//! knows from the message itself. So a parent is named without being propagated. A push that is repeated after a crash has the
//! ids of the first one.

use std::borrow::Cow;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use opentelemetry::trace::{SpanContext, SpanKind, Status, TraceFlags, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue, SpanId, TraceId};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};
use roost_protocol::RefusalCode;

use super::Facts;
use crate::{Hop, Passage};

/// Which span; the numbers are part of what processes of several versions agree on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Kind {
    Send = 1,
    PublishInbound = 2,
    Process = 3,
    Commit = 4,
    PublishOutbound = 5,
    Receive = 6,
    Deliver = 7,
    Settle = 8,
    /// Something that went wrong, by its hop.
    Mishap = 9,
}

/// What a span is made of beside the times.
struct Shape {
    id: SpanId,
    parent: SpanId,
    is_parent_remote: bool,
    kind: SpanKind,
    name: Cow<'static, str>,
    attributes: Vec<KeyValue>,
    error: Option<Cow<'static, str>>,
}

/// The span that ended with this passage; moments that another passage of the same process ends are none.
pub(super) fn of_passage(passage: &Passage, facts: &Facts) -> Option<SpanData> {
    let mut shape = shape(passage, facts)?;
    shape.attributes.push(KeyValue::new("messaging.message.id", passage.id.to_string()));
    if let Some(error) = &shape.error {
        shape.attributes.push(KeyValue::new("error.type", error.clone()));
    }
    let status = match shape.error {
        Some(description) => Status::Error { description },
        None => Status::Unset,
    };
    let trace_id = TraceId::from_bytes(passage.id.0);
    let context =
        SpanContext::new(trace_id, shape.id, TraceFlags::SAMPLED, false, TraceState::NONE);
    Some(SpanData {
        span_context: context,
        parent_span_id: shape.parent,
        parent_span_is_remote: shape.is_parent_remote,
        span_kind: shape.kind,
        name: shape.name,
        start_time: time(passage.since_ns.min(passage.at_ns)),
        end_time: time(passage.at_ns),
        attributes: shape.attributes,
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links: SpanLinks::default(),
        status,
        instrumentation_scope: InstrumentationScope::builder("roost")
            .with_version(env!("CARGO_PKG_VERSION"))
            .build(),
    })
}

fn time(ns: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_nanos(ns)
}

fn shape(passage: &Passage, facts: &Facts) -> Option<Shape> {
    match passage.hop {
        // Ended by the answer, the confirm or the acknowledgement.
        Hop::RequestReceived | Hop::Published | Hop::Taken => None,
        // Of a copy that is passed on, too; a joined repeat has no answer of its own.
        Hop::Received if passage.code == 0 => None,
        Hop::Received => Some(mishap(passage, "join", root(passage), None)),
        Hop::AnswerWritten | Hop::RequestAnswered | Hop::RefusedByGateway => Some(send(passage)),
        Hop::PublishConfirmed => Some(publish_inbound(passage, facts)),
        Hop::PublishFailed => {
            Some(mishap(passage, "publish failed", root(passage), Some("not_confirmed".into())))
        }
        Hop::DeadLettered => {
            let parent = of_copy(passage, Kind::PublishInbound);
            Some(mishap(passage, "dead letter", parent, Some("delivery_limit".into())))
        }
        Hop::Acknowledged => Some(process(passage, facts)),
        Hop::Committed => Some(commit(passage, facts)),
        Hop::Quarantined => {
            let error = Some(Cow::Owned(passage.text.to_text().into_owned()));
            Some(mishap(passage, "quarantine", of_copy(passage, Kind::Process), error))
        }
        Hop::RefusedByLogic => {
            let parent = of_copy(passage, Kind::Process);
            Some(mishap(passage, "refuse", parent, refusal(passage.code)))
        }
        Hop::Offline => Some(mishap(passage, "offline", of_copy(passage, Kind::Process), None)),
        Hop::RoutesUnavailable => {
            let parent = of_copy(passage, Kind::Process);
            Some(mishap(passage, "no routes", parent, Some("routes_unavailable".into())))
        }
        Hop::AnswerConfirmed | Hop::PushConfirmed => Some(publish_outbound(passage, facts)),
        Hop::PushFailed => {
            let error = if passage.code == 1 { "returned" } else { "abandoned" };
            let parent = of_copy(passage, Kind::Process);
            Some(mishap(passage, "push failed", parent, Some(error.into())))
        }
        Hop::PushTaken => Some(receive(passage, facts)),
        Hop::DeliveryWritten | Hop::DeliveryHinted => Some(deliver(passage, facts)),
        Hop::ConnectionGone => {
            let parent = of_gateway(passage, Kind::Receive, &facts.instance);
            Some(mishap(passage, "connection gone", parent, Some("connection_gone".into())))
        }
        Hop::DeviceAcknowledged => Some(settle(passage, facts)),
    }
}

fn send(passage: &Passage) -> Shape {
    Shape {
        id: root(passage),
        parent: SpanId::INVALID,
        is_parent_remote: false,
        kind: SpanKind::Server,
        name: "send".into(),
        attributes: vec![KeyValue::new("roost.device", passage.text.to_text().into_owned())],
        error: refusal(passage.code),
    }
}

fn publish_inbound(passage: &Passage, facts: &Facts) -> Shape {
    let queue = inbound_queue(passage);
    let mut attributes = messaging(facts, "publish", "send", &queue);
    attributes.push(KeyValue::new("messaging.batch.message_count", i64::from(passage.count)));
    Shape {
        id: of_copy(passage, Kind::PublishInbound),
        parent: root(passage),
        is_parent_remote: false,
        kind: SpanKind::Producer,
        name: format!("publish {queue}").into(),
        attributes,
        error: None,
    }
}

fn process(passage: &Passage, facts: &Facts) -> Shape {
    let queue = inbound_queue(passage);
    let mut attributes = messaging(facts, "process", "process", &queue);
    attributes.push(KeyValue::new("roost.redelivered", passage.code == 1));
    Shape {
        id: of_copy(passage, Kind::Process),
        parent: of_copy(passage, Kind::PublishInbound),
        is_parent_remote: true,
        kind: SpanKind::Consumer,
        name: format!("process {queue}").into(),
        attributes,
        error: None,
    }
}

fn commit(passage: &Passage, facts: &Facts) -> Shape {
    let conversation = passage.text.to_text().into_owned();
    Shape {
        id: of_copy(passage, Kind::Commit),
        parent: of_copy(passage, Kind::Process),
        is_parent_remote: false,
        kind: SpanKind::Client,
        name: "COMMIT".into(),
        attributes: vec![
            KeyValue::new("db.system.name", facts.database),
            KeyValue::new("db.operation.name", "COMMIT"),
            KeyValue::new("db.operation.batch.size", i64::from(passage.count)),
            KeyValue::new("messaging.message.conversation_id", conversation),
            KeyValue::new("roost.seq", signed(passage.number)),
            KeyValue::new("roost.message_id", passage.message_id.to_string()),
            KeyValue::new("roost.repeated", passage.code == 1),
        ],
        error: None,
    }
}

fn publish_outbound(passage: &Passage, facts: &Facts) -> Shape {
    let gateway = passage.text.to_text();
    let queue = outbound_queue(&gateway);
    // The gateway of the sender gets answer and push in one body; they are two spans.
    let id = if passage.hop == Hop::PushConfirmed {
        of_gateway(passage, Kind::PublishOutbound, &gateway)
    } else {
        of_copy(passage, Kind::PublishOutbound)
    };
    Shape {
        id,
        parent: of_copy(passage, Kind::Process),
        is_parent_remote: false,
        kind: SpanKind::Producer,
        name: format!("publish {queue}").into(),
        attributes: messaging(facts, "publish", "send", &queue),
        error: None,
    }
}

fn receive(passage: &Passage, facts: &Facts) -> Shape {
    let gateway = passage.text.to_text();
    let queue = outbound_queue(&gateway);
    let mut attributes = messaging(facts, "receive", "receive", &queue);
    attributes.push(KeyValue::new("roost.sessions", i64::from(passage.count)));
    Shape {
        id: of_gateway(passage, Kind::Receive, &gateway),
        parent: of_gateway(passage, Kind::PublishOutbound, &gateway),
        is_parent_remote: true,
        kind: SpanKind::Consumer,
        name: format!("receive {queue}").into(),
        attributes,
        error: None,
    }
}

fn deliver(passage: &Passage, facts: &Facts) -> Shape {
    let is_hint = passage.hop == Hop::DeliveryHinted;
    Shape {
        id: of_device(passage, Kind::Deliver),
        parent: of_gateway(passage, Kind::Receive, &facts.instance),
        is_parent_remote: false,
        kind: SpanKind::Internal,
        name: "deliver".into(),
        attributes: device(passage),
        error: is_hint.then_some("slow_consumer".into()),
    }
}

fn settle(passage: &Passage, facts: &Facts) -> Shape {
    let mut attributes = device(passage);
    attributes.push(KeyValue::new("messaging.system", "roost"));
    attributes.push(KeyValue::new("messaging.operation.name", "settle"));
    attributes.push(KeyValue::new("messaging.operation.type", "settle"));
    attributes.push(KeyValue::new("messaging.destination.name", facts.instance.clone()));
    Shape {
        id: of_device(passage, Kind::Settle),
        parent: of_device(passage, Kind::Deliver),
        is_parent_remote: false,
        kind: SpanKind::Client,
        name: "settle".into(),
        attributes,
        error: None,
    }
}

fn mishap(
    passage: &Passage,
    name: &'static str,
    parent: SpanId,
    error: Option<Cow<'static, str>>,
) -> Shape {
    let moment = [&[passage.hop as u8][..], &passage.at_ns.to_be_bytes()].concat();
    Shape {
        id: derive(passage, Kind::Mishap, &moment),
        parent,
        is_parent_remote: false,
        kind: SpanKind::Internal,
        name: name.into(),
        attributes: vec![KeyValue::new("roost.text", passage.text.to_text().into_owned())],
        error,
    }
}

fn messaging(
    facts: &Facts,
    name: &'static str,
    operation: &'static str,
    queue: &str,
) -> Vec<KeyValue> {
    vec![
        KeyValue::new("messaging.system", facts.bus),
        KeyValue::new("messaging.operation.name", name),
        KeyValue::new("messaging.operation.type", operation),
        KeyValue::new("messaging.destination.name", queue.to_owned()),
    ]
}

fn device(passage: &Passage) -> Vec<KeyValue> {
    vec![
        KeyValue::new("roost.device", passage.text.to_text().into_owned()),
        KeyValue::new("roost.inbox_seq", signed(passage.number)),
    ]
}

fn inbound_queue(passage: &Passage) -> String {
    format!("roost.in.{}", passage.number)
}

fn outbound_queue(gateway: &str) -> String {
    format!("roost.out.{gateway}")
}

fn refusal(code: u16) -> Option<Cow<'static, str>> {
    (code != 0).then(|| RefusalCode::from_wire(code).as_str().into())
}

/// Attributes have no unsigned numbers; positions fit.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn root(passage: &Passage) -> SpanId {
    of_copy(passage, Kind::Send)
}

/// One for each copy of a resent SEND.
fn of_copy(passage: &Passage, kind: Kind) -> SpanId {
    derive(passage, kind, &passage.received_us.to_be_bytes())
}

fn of_gateway(passage: &Passage, kind: Kind, gateway: &str) -> SpanId {
    derive(passage, kind, gateway.as_bytes())
}

fn of_device(passage: &Passage, kind: Kind) -> SpanId {
    let device = passage.text.to_text();
    derive(passage, kind, &[device.as_bytes(), &passage.number.to_be_bytes()].concat())
}

/// FNV-1a, and a finisher so that all bits depend on all bytes. Frozen: processes of several versions agree on it.
fn derive(passage: &Passage, kind: Kind, apart: &[u8]) -> SpanId {
    let add = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    let kind = [kind as u8];
    let bytes = passage.id.0.iter().chain(&kind).chain(apart);
    let mut id = bytes.fold(0xcbf2_9ce4_8422_2325, add);
    id = (id ^ id >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    id = (id ^ id >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    id ^= id >> 31;
    // 0 is no span.
    SpanId::from_bytes(id.max(1).to_be_bytes())
}

#[cfg(test)]
mod tests {
    use roost_protocol::ClientMsgId;

    use super::*;
    use crate::Text;

    fn facts(instance: &str) -> Facts {
        Facts {
            service: "roost-gateway",
            instance: instance.to_owned(),
            bus: "rabbitmq",
            database: "sqlite",
        }
    }

    fn passage(hop: Hop, text: &str) -> Passage {
        let moment = Passage::new(ClientMsgId([7; 16]), hop, 2_000);
        Passage { since_ns: 1_000, received_us: 9, number: 3, text: Text::new(text), ..moment }
    }

    fn span(hop: Hop, text: &str, instance: &str) -> SpanData {
        of_passage(&passage(hop, text), &facts(instance)).expect("a span")
    }

    /// Each process derives ids by itself; the tree fits together all the same.
    #[test]
    fn parents_are_named_by_other_processes() {
        let chain = [
            span(Hop::AnswerWritten, "alice/phone", "gw-1"),
            span(Hop::PublishConfirmed, "", "gw-1"),
            span(Hop::Acknowledged, "", "logic-1"),
            span(Hop::PushConfirmed, "gw-2", "logic-1"),
            span(Hop::PushTaken, "gw-2", "gw-2"),
            span(Hop::DeliveryWritten, "bob/phone", "gw-2"),
            span(Hop::DeviceAcknowledged, "bob/phone", "gw-2"),
        ];
        assert_eq!(chain[0].parent_span_id, SpanId::INVALID);
        for pair in chain.windows(2) {
            assert_eq!(pair[1].parent_span_id, pair[0].span_context.span_id(), "{}", pair[1].name);
        }
        let commit = span(Hop::Committed, "s:alice:bob", "logic-1");
        assert_eq!(commit.parent_span_id, chain[2].span_context.span_id());
        assert_eq!(commit.name, "COMMIT");
        assert_eq!(commit.end_time, commit.start_time + Duration::from_nanos(1_000));
    }

    #[test]
    fn no_two_spans_of_a_message_share_an_id() {
        let mut ids = Vec::new();
        for hop in Hop::ALL {
            for (text, received_us, code) in [("gw-1", 1, 1), ("gw-2", 2, 1)] {
                let passage = Passage { received_us, code, ..passage(*hop, text) };
                let passage = Passage { at_ns: passage.at_ns + received_us, ..passage };
                ids.extend(of_passage(&passage, &facts("gw-1")).map(|s| s.span_context.span_id()));
            }
        }
        // The root is ended by any of three hops, a delivery written or hinted.
        let shared = 2 * 2 + 2;
        let spans = ids.len();
        ids.sort_unstable_by_key(|id| id.to_bytes());
        ids.dedup();
        assert_eq!(ids.len(), spans - shared);
    }

    #[test]
    fn what_went_wrong_is_an_error() {
        let refused = RefusalCode::Busy as u16;
        let passage = Passage { code: refused, ..passage(Hop::RefusedByGateway, "alice/phone") };
        let span = of_passage(&passage, &facts("gw-1")).unwrap();
        assert_eq!(span.status, Status::Error { description: RefusalCode::Busy.as_str().into() });
        let error = KeyValue::new("error.type", RefusalCode::Busy.as_str());
        assert!(span.attributes.contains(&error), "{:?}", span.attributes);
    }
}
