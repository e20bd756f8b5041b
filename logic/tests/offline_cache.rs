//! The cache of inboxes in a real Redis before a real MariaDB: whatever happens to Redis, every page is what the database says, and no call
//! fails.

mod store;

use std::sync::Arc;
use std::time::Duration;

use roost_health::BreakerState;
use roost_logic::soft_state::redis::{CacheCounters, CacheSettings, InboxCache};
use roost_logic::soft_state::{CachedStore, Epoch};
use roost_logic::store::server::{ServerStore, StoreConfig};
use roost_logic::store::*;
use roost_membership::RoutesConfig;
use roost_testing::{MariaDb, Redis};
use store::batch;

const DEADLINE: Duration = Duration::from_secs(30);
const LIMIT: usize = 201;

struct World {
    redis: Redis,
    database: MariaDb,
    inner: SharedStore,
    cached: CachedStore,
    breaker: Arc<roost_health::Breaker>,
    counters: CacheCounters,
    epoch: Epoch,
}

impl World {
    async fn start() -> Self {
        let (redis, database) = (Redis::start(), MariaDb::start());
        database.sql("CREATE DATABASE roost");
        let config = StoreConfig { url: database.url("roost"), ..StoreConfig::default() };
        let server = ServerStore::open(&config, "logic-1", 0).await.unwrap();
        let epoch = epoch_of(&server).await;
        let inner: SharedStore = Arc::new(server);
        let counters = CacheCounters::default();
        let cache = InboxCache::open(&soft(&redis), &settings(), epoch, counters.clone()).unwrap();
        let breaker = Arc::clone(cache.breaker());
        let cached = CachedStore::new(Arc::clone(&inner), cache);
        Self { redis, database, inner, cached, breaker, counters, epoch }
    }

    async fn commit(&self, seqs: std::ops::RangeInclusive<u64>) {
        self.cached.commit(batch(seqs)).await.unwrap();
    }

    fn held(&self) -> u64 {
        let key = format!("roost:inbox:{:x}:demo/b", self.epoch.0);
        self.redis.cli(&["ZCARD", &key]).parse().unwrap_or_default()
    }

    /// Commits single messages from `next` on until Redis has one of them; the next number.
    async fn commit_until_held(&self, mut next: u64) -> u64 {
        let before = self.counters.written.get();
        let deadline = std::time::Instant::now() + DEADLINE;
        while self.counters.written.get() == before {
            assert!(std::time::Instant::now() < deadline, "entries reach Redis again");
            self.commit(next..=next).await;
            self.check(next - 1).await;
            next += 1;
        }
        next
    }

    /// A page is what the database says. Whether Redis alone answered.
    async fn check(&self, after: u64) -> bool {
        let hits = self.counters.hits.get();
        let page = self.cached.inbox_page("demo", "b", after, LIMIT).await.unwrap();
        assert_eq!(page, self.inner.inbox_page("demo", "b", after, LIMIT).await.unwrap());
        self.counters.hits.get() > hits
    }
}

async fn epoch_of(server: &ServerStore) -> Epoch {
    let ours = fastrand::u64(..).to_be_bytes();
    Epoch::from_agreed(&server.agree("offline_cache", &ours).await.unwrap())
}

fn soft(redis: &Redis) -> RoutesConfig {
    RoutesConfig {
        url: redis.url(),
        pause: Duration::from_millis(20),
        response_timeout: Duration::from_millis(500),
        ..RoutesConfig::default()
    }
}

fn settings() -> CacheSettings {
    CacheSettings { messages_max: 1_000, ..CacheSettings::default() }
}

async fn until(what: &str, is_so: impl Fn() -> bool) {
    let wait = async {
        while !is_so() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, wait).await.unwrap_or_else(|_| panic!("{what}"));
}

#[tokio::test]
async fn the_newest_thousand_are_served_and_holes_are_not() {
    let world = World::start().await;
    for start in (1..1_500).step_by(100) {
        world.commit(start..=start + 99).await;
    }
    until("all batches are written", || world.counters.written.get() == 15).await;
    assert_eq!(world.held(), 1_000);
    for (after, is_hit) in [(0, false), (499, false), (500, true), (1_000, true), (1_299, true)] {
        assert_eq!(world.check(after).await, is_hit, "after {after}");
    }
    // The last page: that there is no more, the database says.
    assert!(!world.check(1_400).await);
    assert!(!world.check(1_500).await);
    assert!(!world.check(u64::MAX).await);

    // A hole, and an entry that is none.
    let key = format!("roost:inbox:{:x}:demo/b", world.epoch.0);
    assert_eq!(world.redis.cli(&["ZREMRANGEBYSCORE", &key, "700", "700"]), "1");
    assert!(!world.check(600).await);
    assert!(world.check(700).await);
    assert_eq!(world.redis.cli(&["ZADD", &key, "900", "nonsense"]), "1");
    assert!(!world.check(800).await);
    let ttl: u64 = world.redis.cli(&["PTTL", &key]).parse().unwrap();
    assert!(ttl > 2 * 24 * 3_600_000 && ttl <= 3 * 24 * 3_600_000, "{ttl}");
    // Something else under the same name.
    world.redis.cli(&["SET", &key, "text"]);
    assert!(!world.check(1_000).await);
}

#[tokio::test]
async fn a_new_database_finds_nothing_of_the_old_one() {
    let world = World::start().await;
    world.commit(1..=300).await;
    until("the batch is written", || world.counters.written.get() == 1).await;
    assert!(world.check(0).await);
    let World { redis, database, epoch, inner, cached, .. } = world;
    drop((inner, cached));
    database.sql("DROP DATABASE roost; CREATE DATABASE roost");
    let config = StoreConfig { url: database.url("roost"), ..StoreConfig::default() };
    let server = ServerStore::open(&config, "logic-1", 0).await.unwrap();
    let other = epoch_of(&server).await;
    assert_ne!(other, epoch);
    let counters = CacheCounters::default();
    let cache = InboxCache::open(&soft(&redis), &settings(), other, counters).unwrap();
    let cached = CachedStore::new(Arc::new(server), cache);
    assert_eq!(cached.inbox_page("demo", "b", 0, LIMIT).await.unwrap(), []);
}

#[tokio::test]
async fn flushed() {
    let world = World::start().await;
    world.commit(1..=500).await;
    until("the batch is written", || world.counters.written.get() == 1).await;
    assert!(world.check(0).await);
    assert_eq!(world.redis.cli(&["FLUSHALL"]), "OK");
    assert!(!world.check(0).await);
    world.commit(501..=800).await;
    until("the next batch is written", || world.counters.written.get() == 2).await;
    assert!(world.check(500).await, "what came since is there");
    assert!(!world.check(499).await, "what was before is not");
}

#[tokio::test]
async fn killed_and_back() {
    let mut world = World::start().await;
    world.commit(1..=300).await;
    until("the batch is written", || world.counters.written.get() == 1).await;
    world.redis.kill();
    assert!(!world.check(0).await);
    world.commit(301..=310).await;
    assert!(!world.check(100).await);
    assert_ne!(world.breaker.state(), BreakerState::Closed);
    world.redis.restart();
    let next = world.commit_until_held(311).await;
    world.commit(next..=next + 300).await;
    until("the batch is there", || world.held() > 300).await;
    assert!(world.check(next - 1).await);
    assert_eq!(world.breaker.state(), BreakerState::Closed);
    assert!(!world.check(0).await);
}

#[tokio::test]
async fn paused_and_back() {
    let world = World::start().await;
    world.commit(1..=300).await;
    until("the batch is written", || world.counters.written.get() == 1).await;
    world.redis.pause();
    // A commit does not wait for it; a page does, once.
    let started = std::time::Instant::now();
    for seq in 301..=400 {
        world.commit(seq..=seq).await;
    }
    assert!(!world.check(0).await);
    until("entries are left out", || world.counters.left_out.get() > 0).await;
    assert!(started.elapsed() < DEADLINE);
    world.redis.resume();
    let next = world.commit_until_held(401).await;
    // Wherever the holes are, pages across them are right.
    for after in [0, 99, 100, 250, 299, 300, 350, next - 2, u64::MAX] {
        world.check(after).await;
    }
}
