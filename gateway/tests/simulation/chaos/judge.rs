//! What one life's frames must have been, in both directions, against what was written and pushed.

use roost_protocol::envelope::InboundKind;
use roost_protocol::frame::event::Event;
use roost_protocol::frame::request::Response;
use roost_protocol::{Frame, FrameKind, RefusalCode};

use super::Life;
use crate::harness::Received;

/// What logic got is what the client wrote, in order; what is missing was refused, or is the tail of a broken connection.
pub(super) fn judge_inbound(life: &Life, received: &[Received], context: &str) {
    assert_eq!(received[0].kind, InboundKind::SessionOpened, "{context}");
    let closed = received.iter().position(|r| r.kind == InboundKind::SessionClosed);
    assert!(closed.is_none_or(|at| at + 1 == received.len()), "{context}: frames after the end");
    let gateway_refusals: Vec<u16> = life
        .got
        .iter()
        .filter(|got| match got.frame() {
            Frame::SendRefused(refused) => refused.code == RefusalCode::Busy,
            Frame::Response(Response::Refused { code, .. }) => code == RefusalCode::Busy,
            _ => false,
        })
        .map(|got| got.header.correlation)
        .collect();
    let mut refusals = gateway_refusals.into_iter().peekable();
    let mut forwarded = received.iter().filter(|r| r.kind == InboundKind::Frame).peekable();
    for (kind, correlation, payload) in &life.written {
        let is_next = forwarded.peek().is_some_and(|r| {
            (r.frame_kind, r.correlation) == (*kind, *correlation) && *r.payload == **payload
        });
        if is_next {
            forwarded.next();
        } else if refusals.peek() == Some(correlation) {
            refusals.next();
        } else {
            let refused: Vec<_> = refusals.clone().collect();
            let next = forwarded.peek().map(|r| (r.frame_kind, r.correlation));
            assert!(
                life.broken,
                "{context}: {kind:?} {correlation} is lost; refused {refused:?}, next {next:?}"
            );
        }
    }
    assert_eq!(forwarded.next(), None, "{context}: invented, repeated or out of order");
}

/// What the client got is CONNECTED, then PONGs 1, 2, 3 ..., and what logic pushed, in order; a delivery that is missing is
/// covered by a later hint.
pub(super) fn judge_outbound(life: &Life, context: &str) {
    let last = life.got.last().map(|got| got.header.kind);
    let is_told = last == Some(FrameKind::Close);
    assert!(is_told || life.left || !life.client.ended, "{context}: closed without a word");
    let mut pongs = 0;
    let mut got = Vec::new();
    let mut covered = 0;
    for (position, frame) in life.got.iter().enumerate() {
        match frame.frame() {
            Frame::Connected(_) => assert_eq!(position, 0, "{context}"),
            Frame::Pong(pong) => {
                pongs += 1;
                assert_eq!(pong.client_time_us, pongs, "{context}");
            }
            Frame::SendAck(_) | Frame::Deliver(_) => got.push(frame.header),
            Frame::SendRefused(r) if r.code != RefusalCode::Busy => got.push(frame.header),
            Frame::Response(Response::SyncPage { .. }) => got.push(frame.header),
            Frame::SendRefused(_) | Frame::Response(_) => {}
            Frame::Event(Event::Hint { inbox_seq, .. } | Event::Digest { inbox_seq }) => {
                covered = covered.max(inbox_seq);
            }
            Frame::Close(_) => assert_eq!(position + 1, life.got.len(), "{context}: after CLOSE"),
            other => panic!("{context}: {other:?}"),
        }
    }
    let mut got = got.into_iter().map(|h| (h.kind, h.correlation, h.inbox_seq)).peekable();
    for pushed in &life.pushed {
        if got.peek() == Some(pushed) {
            got.next();
        } else {
            let is_hinted = pushed.0 == FrameKind::Deliver && pushed.2 <= covered;
            assert!(is_hinted || life.broken, "{context}: {pushed:?} is lost");
        }
    }
    assert_eq!(got.next(), None, "{context}: invented, repeated or out of order");
    assert!(life.broken || pongs == life.pings, "{context}: {pongs} of {} PONGs", life.pings);
}
