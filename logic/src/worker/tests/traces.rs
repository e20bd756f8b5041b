//! What a worker tells of a message afterwards: each step once, with its reason, and nothing that was not committed.

use std::time::Instant;

use roost_protocol::{ClientMsgId, RefusalCode};
use roost_trace::{Hop, Passage, Wanted};

use super::harness::{DEADLINE, Harness, sqlite};

async fn passages(harness: &Harness, id: u8) -> Vec<Passage> {
    harness.traces.find(Wanted::Client(ClientMsgId([id; 16]))).await
}

/// All of a message, once logic is done with it so many times.
async fn way(harness: &Harness, id: u8, times: usize) -> Vec<Passage> {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let way = passages(harness, id).await;
        if way.iter().filter(|p| p.hop == Hop::Acknowledged).count() >= times {
            return way;
        }
        assert!(Instant::now() < deadline, "{way:#?}");
        tokio::task::yield_now().await;
    }
}

fn hops(way: &[Passage]) -> Vec<Hop> {
    let mut hops: Vec<Hop> = way.iter().map(|passage| passage.hop).collect();
    hops.sort_unstable();
    hops
}

#[tokio::test]
async fn a_message_and_its_repeat() {
    let mut harness = Harness::start().await;
    harness.online("alice");
    harness.send("alice", "bob", 1, 1, "hello").await;
    harness.said(2).await;
    let first = way(&harness, 1, 1).await;
    let expected = [
        Hop::Taken,
        Hop::Committed,
        Hop::Offline,
        Hop::AnswerConfirmed,
        Hop::PushConfirmed,
        Hop::Acknowledged,
    ];
    assert_eq!(hops(&first), expected);
    let committed = first.iter().find(|p| p.hop == Hop::Committed).unwrap();
    assert_eq!((committed.number, committed.code, committed.count), (1, 0, 1));
    assert_eq!(committed.text.to_text(), "s:alice:bob");
    assert!(committed.message_id > 0 && committed.since_ns <= committed.at_ns);
    let offline = first.iter().find(|p| p.hop == Hop::Offline).unwrap();
    assert_eq!(offline.text.to_text(), "bob");

    harness.send("alice", "bob", 2, 1, "hello").await;
    let both = way(&harness, 1, 2).await;
    let repeated: Vec<_> = both.iter().filter(|p| p.hop == Hop::Committed).collect();
    assert_eq!(repeated.len(), 2);
    assert_eq!((repeated[1].code, repeated[1].number), (1, 1), "the same place");
    assert_eq!(repeated[1].message_id, committed.message_id);
}

#[tokio::test]
async fn what_is_refused_or_quarantined_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let mut harness = Harness::over(sqlite(dir.path()).await).await.panic_on(|payload| {
        assert!(!payload.windows(4).any(|bytes| bytes == b"boom"), "a defect");
    });
    let sends: &[(u32, u8, &[u8])] = &[(1, 1, b"one"), (2, 2, b"boom"), (9, 3, b"too early")];
    harness.send_many("alice", "bob", sends).await;
    harness.start_worker().await;
    let good = way(&harness, 1, 1).await;
    assert_eq!(
        good.iter().filter(|p| p.hop == Hop::Committed).count(),
        1,
        "attempts leave no trace"
    );
    let bad = way(&harness, 2, 1).await;
    let why = bad.iter().find(|p| p.hop == Hop::Quarantined).unwrap();
    assert_eq!(why.text.to_text(), "a defect");
    let refused = |way: &[Passage]| -> Vec<u16> {
        way.iter().filter(|p| p.hop == Hop::RefusedByLogic).map(|p| p.code).collect()
    };
    assert_eq!(refused(&bad), [RefusalCode::Quarantined as u16]);
    let early = way(&harness, 3, 1).await;
    assert_eq!(refused(&early), [RefusalCode::OutOfOrder as u16]);
    assert!(!hops(&bad).contains(&Hop::Committed) && !hops(&early).contains(&Hop::Committed));
}
