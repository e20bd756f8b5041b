//! Proves what a store in a database server owes beyond the common behaviours: it says at the start what is wrong, and kill -9 of the
//! server costs no acknowledged batch and no restart of ours. For several processes on one database see `several_writers.rs`.

mod store;

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use roost_logic::store::server::{ServerStore, StoreConfig};
use roost_logic::store::*;
use roost_testing::{Certificate, MariaDb, PostgreSql};
use store::{app, batch, batch_of, name};

/// How soon after the server is back a batch must be committed again.
const RECOVERED_WITHIN: Duration = Duration::from_secs(5);
const BATCH: u64 = 20;
const KILLS: u64 = 5;

enum Server {
    MariaDb(MariaDb),
    PostgreSql(PostgreSql),
}

impl Server {
    /// With an empty database, the one that [`Server::sql`] works on.
    fn mariadb() -> Self {
        let server = MariaDb::start();
        server.sql("CREATE DATABASE roost");
        Self::MariaDb(server)
    }
    fn postgresql() -> Self {
        Self::PostgreSql(PostgreSql::start())
    }
    fn url(&self) -> String {
        match self {
            Self::MariaDb(server) => server.url("roost"),
            Self::PostgreSql(server) => server.url("postgres"),
        }
    }
    fn sql(&self, statement: &str) {
        match self {
            Self::MariaDb(server) => server.sql(&format!("USE roost; {statement}")),
            Self::PostgreSql(server) => server.sql(statement),
        };
    }
    fn kill(&mut self) {
        match self {
            Self::MariaDb(server) => server.kill(),
            Self::PostgreSql(server) => server.kill(),
        }
    }
    fn restart(&mut self) {
        match self {
            Self::MariaDb(server) => server.restart(),
            Self::PostgreSql(server) => server.restart(),
        }
    }
}

fn config(url: String) -> StoreConfig {
    StoreConfig { url, ..StoreConfig::default() }
}

async fn open(server: &Server) -> ServerStore {
    ServerStore::open(&config(server.url()), "logic-1", 0).await.unwrap()
}

async fn refused(config: StoreConfig, parts: &[&str]) {
    let error =
        ServerStore::open(&config, "logic-1", 0).await.expect_err("it does not open").to_string();
    assert!(parts.iter().all(|part| error.contains(part)), "{error}");
    assert!(!error.contains("roost:"), "no credentials: {error}");
}

async fn check_start(server: &Server) {
    let url = server.url();
    let wrong = StoreConfig { password: "wrong".to_owned(), ..config(url.clone()) };
    refused(wrong, &["user \"roost\"", "ROOST_LOGIC__STORE__PASSWORD", "logic.store.url"]).await;
    // Without one in the URL, the password is the key's.
    let bare = url.replace("roost:roost@", "roost@");
    let right = StoreConfig { password: "roost".to_owned(), ..config(bare) };
    ServerStore::open(&right, "logic-1", 0).await.unwrap().close().await;
    let absent = url.rsplit_once('/').unwrap().0.to_owned() + "/absent";
    refused(config(absent), &["\"absent\"", "CREATE DATABASE absent"]).await;
    let nobody = roost_testing::host::Port::free();
    let port = url.rsplit_once('/').unwrap().0.rsplit_once(':').unwrap().1;
    let elsewhere = url.replace(port, &nobody.number().to_string());
    refused(config(elsewhere), &["cannot reach", "logic.store.url"]).await;
    server.sql("DELETE FROM _sqlx_migrations");
    server.sql(
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) VALUES (99, 'x', TRUE, 'x', 0)",
    );
    refused(config(url), &["newer Roost", "schema 99", "start that version"]).await;
}

/// What the two sides of the test tell each other.
#[derive(Default)]
struct Progress {
    acknowledged: AtomicU64,
    /// When the server was ready again.
    back: Mutex<Vec<Instant>>,
    is_over: AtomicBool,
}

async fn check_kills(mut server: Server) {
    let store = open(&server).await;
    let progress = Arc::new(Progress::default());
    let seen = Arc::clone(&progress);
    let killer = std::thread::spawn(move || {
        for kill in 0..KILLS {
            // In the middle of commits, at another moment each time.
            let target = seen.acknowledged.load(Ordering::Acquire) + 30 + kill * kill % 7;
            while seen.acknowledged.load(Ordering::Acquire) < target {
                std::thread::yield_now();
            }
            server.kill();
            server.restart();
            seen.back.lock().unwrap().push(Instant::now());
        }
        seen.is_over.store(true, Ordering::Release);
        server
    });
    let asked = LoadKeys { conversations: vec![(app(), name("s:a:b"))], ..LoadKeys::default() };
    let (mut last, mut acknowledged, mut failures) = (0, Vec::new(), 0);
    let end = Instant::now() + Duration::from_secs(180);
    let mut is_over = false;
    while !is_over {
        assert!(Instant::now() < end, "{failures} failures, {} batches", acknowledged.len());
        // Read before the commit: the last one is after the last kill.
        is_over = progress.is_over.load(Ordering::Acquire);
        let done = store.commit(batch(last + 1..=last + BATCH)).await;
        if done.is_ok() {
            last += BATCH;
            acknowledged.push(Instant::now());
            progress.acknowledged.fetch_add(1, Ordering::Release);
            continue;
        }
        assert!(matches!(done, Err(StoreError::Unavailable(_) | StoreError::Again(_))), "{done:?}");
        failures += 1;
        is_over = false;
        let loaded = loop {
            assert!(Instant::now() < end, "the server does not come back");
            match store.load(&asked).await {
                Ok(loaded) => break loaded,
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        };
        let found = loaded.conversations.first().map_or(0, |row| row.last_seq);
        assert!(found == last || found == last + BATCH, "whole or absent: {last} {found}");
        last = found;
    }
    let server = killer.join().unwrap();
    assert!(failures >= KILLS, "every kill was felt: {failures}");
    let back = progress.back.lock().unwrap().clone();
    let recoveries = back.iter().map(|back| {
        acknowledged.iter().find(|at| *at > back).map_or(Duration::MAX, |at| *at - *back)
    });
    let recoveries: Vec<Duration> = recoveries.collect();
    eprintln!("{} batches, {failures} failed, committing {recoveries:?} after", last / BATCH);
    assert!(recoveries.iter().all(|recovery| *recovery <= RECOVERED_WITHIN), "{recoveries:?}");

    let all = HistoryRange { after: 0, before: 0, limit: 1_000_000, newest_first: false };
    let (latest, rows) = store.history("demo", "s:a:b", all).await.unwrap().unwrap();
    assert_eq!((latest, rows.len() as u64), (last, last));
    assert!(rows.iter().zip(1..).all(|(row, seq)| row.seq == seq));
    for owner in ["a", "b"] {
        let inbox = store.inbox_page("demo", owner, 0, 1_000_000).await.unwrap();
        assert!(inbox.iter().zip(1..).all(|(row, seq)| row.inbox_seq == seq));
        assert_eq!(inbox.len() as u64, last);
    }
    store.close().await;
    drop(server);
}

/// A server that says nothing holds a caller for `call_timeout`, and is used again as soon as it speaks.
#[tokio::test]
async fn a_silent_server_is_given_up() {
    let server = MariaDb::start();
    server.sql("CREATE DATABASE roost");
    let timeout = Duration::from_millis(500);
    let config = StoreConfig {
        call_timeout: timeout,
        connect_timeout: timeout,
        ..config(server.url("roost"))
    };
    let store = ServerStore::open(&config, "logic-1", 0).await.unwrap();
    store.commit(batch(1..=1)).await.unwrap();
    server.pause();
    let begin = Instant::now();
    let silent = store.commit(batch(2..=2)).await;
    assert!(matches!(silent, Err(StoreError::Unavailable(_))), "{silent:?}");
    assert!(matches!(store.account("demo", "a").await, Err(StoreError::Unavailable(_))));
    let asked = LoadKeys { conversations: vec![(app(), name("s:a:b"))], ..LoadKeys::default() };
    assert!(matches!(store.load(&asked).await, Err(StoreError::Unavailable(_))));
    assert!(begin.elapsed() < 20 * timeout, "{:?}", begin.elapsed());
    server.resume();
    let end = Instant::now() + RECOVERED_WITHIN;
    loop {
        assert!(Instant::now() < end, "not used again");
        if let Ok(loaded) = store.load(&asked).await {
            let last = loaded.conversations[0].last_seq;
            assert!(last >= 1, "what was acknowledged is there: {last}");
            if store.commit(batch(last + 1..=last + 1)).await.is_ok() {
                break;
            }
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    while store.account("demo", "a").await.is_err() {
        assert!(Instant::now() < end, "not used again");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    store.close().await;
}

#[tokio::test]
async fn mariadb_names_mistakes() {
    let server = Server::mariadb();
    check_start(&server).await;
}

#[tokio::test]
async fn postgresql_names_mistakes() {
    let server = Server::postgresql();
    check_start(&server).await;
}

#[tokio::test]
async fn kills_of_mariadb_lose_nothing() {
    check_kills(Server::mariadb()).await;
}

#[tokio::test]
async fn kills_of_postgresql_lose_nothing() {
    check_kills(Server::postgresql()).await;
}

/// `with`: what the URL says of TLS, before the authority's file.
async fn check_tls(server: &Server, authority: &Path, with: &str, without: &str) {
    let url = |query: &str| config(format!("{}?{query}", server.url()));
    let trusting = |authority: &Path| url(&format!("{with}{}", authority.display()));
    let store = ServerStore::open(&trusting(authority), "logic-1", 0).await.unwrap();
    store.commit(batch(1..=3)).await.unwrap();
    store.close().await;
    let stranger = Certificate::new("root");
    refused(trusting(&stranger.authority()), &["cannot reach", "invalid peer certificate"]).await;
    refused(trusting(Path::new("/absent.pem")), &["cannot read /absent.pem", "logic.store.url"])
        .await;
    if !without.is_empty() {
        refused(url(without), &["does not let user"]).await;
    }
}

#[tokio::test]
async fn mariadb_by_tls() {
    let mut server = MariaDb::start();
    server.sql("CREATE DATABASE roost");
    let authority = server.require_tls();
    let (with, without) = ("ssl-mode=VERIFY_IDENTITY&ssl-ca=", "ssl-mode=DISABLED");
    check_tls(&Server::MariaDb(server), &authority, with, without).await;
}

#[tokio::test]
async fn postgresql_by_tls() {
    let mut server = PostgreSql::start();
    let authority = server.offer_tls();
    let server = Server::PostgreSql(server);
    check_tls(&server, &authority, "sslmode=verify-full&sslrootcert=", "").await;
}

/// The text of a statement that fails is logged by the server.
#[tokio::test]
async fn bodies_are_not_in_the_log_of_postgresql() {
    let server = PostgreSql::start();
    let store = ServerStore::open(&config(server.url("postgres")), "logic-1", 0).await.unwrap();
    let secret = "for bob alone";
    let write = || batch_of(1..=1, |_| secret.into());
    store.commit(write()).await.unwrap();
    assert!(matches!(store.commit(write()).await, Err(StoreError::Duplicate(_))));
    store.close().await;
    let log = server.log();
    let hex: String = secret.bytes().map(|byte| format!("{byte:02x}")).collect();
    assert!(log.contains("duplicate key"), "{log}");
    assert!(!log.contains(secret) && !log.contains(&hex), "{log}");
}
