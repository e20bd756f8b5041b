//! The worker on the in-process bus: one promise a test.

mod databases;
mod faults;
mod harness;
mod order;
mod traces;

use harness::Harness;
use roost_protocol::frame::Frame;
use roost_protocol::frame::receipt::ReceiptKind;

/// A message is acknowledged to its sender, pushed to the receiver and to the sender's other devices, in that order of events.
#[tokio::test]
async fn a_message_reaches_everybody() {
    let mut harness = Harness::start().await;
    harness.online("bob");
    harness.online("alice");
    harness.send("alice", "bob", 1, 1, "hello").await;
    let said = harness.said(2).await;
    assert_eq!(said[0], "ack s:alice:bob 1 inbox 1");
    assert_eq!(said[1], "deliver s:alice:bob 1 hello to bob@1,alice@1 except origin");
    harness.send("bob", "alice", 1, 2, "hi").await;
    let said = harness.said(2).await;
    assert_eq!(said[0], "ack s:alice:bob 2 inbox 2");
    assert_eq!(said[1], "deliver s:alice:bob 2 hi to alice@2,bob@2 except origin");
}

/// A receiver without a session: the server says "delivered" itself.
#[tokio::test]
async fn an_offline_receiver_is_said_to_have_it_by_the_server() {
    let mut harness = Harness::start().await;
    harness.online("alice");
    harness.send("alice", "bob", 1, 1, "hello").await;
    let said = harness.said(3).await;
    assert_eq!(said[1], "deliver s:alice:bob 1 hello to alice@1 except origin");
    assert_eq!(said[2], "receipt s:alice:bob bob Delivered 1 by server to alice");
}

/// Watermarks rise once, are told to the other member, and a read one to the reader's other devices.
#[tokio::test]
async fn receipts_are_relayed_when_they_rise() {
    let mut harness = Harness::start().await;
    harness.online("alice");
    harness.online("bob");
    harness.send("alice", "bob", 1, 1, "hello").await;
    harness.said(2).await;
    harness.deliver_ack("bob", 1, "s:alice:bob", 1).await;
    assert_eq!(
        harness.said(1).await,
        ["receipt s:alice:bob bob Delivered 1 to alice except origin"]
    );
    harness.deliver_ack("bob", 1, "s:alice:bob", 1).await;
    harness.read_receipt("bob", "s:alice:bob", 99, ReceiptKind::Read).await;
    assert_eq!(
        harness.said(1).await,
        ["receipt s:alice:bob bob Read 1 to alice,bob except origin"]
    );
}

/// Pages and digests answer what is stored, to members only.
#[tokio::test]
async fn requests_are_answered() {
    let mut harness = Harness::start().await;
    for seq in 1..=3 {
        harness.send("alice", "bob", seq, u8::try_from(seq).unwrap(), "hello").await;
        harness.said(1).await;
    }
    harness.sync("bob", 1).await;
    assert_eq!(harness.said(1).await, ["sync 2:s:alice:bob/2 3:s:alice:bob/3 latest 3 more false"]);
    harness.history("alice", "s:alice:bob").await;
    assert_eq!(harness.said(1).await, ["history 3 2 1 latest 3 more false"]);
    harness.history("carol", "s:alice:bob").await;
    assert_eq!(harness.said(1).await, ["response refused unknown_conversation"]);
    harness.history("alice", "s:alice:carol").await;
    assert_eq!(harness.said(1).await, ["response refused unknown_conversation"]);
    harness.digest("bob", 3).await;
    harness.digest("bob", 2).await;
    assert_eq!(harness.said(1).await, ["digest 3"]);
}

/// Every frame said is valid on the wire.
#[tokio::test]
async fn what_is_said_decodes() {
    let mut harness = Harness::start().await;
    harness.send("alice", "nobody", 1, 1, "hello").await;
    let frames = harness.frames(1).await;
    assert!(matches!(
        Frame::decode(frames[0].0, &frames[0].1),
        Ok(Frame::SendRefused(refused)) if refused.code == roost_protocol::RefusalCode::UnknownUser
    ));
}
