//! One question: does the cache of inboxes in Redis make it faster to pull 1,000 offline messages from MariaDB?
//!
//! Users with 1,100 messages each, from 20 peers in turn; then each of them pulls its newest 1,000 in pages of 200, from the database
//! alone and from the cache before it, one user at a time and 16 at a time. Expected: yes, because a page is one range of one key
//! instead of 200 rows at 200 places. Also printed: what a commit costs with and without the cache.
//!
//! `cargo run --release -p roost-logic --example offline_pull`

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use futures_util::stream;
use roost_logic::soft_state::redis::{CacheCounters, CacheSettings, InboxCache};
use roost_logic::soft_state::{CachedStore, Epoch};
use roost_logic::store::server::{ServerStore, StoreConfig};
use roost_logic::store::*;
use roost_membership::RoutesConfig;
use roost_testing::{MariaDb, Redis};

const USERS: u64 = 200;
const PEERS: u64 = 20;
const MESSAGES: u64 = 1_100;
const PULLED: u64 = 1_000;
const PAGE: usize = 200;
const ROUNDS: usize = 3;

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(run());
}

async fn run() {
    let (redis, database) = (Redis::start(), MariaDb::start());
    database.sql("CREATE DATABASE roost");
    let config = StoreConfig { url: database.url("roost"), ..StoreConfig::default() };
    let server = ServerStore::open(&config, "logic-1", 0).await.expect("the database");
    let plain: SharedStore = Arc::new(server);
    let counters = CacheCounters::default();
    let soft = RoutesConfig {
        url: redis.url(),
        response_timeout: Duration::from_secs(2),
        ..RoutesConfig::default()
    };
    let cache = InboxCache::open(&soft, &CacheSettings::default(), Epoch(1), counters.clone());
    let cached: SharedStore =
        Arc::new(CachedStore::new(Arc::clone(&plain), cache.expect("the cache")));

    let mut commits = 0;
    let started = Instant::now();
    for round in 0..MESSAGES {
        cached.commit(batch(round)).await.expect("a commit");
        commits += 1;
        while counters.written.get() + counters.left_out.get() + 32 < commits {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    let per_commit = started.elapsed() / u32::try_from(MESSAGES).unwrap_or(1);
    while counters.written.get() + counters.left_out.get() < commits {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    println!("filled: {USERS} users, {MESSAGES} messages each, {per_commit:?} a commit of {USERS}");
    println!("batches left out of Redis: {}", counters.left_out.get());
    println!("memory of Redis: {}", memory(&redis));

    for concurrency in [1, 16] {
        for round in 0..ROUNDS {
            for (name, store) in [("database", &plain), ("cache", &cached)] {
                let mut times = pull_all(store, concurrency).await;
                times.sort();
                let at = |part: usize| times[(times.len() - 1) * part / 100];
                println!(
                    "{concurrency:2} at a time, round {round}, {name:8}: p50 {:?} p99 {:?} for 1,000 messages",
                    at(50),
                    at(99)
                );
            }
        }
    }
    println!("pages from Redis alone: {}, others: {}", counters.hits.get(), counters.misses.get());
}

fn memory(redis: &Redis) -> String {
    let text = redis.cli(&["INFO", "memory"]);
    let line = text.lines().find(|line| line.starts_with("used_memory_human"));
    line.unwrap_or("unknown").trim().to_owned()
}

/// How long each user's pull took.
async fn pull_all(store: &SharedStore, concurrency: usize) -> Vec<Duration> {
    let pull = |user: u64| async move {
        let (name, started) = (format!("u{user}"), Instant::now());
        let (mut after, mut count) = (MESSAGES - PULLED, 0);
        while count < PULLED {
            // As a sync does: where the inbox ends, then a page and whether there is more.
            let owner = [(Name::from("demo"), Name::from(name.as_str()))];
            store.inbox_positions(&owner).await.expect("positions");
            let rows = store.inbox_page("demo", &name, after, PAGE + 1).await.expect("a page");
            let taken = rows.len().min(PAGE);
            after = rows[taken - 1].inbox_seq;
            count += taken as u64;
        }
        assert_eq!(count, PULLED);
        started.elapsed()
    };
    stream::iter(0..USERS).map(pull).buffer_unordered(concurrency).collect().await
}

/// Every user gets one message, in this round from this peer.
fn batch(round: u64) -> Writes {
    let (app, peer) = (Name::from("demo"), Name::from(format!("p{}", round % PEERS)));
    let mut writes = Writes::default();
    for user in 0..USERS {
        let owner = Name::from(format!("u{user}"));
        let conversation = Name::from(format!("s:{peer}:{owner}"));
        let (seq, inbox_seq) = (round / PEERS + 1, round + 1);
        let placed = Placed {
            seq,
            message_id: round * USERS + user,
            server_time_ms: round,
            payload_hash: 1,
            sender_inbox_seq: 1,
            peer_inbox_seq: inbox_seq,
        };
        writes.messages.push(NewMessage {
            app: app.clone(),
            conversation: conversation.clone(),
            sender: peer.clone(),
            client_msg_id: u128::from(placed.message_id + 1).to_be_bytes(),
            kind: 1,
            body: vec![b'x'; 128].into(),
            placed,
        });
        writes.inbox.push(InboxRow {
            app: app.clone(),
            owner: owner.clone(),
            inbox_seq,
            conversation: conversation.clone(),
            seq,
        });
        let last_seq = seq;
        writes.conversations.push(ConversationRow { app: app.clone(), conversation, last_seq });
        writes.inboxes.push(UserRow { app: app.clone(), user: owner, last_inbox_seq: inbox_seq });
    }
    writes.sort();
    writes
}
