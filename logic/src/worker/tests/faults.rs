//! What goes wrong around a worker, and what it must not become.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use roost_bus::in_process::{FaultRates, Faults};
use roost_protocol::frame::receipt::ReceiptKind;

use super::harness::{Harness, sqlite};
use crate::store::layered::{Layer, Layered};
use crate::store::{BoxFuture, HistoryRange, Renewed, Result, Store, StoreError, Writes};

/// What a store does wrong at the next commits.
#[derive(Default)]
struct Plan {
    /// Full disk: nothing is written.
    is_full: AtomicBool,
    /// That many commits happen, and then never return: killed between commit and publish.
    hangs_after_commit: AtomicU32,
    /// That many batches find that another process has their partition.
    fenced: AtomicU32,
    /// A commit that contains this body is refused by the database.
    refused_body: parking_lot::Mutex<Option<Vec<u8>>>,
}

impl Layer for Arc<Plan> {
    fn begin<'a>(
        &'a self,
        _: &'a dyn Store,
        partitions: &'a [u16],
    ) -> BoxFuture<'a, Result<Vec<Renewed>>> {
        let is_fenced = self
            .fenced
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1))
            .is_ok();
        let begun =
            if is_fenced { Err(StoreError::Fenced(partitions.to_vec())) } else { Ok(Vec::new()) };
        Box::pin(std::future::ready(begun))
    }

    fn commit<'a>(&'a self, inner: &'a dyn Store, writes: Writes) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            if self.is_full.load(Ordering::Relaxed) {
                return Err(StoreError::Unavailable("database or disk is full".to_owned()));
            }
            let refused = self.refused_body.lock().clone();
            if refused.is_some_and(|body| writes.messages.iter().any(|m| m.body == body)) {
                return Err(StoreError::Refused("string or blob too big".to_owned()));
            }
            inner.commit(writes).await?;
            let hangs = &self.hangs_after_commit;
            if hangs
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1))
                .is_ok()
            {
                std::future::pending::<()>().await;
            }
            Ok(())
        })
    }
}

async fn faulty(dir: &tempfile::TempDir) -> (Harness, Arc<Plan>) {
    let plan = Arc::new(Plan::default());
    let store = Arc::new(Layered::new(sqlite(dir.path()).await, Arc::clone(&plan)));
    (Harness::over(store).await, plan)
}

/// Killed between commit and publish: the body comes again, the acknowledgement is the first one's, and the push is repeated.
#[tokio::test]
async fn a_kill_after_the_commit_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (mut harness, plan) = faulty(&dir).await;
    harness.online("bob");
    plan.hangs_after_commit.store(1, Ordering::Relaxed);
    harness.start_worker().await;
    harness.send("alice", "bob", 1, 1, "hello").await;
    // The commit is there, and nothing was said.
    while harness.store.inbox_positions(&[("demo".into(), "bob".into())]).await.unwrap() == [0] {
        tokio::task::yield_now().await;
    }
    harness.kill_worker().await;
    harness.start_worker().await;
    assert_eq!(
        harness.said(2).await,
        ["ack s:alice:bob 1 inbox 1", "deliver s:alice:bob 1 hello to bob@1 except origin"]
    );
    assert_eq!(harness.metrics.messages.get(), 1, "placed once");
}

/// Another process has the partition by now: nothing is said or acknowledged, and the bus delivers the bodies again, to whoever has it.
#[tokio::test]
async fn bodies_of_a_lost_partition_are_given_back() {
    let dir = tempfile::tempdir().unwrap();
    let (mut harness, plan) = faulty(&dir).await;
    plan.fenced.store(2, Ordering::Relaxed);
    harness.start_worker().await;
    harness.send("alice", "bob", 1, 1, "one").await;
    assert_eq!(harness.said(1).await, ["ack s:alice:bob 1 inbox 1"]);
    assert_eq!((harness.metrics.fenced.get(), harness.metrics.messages.get()), (2, 1));
}

/// A handler that panics: its sender is refused, the operator has a copy, everybody else in the batch is served in order.
#[tokio::test]
async fn a_panicking_operation_is_quarantined_alone() {
    let dir = tempfile::tempdir().unwrap();
    let mut harness = Harness::over(sqlite(dir.path()).await).await.panic_on(|payload| {
        assert!(!payload.windows(4).any(|bytes| bytes == b"boom"), "a defect");
    });
    harness
        .send_many(
            "alice",
            "bob",
            &[(1, 1, b"one"), (2, 2, b"boom"), (3, 3, b"two"), (4, 4, b"boom")],
        )
        .await;
    harness.start_worker().await;
    assert_eq!(
        harness.said(4).await,
        [
            "ack s:alice:bob 1 inbox 1",
            "refused quarantined",
            "ack s:alice:bob 2 inbox 2",
            "refused quarantined"
        ]
    );
    assert_eq!(harness.metrics.quarantined.get(), 2);
}

/// What the database refuses is found by bisection: one refusal, everybody else is served in order.
#[tokio::test]
async fn a_poison_batch_is_bisected() {
    let dir = tempfile::tempdir().unwrap();
    let (mut harness, plan) = faulty(&dir).await;
    *plan.refused_body.lock() = Some(b"poison".to_vec());
    let bodies: Vec<(u32, u8, &[u8])> =
        vec![(1, 1, b"a"), (2, 2, b"b"), (3, 3, b"poison"), (4, 4, b"c"), (5, 5, b"d")];
    harness.send_many("alice", "bob", &bodies).await;
    harness.start_worker().await;
    assert_eq!(
        harness.said(5).await,
        [
            "ack s:alice:bob 1 inbox 1",
            "ack s:alice:bob 2 inbox 2",
            "refused quarantined",
            "ack s:alice:bob 3 inbox 3",
            "ack s:alice:bob 4 inbox 4"
        ]
    );
}

/// A full disk: sends are refused for now and nothing is acknowledged; watermarks are kept; with room again all goes on.
#[tokio::test]
async fn a_full_disk_refuses_and_recovers() {
    let dir = tempfile::tempdir().unwrap();
    let (mut harness, plan) = faulty(&dir).await;
    harness.online("alice");
    harness.start_worker().await;
    harness.send("alice", "bob", 1, 1, "one").await;
    harness.said(3).await;
    plan.is_full.store(true, Ordering::Relaxed);
    harness.send("alice", "bob", 2, 2, "two").await;
    assert_eq!(harness.said(1).await, ["refused unavailable"]);
    harness.read_receipt("bob", "s:alice:bob", 1, ReceiptKind::Read).await;
    harness.send("alice", "bob", 2, 2, "two").await;
    assert_eq!(harness.said(1).await, ["refused unavailable"]);
    plan.is_full.store(false, Ordering::Relaxed);
    assert_eq!(
        harness.said(1).await,
        ["receipt s:alice:bob bob Read 1 to alice except origin"],
        "kept while the disk was full"
    );
    harness.send("alice", "bob", 2, 2, "two").await;
    assert_eq!(harness.said(1).await, ["ack s:alice:bob 2 inbox 2"]);
}

/// A bus that loses, repeats, delays and lies about confirms: every message gets one place, resends are acknowledged, the
/// sequence is dense and in the sender's order.
#[tokio::test]
async fn a_faulty_bus_changes_nothing() {
    const MESSAGES: u8 = 60;
    let mut harness = Harness::start().await;
    let rates = FaultRates {
        lose: 0.2,
        repeat: 0.2,
        lose_confirm: 0.1,
        refuse: 0.1,
        ..FaultRates::default()
    };
    harness.bus.set_faults(&Faults { seed: 42, inbound: rates, outbound: rates });
    let mut acked: HashMap<u8, String> = HashMap::new();
    for id in 1..=MESSAGES {
        // One at a time, resent until acknowledged: as a client does after a timeout.
        while !acked.contains_key(&id) {
            harness.send("alice", "bob", u32::from(id), id, "x").await;
            for said in harness.said_within(std::time::Duration::from_millis(30)).await {
                if let Some(seq) = said.strip_prefix("ack s:alice:bob ") {
                    let seq = seq.split(' ').next().unwrap_or_default();
                    acked.insert(seq.parse().unwrap(), said);
                }
            }
        }
    }
    let range = HistoryRange { after: 0, before: 0, limit: 200, newest_first: false };
    let (latest, rows) =
        harness.store.history("demo", "s:alice:bob", range).await.unwrap().unwrap();
    assert_eq!((latest, rows.len()), (u64::from(MESSAGES), usize::from(MESSAGES)));
    for (index, row) in rows.iter().enumerate() {
        assert_eq!((row.seq, usize::from(row.client_msg_id[0])), (index as u64 + 1, index + 1));
    }
}
