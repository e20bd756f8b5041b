//! Proves that several processes may write into one database server: a partition of the bus has one owner, what a former owner still wants
//! to commit is refused however late it wakes up, inboxes that both fill stay dense, and worker ids are never shared.

mod store;

use std::time::{Duration, Instant};

use roost_logic::store::server::{ServerStore, StoreConfig};
use roost_logic::store::*;
use roost_testing::{MariaDb, PostgreSql};
use store::{app, batch, name};

/// Long enough that a call which should wait has not merely been slow to start, short beside the limits of the server.
const STILL_WAITS: Duration = Duration::from_millis(500);
/// The server ends a transaction that stands still after three seconds, or MySQL, where no such limit is, an idle session after eight.
const TAKEN_WITHIN: Duration = Duration::from_secs(10);
const ROUNDS: u64 = 100;

enum Server {
    MariaDb(MariaDb),
    PostgreSql(PostgreSql),
}

impl Server {
    fn mariadb() -> Self {
        let server = MariaDb::start();
        server.sql("CREATE DATABASE roost");
        Self::MariaDb(server)
    }
    fn url(&self) -> String {
        match self {
            Self::MariaDb(server) => server.url("roost"),
            Self::PostgreSql(server) => server.url("postgres"),
        }
    }
    /// Ends the session that has worker id 0, as a network that broke would.
    fn end_session_of_worker_0(&self) {
        _ = match self {
            Self::MariaDb(server) => server.sql(
                "SET @kill = CONCAT('KILL ', IS_USED_LOCK(CONCAT('roost:', LEFT(SHA2('roost', 256), 40), ':0'))); \
                 PREPARE kill_it FROM @kill; EXECUTE kill_it",
            ),
            Self::PostgreSql(server) => server.sql(
                "SELECT pg_terminate_backend(pid, 10000) FROM pg_locks WHERE locktype = 'advisory' AND objid = 0",
            ),
        };
    }
    async fn open(&self, owner: &str) -> ServerStore {
        let config = StoreConfig { url: self.url(), ..StoreConfig::default() };
        let store = ServerStore::open(&config, owner, 0).await.unwrap();
        store.add_users("demo", &["a", "b"].map(name), 1).await.unwrap();
        store
    }
}

/// What a batch with a message of a to b asks.
fn asked() -> LoadKeys {
    LoadKeys {
        conversations: vec![(app(), name("s:a:b"))],
        users: ["b", "a"].map(|user| (app(), name(user))).into(),
        locks_inboxes: true,
        inboxes: ["b", "a", "b"].map(|owner| (app(), name(owner))).into(),
        ..LoadKeys::default()
    }
}

async fn last_seq(store: &ServerStore) -> u64 {
    let keys = LoadKeys { inboxes: Vec::new(), ..asked() };
    let loaded = store.load(&keys).await.unwrap();
    loaded.conversations.first().map_or(0, |row| row.last_seq)
}

/// A whole batch that adds the next message.
async fn add_message(store: &ServerStore, partition: u16) -> Result<()> {
    store.begin(&[partition]).await?;
    let loaded = store.load(&asked()).await?;
    let next = loaded.conversations.first().map_or(0, |row| row.last_seq) + 1;
    store.commit(batch(next..=next)).await
}

#[track_caller]
fn fenced<T: std::fmt::Debug>(done: Result<T>, partitions: &[u16]) {
    match done {
        Err(StoreError::Fenced(found)) => assert_eq!(found, partitions),
        other => panic!("{other:?}"),
    }
}

/// Whoever took a partition over last commits; nobody else does, also when both are in the middle of a batch.
async fn check_owners(server: &Server) {
    let (first, second) = (server.open("first").await, server.open("second").await);
    assert!(!first.begin(&[1, 2, 3]).await.unwrap().is_empty(), "new: nothing is remembered yet");
    assert_eq!(first.begin(&[1, 3]).await.unwrap(), [], "what it owns it may remember");
    add_message(&first, 2).await.unwrap();

    // Taken over behind its back: refused where it would lock, and where it would write.
    assert!(!second.begin(&[2]).await.unwrap().is_empty());
    second.commit(batch(2..=2)).await.unwrap();
    assert_eq!(first.begin(&[1, 2]).await.unwrap(), [], "it does not know yet");
    fenced(first.load(&asked()).await, &[2]);
    add_message(&first, 1).await.unwrap();
    // Its new owner is one it had not noticed; then it is taken over in the ordinary way.
    assert!(!first.begin(&[2]).await.unwrap().is_empty());
    first.commit(batch(4..=4)).await.unwrap();
    assert_eq!(second.begin(&[2]).await.unwrap(), []);
    fenced(second.commit(batch(5..=5)).await, &[2]);
    assert_eq!(last_seq(&second).await, 4, "nothing of it was written");

    // A batch under way is committed before the partition goes.
    first.begin(&[1]).await.unwrap();
    first.load(&asked()).await.unwrap();
    let mut taking = std::pin::pin!(second.begin(&[1]));
    assert!(tokio::time::timeout(STILL_WAITS, &mut taking).await.is_err(), "it waits");
    first.commit(batch(5..=5)).await.unwrap();
    assert!(!taking.await.unwrap().is_empty());
    assert_eq!(last_seq(&second).await, 5);
    fenced(add_message(&first, 1).await, &[1]);

    // Stopped in the middle of a batch: the partition is taken all the same, and the batch is lost, now and for ever.
    second.begin(&[1]).await.unwrap();
    second.load(&asked()).await.unwrap();
    let stopped = Instant::now();
    assert!(!first.begin(&[1]).await.unwrap().is_empty());
    assert!(stopped.elapsed() < TAKEN_WITHIN, "{:?}", stopped.elapsed());
    add_message(&first, 1).await.unwrap();
    assert!(matches!(second.commit(batch(6..=6)).await, Err(StoreError::Again(_))));
    fenced(second.begin(&[1]).await, &[1]);
    assert_eq!(last_seq(&first).await, 6);
    first.close().await;
    second.close().await;
}

/// Whoever owns all partitions need not lock inboxes, and finds out in time when that has ended.
async fn check_alone(server: &Server) {
    let first = server.open("first").await.with_partitions(2);
    let second = server.open("second").await.with_partitions(2);
    let remembered = || LoadKeys { locks_inboxes: false, inboxes: Vec::new(), ..asked() };
    first.begin(&[0]).await.unwrap();
    assert!(first.is_shared(), "the other partition is nobody's yet");
    assert!(!first.begin(&[0, 1]).await.unwrap().is_empty());
    assert!(!first.is_shared());
    let next = last_seq(&first).await + 1;
    assert_eq!(first.load(&remembered()).await.unwrap().inboxes, []);
    first.commit(batch(next..=next)).await.unwrap();

    // Another process adds to the same inboxes, over a partition that is not of the next batch.
    add_message(&second, 1).await.unwrap();
    assert_eq!(first.begin(&[0]).await.unwrap(), [], "it does not know yet");
    assert!(!first.is_shared());
    let late = first.commit(batch(next + 2..=next + 2)).await;
    assert!(matches!(late, Err(StoreError::Again(_))), "{late:?}");
    assert_eq!(last_seq(&second).await, next + 1, "nothing of it was written");
    assert_eq!(first.begin(&[0]).await.unwrap(), [], "its own partition did not move");
    assert!(first.is_shared());
    add_message(&first, 0).await.unwrap();
    assert_eq!(last_seq(&second).await, next + 2);
    first.close().await;
    second.close().await;
}

/// A lost connection costs ownership only if somebody else came in between.
async fn check_lost_sessions(server: &Server) {
    let (first, second) = (server.open("first").await, server.open("second").await);
    add_message(&first, 7).await.unwrap();
    server.end_session_of_worker_0();
    assert!(matches!(add_message(&first, 7).await, Err(StoreError::Again(_))));
    assert!(!first.begin(&[7]).await.unwrap().is_empty(), "what was remembered is void");
    add_message(&first, 7).await.unwrap();
    server.end_session_of_worker_0();
    add_message(&second, 7).await.unwrap();
    assert!(matches!(add_message(&first, 7).await, Err(StoreError::Again(_))));
    fenced(first.begin(&[7]).await, &[7]);
    // When the bus gives it the partition again, it is taken over again.
    add_message(&first, 7).await.unwrap();
    fenced(add_message(&second, 7).await, &[7]);
    first.close().await;
    second.close().await;
}

/// Both add to the inboxes of a and b, from conversations of partitions of their own.
async fn check_shared_inboxes(server: &Server) {
    let start = server.open("look").await;
    let before = start.inbox_positions(&[(app(), name("a"))]).await.unwrap()[0];
    let mut writers = Vec::new();
    for (partition, conversation) in [(11, "s:a:b1"), (12, "s:a:b2"), (13, "s:a:b3")] {
        let store = server.open(conversation).await;
        writers.push(tokio::spawn(async move {
            let mut seq = 0;
            while seq < ROUNDS {
                match add_to_inboxes(&store, partition, conversation, seq + 1).await {
                    Ok(()) => seq += 1,
                    Err(StoreError::Again(_)) => {}
                    Err(error) => panic!("{error}"),
                }
            }
            store.close().await;
        }));
    }
    for writer in writers {
        writer.await.unwrap();
    }
    for owner in ["a", "b"] {
        let last = start.inbox_positions(&[(app(), name(owner))]).await.unwrap()[0];
        let inbox = start.inbox_page("demo", owner, 0, 1_000_000).await.unwrap();
        assert_eq!((last, inbox.len() as u64), (before + 3 * ROUNDS, before + 3 * ROUNDS));
        assert!(inbox.iter().zip(1..).all(|(row, position)| row.inbox_seq == position));
    }
    start.close().await;
}

async fn add_to_inboxes(
    store: &ServerStore,
    partition: u16,
    conversation: &str,
    seq: u64,
) -> Result<()> {
    store.begin(&[partition]).await?;
    let loaded = store.load(&asked()).await?;
    let mut writes = batch(seq..=seq);
    for row in &mut writes.conversations {
        row.conversation = name(conversation);
    }
    for (counter, locked) in writes.inboxes.iter_mut().zip(&loaded.inboxes) {
        assert_eq!(counter.user, locked.user, "in key order");
        counter.last_inbox_seq = locked.last_inbox_seq + 1;
    }
    for entry in &mut writes.inbox {
        let counter = writes.inboxes.iter().find(|counter| counter.user == entry.owner).unwrap();
        (entry.conversation, entry.inbox_seq) = (name(conversation), counter.last_inbox_seq);
    }
    for message in &mut writes.messages {
        message.conversation = name(conversation);
    }
    writes.cursors.clear();
    store.commit(writes).await
}

/// Each process has an id of its own; who gets one that was used goes on above its mark.
async fn check_worker_ids(server: &Server) {
    let (first, second) = (server.open("first").await, server.open("second").await);
    let of_first = first.begin(&[20]).await.unwrap()[0];
    let of_second = second.begin(&[21]).await.unwrap()[0];
    assert_eq!((of_first.worker_id, of_second.worker_id), (0, 1));
    let mark = Writes { worker_marks: vec![(1, 777_777)], ..Writes::default() };
    second.commit(mark).await.unwrap();
    second.close().await;
    let third = server.open("third").await;
    let renewed = third.begin(&[21]).await.unwrap()[0];
    assert_eq!(renewed, Renewed { database: 0, worker_id: 1, mark_ms: 777_777 });
    // What is agreed on once stays.
    assert_eq!(first.agree("signing_key", b"first").await.unwrap(), b"first");
    assert_eq!(third.agree("signing_key", b"third").await.unwrap(), b"first");
    first.close().await;
    third.close().await;
}

async fn check(server: &Server) {
    check_owners(server).await;
    check_lost_sessions(server).await;
    check_alone(server).await;
    check_shared_inboxes(server).await;
    check_worker_ids(server).await;
}

#[tokio::test]
async fn several_writers_on_mariadb() {
    check(&Server::mariadb()).await;
}

#[tokio::test]
async fn several_writers_on_postgresql() {
    check(&Server::PostgreSql(PostgreSql::start())).await;
}

/// Several processes that start at the same time on a database without a schema.
async fn all_start_on_an_empty_database(server: Server) {
    let config = StoreConfig { url: server.url(), ..StoreConfig::default() };
    let starts: Vec<_> = (0..6)
        .map(|number| {
            let config = config.clone();
            tokio::spawn(async move {
                ServerStore::open(&config, &format!("logic-{number}"), number).await
            })
        })
        .collect();
    for start in starts {
        start.await.unwrap().unwrap().close().await;
    }
}

#[tokio::test]
async fn mariadb_gets_its_schema_once() {
    all_start_on_an_empty_database(Server::mariadb()).await;
}

#[tokio::test]
async fn postgresql_gets_its_schema_once() {
    all_start_on_an_empty_database(Server::PostgreSql(PostgreSql::start())).await;
}
