//! Order, identity and refusals, through bus and database.

use super::harness::Harness;

/// Duplicates get the identical acknowledgement: in the same batch, in a later one, from another session, after a restart.
#[tokio::test]
async fn a_duplicate_gets_the_identical_acknowledgement_for_ever() {
    let mut harness = Harness::start().await;
    harness.send_many("alice", "bob", &[(1, 1, b"one"), (1, 1, b"one"), (2, 2, b"two")]).await;
    let first = harness.frames(3).await;
    assert_eq!(first[0], first[1], "every byte");
    harness.send("alice", "bob", 1, 1, "one").await;
    harness.stop_worker().await;
    harness.start_worker().await;
    harness.send("alice", "bob", 1, 1, "one").await;
    harness.epoch += 1;
    harness.send("alice", "bob", 1, 2, "two").await;
    let again = harness.frames(3).await;
    assert_eq!([&again[0], &again[1]], [&first[0], &first[0]]);
    assert_eq!(again[2], first[2]);
    assert_eq!(harness.metrics.messages.get(), 2);
}

/// A repeat under the next number of a running session is not expected to be one: the unique index finds it.
#[tokio::test]
async fn a_repeat_that_looks_new_is_found_by_the_index() {
    let mut harness = Harness::start().await;
    harness.send_many("alice", "bob", &[(1, 1, b"one"), (2, 2, b"two")]).await;
    harness.said(2).await;
    // Forget the acknowledgements, keep the store.
    harness.stop_worker().await;
    harness.start_worker().await;
    harness.send("alice", "bob", 3, 3, "three").await;
    assert_eq!(harness.said(1).await, ["ack s:alice:bob 3 inbox 3"]);
    harness.send_many("alice", "bob", &[(4, 1, b"one"), (5, 5, b"five")]).await;
    assert_eq!(
        harness.said(2).await,
        ["ack s:alice:bob 1 inbox 1", "ack s:alice:bob 4 inbox 4"],
        "the number was consumed"
    );
    assert_eq!(harness.metrics.identity_collisions.get(), 1);
}

#[tokio::test]
async fn the_same_id_with_another_payload_is_refused() {
    let mut harness = Harness::start().await;
    harness.send_many("alice", "bob", &[(1, 1, b"one"), (2, 1, b"other")]).await;
    assert_eq!(harness.said(2).await, ["ack s:alice:bob 1 inbox 1", "refused id_reuse"]);
    harness.stop_worker().await;
    harness.start_worker().await;
    harness.epoch += 1;
    harness.send_many("alice", "bob", &[(1, 1, b"other"), (2, 2, b"two")]).await;
    assert_eq!(harness.said(2).await, ["refused id_reuse", "ack s:alice:bob 2 inbox 2"]);
}

/// Numbers that are missing are asked for; an older session is fenced, also by a worker that has just started.
#[tokio::test]
async fn numbers_and_epochs_keep_the_order() {
    let mut harness = Harness::start().await;
    harness.send_many("alice", "bob", &[(2, 2, b"two"), (1, 1, b"one"), (2, 2, b"two")]).await;
    assert_eq!(
        harness.said(3).await,
        ["refused out_of_order 1", "ack s:alice:bob 1 inbox 1", "ack s:alice:bob 2 inbox 2"]
    );
    harness.epoch += 1;
    harness.send("alice", "bob", 1, 3, "three").await;
    harness.stop_worker().await;
    harness.start_worker().await;
    harness.epoch -= 1;
    harness.send("alice", "bob", 3, 4, "four").await;
    assert_eq!(harness.said(2).await, ["ack s:alice:bob 3 inbox 3", "refused stale_session"]);
}

/// A user that is created later can be written to at once: that it was missing is not remembered.
#[tokio::test]
async fn a_new_user_is_known_at_once() {
    let mut harness = Harness::start().await;
    harness.send("alice", "dave", 1, 1, "hello").await;
    assert_eq!(harness.said(1).await, ["refused unknown_user"]);
    harness.store.add_users("demo", &["dave".into()], 2).await.unwrap();
    harness.send("alice", "dave", 2, 2, "hello").await;
    assert_eq!(harness.said(1).await, ["ack s:alice:dave 1 inbox 1"]);
}

/// Message ids of a worker that was killed are not made again by its successor.
#[tokio::test]
async fn ids_go_on_after_a_kill() {
    let mut harness = Harness::start().await;
    harness.send("alice", "bob", 1, 1, "one").await;
    harness.said(1).await;
    harness.kill_worker().await;
    assert!(harness.store.worker_mark(1).await.unwrap() > 0);
    harness.start_worker().await;
    harness.send("alice", "bob", 2, 2, "two").await;
    harness.said(1).await;
    let (_, rows) = harness
        .store
        .history(
            "demo",
            "s:alice:bob",
            crate::store::HistoryRange { after: 0, before: 0, limit: 9, newest_first: false },
        )
        .await
        .unwrap()
        .unwrap();
    assert!(rows[0].message_id < rows[1].message_id);
}
