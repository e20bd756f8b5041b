//! A worker over several databases: what a kill between their commits leaves, and one of them that is away.

use std::sync::Arc;
use std::time::{Duration, Instant};

use roost_testing::MariaDb;

use super::harness::Harness;
use crate::store::databases::Databases;
use crate::store::databases::tests::Installation;
use crate::store::placement::Placement;
use crate::store::server::StoreConfig;
use crate::store::{HistoryRange, Name, Store};

const BACK_WITHIN: Duration = Duration::from_secs(30);

/// Killed when the message is committed and no inbox has it: the redelivered body and a resend are acknowledged when both have it, with the
/// places that it has.
async fn check_a_kill_between_the_commits(installation: &Installation) {
    let first = installation.open().await;
    let mut harness = Harness::over(Arc::<Databases>::clone(&first)).await;
    harness.online("bob");
    first.stop_between_commits();
    harness.start_worker().await;
    harness.send("alice", "bob", 1, 1, "hello").await;
    first.stopped().await;
    let range = HistoryRange { after: 0, before: 0, limit: 10, newest_first: false };
    let stored = harness.store.history("demo", "s:alice:bob", range).await.unwrap().unwrap();
    assert_eq!((stored.0, stored.1.len()), (1, 1), "the message is committed");
    let inboxes = ["alice", "bob"].map(|user| ("demo".into(), user.into()));
    assert_eq!(harness.store.inbox_positions(&inboxes).await.unwrap(), [0, 0]);
    harness.kill_worker().await;
    harness.store = installation.open().await;
    drop(first);
    harness.send("alice", "bob", 1, 1, "hello").await;
    harness.start_worker().await;
    assert_eq!(
        harness.said(3).await,
        [
            "ack s:alice:bob 1 inbox 1",
            "deliver s:alice:bob 1 hello to bob@1 except origin",
            "ack s:alice:bob 1 inbox 1",
        ]
    );
    assert_eq!(harness.store.inbox_positions(&inboxes).await.unwrap(), [1, 1]);
    for user in ["alice", "bob"] {
        let page = harness.store.inbox_page("demo", user, 0, 10).await.unwrap();
        assert_eq!(
            page.iter().map(|e| (e.inbox_seq, &*e.message.body)).collect::<Vec<_>>(),
            [(1, &b"hello"[..])]
        );
    }
    harness.stop_worker().await;
}

#[tokio::test]
async fn a_kill_between_the_commits_on_mariadb() {
    check_a_kill_between_the_commits(&Installation::mariadb(3)).await;
}

#[tokio::test]
async fn a_kill_between_the_commits_on_postgresql() {
    check_a_kill_between_the_commits(&Installation::postgresql(3)).await;
}

/// Two users of this database, whose conversation is in it, too.
fn pair(database: usize) -> (String, String) {
    let two = Placement { databases: 2 };
    let names = |letter: char| (0..).map(move |n| format!("{letter}{database}{n}"));
    let a = names('a').find(|a| two.of_user("demo", a) == database).unwrap();
    let is_here = |b: &String| {
        two.of_user("demo", b) == database
            && two.of_conversation("demo", &format!("s:{a}:{b}")) == database
    };
    let b = names('b').find(is_here).unwrap();
    (a, b)
}

/// What needs only the database that is there is served, in the same batch as what is refused; when the other one is back, all is.
#[tokio::test]
async fn one_of_two_databases_is_away() {
    let (here, mut gone) = (MariaDb::start(), MariaDb::start());
    for server in [&here, &gone] {
        server.sql("CREATE DATABASE roost");
    }
    let timeout = Duration::from_secs(2);
    let config = StoreConfig {
        urls: vec![here.url("roost"), gone.url("roost")],
        connect_timeout: timeout,
        call_timeout: timeout,
        ..StoreConfig::default()
    };
    let store = Arc::new(Databases::open(&config, "logic-1", 0).await.unwrap());
    let ((a, b), (c, d)) = (pair(0), pair(1));
    let users: Vec<Name> = [&a, &b, &c, &d].map(|user| Name::from(user.as_str())).into();
    store.add_users("demo", &users, 1).await.unwrap();
    let mut harness = Harness::over(Arc::<Databases>::clone(&store)).await;
    harness.start_worker().await;
    harness.send(&a, &b, 1, 1, "one").await;
    harness.send(&c, &d, 1, 1, "one").await;
    let mut said = harness.said(2).await;
    said.sort();
    assert_eq!(said, [format!("ack s:{a}:{b} 1 inbox 1"), format!("ack s:{c}:{d} 1 inbox 1")]);

    gone.kill();
    let started = Instant::now();
    for round in 2..=4 {
        let seq = u32::from(round);
        harness.send(&c, &d, seq, round, "lost?").await;
        harness.send(&a, &b, seq, round, "more").await;
        let mut said = harness.said(2).await;
        said.sort();
        assert_eq!(
            said,
            [format!("ack s:{a}:{b} {round} inbox {round}"), "refused unavailable".to_owned()]
        );
    }
    assert!(started.elapsed() < 4 * timeout, "nobody waits for it: {:?}", started.elapsed());
    let health = store.health(timeout).await;
    assert!(
        health[0].1.is_ok() && health[0].0.starts_with("1 of 2, the MySQL database"),
        "{health:?}"
    );
    let error = health[1].1.as_ref().expect_err("it is away").to_string();
    assert!(error.contains(&gone.port().to_string()), "{error}");

    gone.restart();
    let end = Instant::now() + BACK_WITHIN;
    loop {
        assert!(Instant::now() < end, "not used again");
        // Refusals have taken no number.
        harness.send(&c, &d, 2, 2, "lost?").await;
        let said = harness.said(1).await;
        if said == [format!("ack s:{c}:{d} 2 inbox 2")] {
            break;
        }
        assert_eq!(said, ["refused unavailable"]);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    harness.stop_worker().await;
    store.close().await;
}
