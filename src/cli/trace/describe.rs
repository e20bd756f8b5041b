//! Passages as rows for people.

use roost_protocol::{FrameKind, RefusalCode};
use roost_trace::{Hop, Passage};

use super::Seen;

/// Time, since the first one, process, hop, detail.
pub(super) struct Row(pub(super) [String; 5]);

pub(super) fn describe(seen: &[Seen]) -> Vec<Row> {
    let first_ns = seen.first().map_or(0, |seen| seen.passage.at_ns);
    let row = |Seen { process, passage }: &Seen| {
        let since_ms = (passage.at_ns - first_ns) as f64 / 1e6;
        Row([
            time_of_day(passage.at_ns),
            format!("{since_ms:.3} ms"),
            process.clone(),
            name(passage.hop).to_owned(),
            detail(passage),
        ])
    };
    seen.iter().map(row).collect()
}

/// Hours, minutes, seconds and microseconds of a day in UTC.
fn time_of_day(ns: u64) -> String {
    let (s, us) = (ns / 1_000_000_000, ns / 1_000 % 1_000_000);
    format!("{:02}:{:02}:{:02}.{us:06}", s / 3600 % 24, s / 60 % 60, s % 60)
}

fn name(hop: Hop) -> &'static str {
    match hop {
        Hop::Received => "received",
        Hop::RefusedByGateway => "refused by the gateway",
        Hop::RequestReceived => "received by HTTP",
        Hop::Published => "handed to the bus",
        Hop::PublishFailed => "not confirmed by the bus",
        Hop::PublishConfirmed => "confirmed by the bus",
        Hop::DeadLettered => "put aside as dead letter",
        Hop::Taken => "taken by logic",
        Hop::Quarantined => "quarantined",
        Hop::RefusedByLogic => "refused by logic",
        Hop::Committed => "committed",
        Hop::Offline => "receiver offline",
        Hop::RoutesUnavailable => "routes unavailable",
        Hop::AnswerConfirmed => "answer on the bus",
        Hop::PushConfirmed => "push on the bus",
        Hop::PushFailed => "push lost",
        Hop::Acknowledged => "done by logic",
        Hop::PushTaken => "push taken",
        Hop::AnswerWritten => "answer written",
        Hop::DeliveryWritten => "delivery written",
        Hop::DeliveryHinted => "hint instead of delivery",
        Hop::ConnectionGone => "connection gone",
        Hop::DeviceAcknowledged => "stored by the device",
        Hop::RequestAnswered => "answered by HTTP",
    }
}

pub(super) fn refusal(code: u16) -> &'static str {
    RefusalCode::from_wire(code).as_str()
}

fn detail(passage: &Passage) -> String {
    let Passage { number, count, code, .. } = *passage;
    let text = passage.text.to_text();
    let took_ms = passage.at_ns.saturating_sub(passage.since_ns) as f64 / 1e6;
    match passage.hop {
        Hop::Received if code == 1 => {
            format!("from {text}, a repeat of one on its way: not passed on")
        }
        Hop::Received | Hop::RequestReceived => format!("from {text}"),
        Hop::RefusedByGateway => format!("{}, from {text}", refusal(code)),
        Hop::Published => format!("partition {number}, batch of {count}"),
        Hop::PublishFailed => format!("partition {number}; it is repeated"),
        Hop::PublishConfirmed => {
            format!("partition {number}, batch of {count}, after {took_ms:.3} ms")
        }
        Hop::DeadLettered => format!("partition {number}"),
        Hop::Taken if code == 1 => format!("partition {number}, delivered before"),
        Hop::Taken => format!("partition {number}"),
        Hop::Quarantined => text.into_owned(),
        Hop::RefusedByLogic => refusal(code).to_owned(),
        Hop::Committed if code == 1 => format!("{text} {number}, before: this is a repeat"),
        Hop::Committed => {
            format!("{text} {number}, database {took_ms:.3} ms for {count} operations")
        }
        Hop::Offline => format!("{text} has no session"),
        Hop::RoutesUnavailable => "left to the receivers' next sync".to_owned(),
        Hop::AnswerConfirmed | Hop::PushConfirmed => format!("to {text}, after {took_ms:.3} ms"),
        Hop::PushFailed if code == 1 => format!("to {text}: nobody takes deliveries there"),
        Hop::PushFailed => format!("to {text}: the bus did not take it"),
        Hop::Acknowledged => format!("{took_ms:.3} ms after it was taken"),
        Hop::PushTaken => format!("by {text}, sessions here: {count}"),
        Hop::AnswerWritten => {
            let what = if code == 0 { "acknowledgement" } else { refusal(code) };
            format!("{what} to {text}, {took_ms:.3} ms after it was received{}", behind(number))
        }
        Hop::DeliveryWritten => format!("to {text}, inbox {number}{}", behind(count.into())),
        Hop::DeliveryHinted => format!("to {text}, inbox {number}: it reads too slowly"),
        Hop::ConnectionGone => {
            let kind = u8::try_from(code).ok().and_then(FrameKind::from_code);
            format!("for a {}", kind.map_or("frame", FrameKind::as_str))
        }
        Hop::DeviceAcknowledged => {
            format!("{text}, inbox {number}, {took_ms:.3} ms after it was written")
        }
        Hop::RequestAnswered => {
            let what = if code == 0 { "acknowledgement" } else { refusal(code) };
            format!("{what} to {text}, {took_ms:.3} ms after it was received")
        }
    }
}

/// What the kernel had not taken yet, when there was something.
fn behind(bytes: u64) -> String {
    if bytes == 0 { String::new() } else { format!(", behind {bytes} bytes") }
}
