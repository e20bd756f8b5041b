//! The route table in a real Redis: only newer epochs win, only the very session is cleared, and whatever happens to Redis, no gateway that
//! may hold a session is left out.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use roost_membership::redis::{Announced, RedisMode, RouteChange, SessionRoute, probe};
use roost_membership::{Member, RedisRoutes, Ring, RouteTable, Routes, RoutesConfig};
use roost_testing::redis::MASTER_NAME;
use roost_testing::{Redis, RedisCluster, Sentinels};

/// Above what a busy machine needs to start a process.
const DEADLINE: Duration = Duration::from_secs(30);

fn config(server: &Redis) -> RoutesConfig {
    config_of(RedisMode::Single, server.url())
}

fn config_of(mode: RedisMode, url: String) -> RoutesConfig {
    RoutesConfig {
        url,
        mode,
        sentinel_master: MASTER_NAME.to_owned(),
        pause: Duration::from_millis(20),
        response_timeout: Duration::from_secs(2),
        gateway_lease: Duration::from_secs(60),
        ..RoutesConfig::default()
    }
}

fn ring() -> Arc<ArcSwap<Ring>> {
    let member = |name: &str| Member { name: name.into(), address: "h:1".into(), weight: 1 };
    Arc::new(ArcSwap::from_pointee(Ring::new(vec![member("gw-1"), member("gw-2")]).unwrap()))
}

fn session(user: &'static str, device: &'static str, epoch: u64) -> SessionRoute<'static> {
    SessionRoute { app: "demo", user, device, epoch }
}

async fn set(table: &RouteTable, user: &'static str, device: &'static str, epoch: u64) {
    table.write(&[RouteChange::Set(session(user, device, epoch))]).await.unwrap();
}

async fn clear(table: &RouteTable, user: &'static str, device: &'static str, epoch: u64) {
    table.write(&[RouteChange::Clear(session(user, device, epoch))]).await.unwrap();
}

/// The gateways of alice and of bob, each as sorted names.
async fn ask(routes: &RedisRoutes) -> [String; 2] {
    let answer = routes.gateways_of("demo", &["alice", "bob"]).await.unwrap();
    let names = |mut gateways: Vec<Arc<str>>| {
        gateways.sort();
        gateways.join(" ")
    };
    answer.into_iter().map(names).collect::<Vec<_>>().try_into().unwrap()
}

/// Asks until the answer is the expected one: after an outage the connection needs a moment.
async fn wait_for(routes: &RedisRoutes, expected: [&str; 2]) {
    let wait = async {
        while ask(routes).await != expected {
            tokio::task::yield_now().await;
        }
    };
    let found = tokio::time::timeout(DEADLINE, wait).await;
    assert!(found.is_ok(), "expected {expected:?}, last {:?}", ask(routes).await);
}

async fn announce(table: &RouteTable, is_complete: bool) -> Announced {
    let wait = async {
        loop {
            if let Ok(announced) = table.announce(is_complete).await {
                return announced;
            }
        }
    };
    tokio::time::timeout(DEADLINE, wait).await.expect("Redis answers again")
}

const EVERYWHERE: [&str; 2] = ["gw-1 gw-2", "gw-1 gw-2"];

#[tokio::test]
async fn routes_follow_sessions() {
    let server = Redis::start();
    let config = config(&server);
    let (one, two) = (
        RouteTable::open(&config, "gw-1", 1).unwrap(),
        RouteTable::open(&config, "gw-2", 2).unwrap(),
    );
    let routes = RedisRoutes::open(&config, ring()).unwrap();
    assert_eq!(ask(&routes).await, EVERYWHERE, "nobody has said that its routes are complete");
    assert_eq!(announce(&one, true).await, Announced::Unknown);
    assert_eq!(
        ask(&routes).await,
        EVERYWHERE,
        "a process that Redis did not know has written nothing"
    );
    assert_eq!(announce(&one, true).await, Announced::Again);
    assert_eq!(ask(&routes).await, ["gw-2", "gw-2"], "the second has not");
    announce(&two, false).await;
    assert_eq!(ask(&routes).await, ["gw-2", "gw-2"], "nor is registering the same as complete");
    assert_eq!(announce(&two, true).await, Announced::Again);
    assert_eq!(ask(&routes).await, ["", ""]);

    // Devices of a user on two gateways; the same one reconnects, and the end of its old connection comes late.
    set(&one, "alice", "phone", 1_900_000_000_000_000).await;
    set(&two, "alice", "tablet", 7).await;
    assert_eq!(ask(&routes).await, ["gw-1 gw-2", ""]);
    set(&two, "alice", "tablet", 1 << 62).await;
    clear(&two, "alice", "tablet", 7).await;
    assert_eq!(ask(&routes).await, ["gw-1 gw-2", ""], "an old end clears nothing");
    set(&two, "alice", "tablet", (1 << 62) - 1).await;
    clear(&two, "alice", "tablet", (1 << 62) - 1).await;
    assert_eq!(ask(&routes).await, ["gw-1 gw-2", ""], "a lower epoch sets nothing");
    clear(&two, "alice", "tablet", 1 << 62).await;
    assert_eq!(ask(&routes).await, ["gw-1", ""]);

    // A delivery comes back: the routes of that process are stale, but not those of its successor.
    set(&two, "bob", "phone", 1).await;
    assert_eq!(ask(&routes).await, ["gw-1", "gw-2"]);
    assert!(one.gone().await.unwrap().is_empty());
    routes.returned("gw-2").await;
    assert_eq!(ask(&routes).await, ["gw-1", ""]);
    assert_eq!(
        one.gone().await.unwrap(),
        [std::sync::Arc::<str>::from("gw-2")],
        "the other gateways know as well"
    );
    assert_eq!(announce(&two, true).await, Announced::Again, "a living gateway corrects it");
    assert!(one.gone().await.unwrap().is_empty());
    assert_eq!(ask(&routes).await, ["gw-1", "gw-2"]);
    let successor = RouteTable::open(&config, "gw-2", 3).unwrap();
    announce(&successor, false).await;
    routes.returned("gw-2").await;
    announce(&successor, true).await;
    assert_eq!(ask(&routes).await, ["gw-1", ""], "the dead process's routes ended with it");
    set(&successor, "bob", "phone", 1).await;
    announce(&successor, true).await;
    assert_eq!(ask(&routes).await, ["gw-1", "gw-2"]);
    successor.leave().await.unwrap();
    assert_eq!(ask(&routes).await, ["gw-1", ""], "it said goodbye");
}

#[tokio::test]
async fn a_lost_redis_costs_deliveries_nobody_needed() {
    let mut server = Redis::start();
    let config = config(&server);
    let one = RouteTable::open(&config, "gw-1", 1).unwrap();
    let two = RouteTable::open(&config, "gw-2", 2).unwrap();
    let routes = RedisRoutes::open(&config, ring()).unwrap();
    let register = async || {
        set(&one, "alice", "phone", 1).await;
        for table in [&one, &two] {
            announce(table, false).await;
            assert_eq!(announce(table, true).await, Announced::Again);
        }
    };
    register().await;
    assert_eq!(ask(&routes).await, ["gw-1", ""]);

    assert_eq!(server.cli(&["FLUSHALL"]), "OK");
    assert_eq!(ask(&routes).await, EVERYWHERE, "nothing is known, nobody is left out");
    assert_eq!(announce(&one, true).await, Announced::Unknown, "the gateway notices");
    register().await;
    assert_eq!(ask(&routes).await, ["gw-1", ""]);

    server.kill();
    assert_eq!(ask(&routes).await, EVERYWHERE);
    assert!(one.announce(true).await.is_err());
    server.restart();
    assert_eq!(announce(&one, true).await, Announced::Unknown);
    register().await;
    wait_for(&routes, ["gw-1", ""]).await;

    // Alive for the kernel, but silent.
    let impatient = RoutesConfig { response_timeout: Duration::from_millis(50), ..config };
    let impatient = RedisRoutes::open(&impatient, ring()).unwrap();
    wait_for(&impatient, ["gw-1", ""]).await;
    server.pause();
    assert_eq!(ask(&impatient).await, EVERYWHERE);
    server.resume();
    wait_for(&impatient, ["gw-1", ""]).await;
}

#[tokio::test]
async fn leases_end() {
    let server = Redis::start();
    let config = RoutesConfig {
        lease: Duration::from_secs(1),
        gateway_lease: Duration::from_millis(300),
        ..config(&server)
    };
    let one = RouteTable::open(&config, "gw-1", 1).unwrap();
    let long = RoutesConfig { gateway_lease: Duration::from_secs(60), ..config.clone() };
    let two = RouteTable::open(&long, "gw-2", 2).unwrap();
    let routes = RedisRoutes::open(&config, ring()).unwrap();
    set(&one, "alice", "phone", 1).await;
    set(&two, "bob", "phone", 1).await;
    for table in [&one, &two] {
        announce(table, false).await;
        announce(table, true).await;
    }
    // A gateway that falls silent gets everything, because what it could not write is unknown; a route that is not renewed ends.
    wait_for(&routes, ["gw-1", "gw-1"]).await;
    assert_eq!(server.cli(&["KEYS", "roost:routes:*"]), "", "and leaves nothing behind");
}

/// Two gateways, both complete, alice on the first.
async fn register(one: &RouteTable, two: &RouteTable) {
    let wait = async {
        loop {
            let written = one.write(&[RouteChange::Set(session("alice", "phone", 1))]).await;
            let is_known = announce(one, true).await == Announced::Again;
            if written.is_ok() && is_known && announce(two, true).await == Announced::Again {
                return;
            }
        }
    };
    tokio::time::timeout(DEADLINE, wait).await.expect("Redis takes routes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sentinels_name_the_next_master() {
    let mut sentinels = Sentinels::start();
    let config = config_of(RedisMode::Sentinel, sentinels.url());
    probe(&config).await.unwrap();
    let one = RouteTable::open(&config, "gw-1", 1).unwrap();
    let two = RouteTable::open(&config, "gw-2", 2).unwrap();
    let routes = RedisRoutes::open(&config, ring()).unwrap();
    register(&one, &two).await;
    wait_for(&routes, ["gw-1", ""]).await;

    let master = sentinels.master();
    sentinels.servers[master].kill();
    assert_eq!(ask(&routes).await, EVERYWHERE, "nobody is left out meanwhile");
    register(&one, &two).await;
    wait_for(&routes, ["gw-1", ""]).await;
    assert_ne!(sentinels.master(), master);

    // The next one falls silent: the former is back by then, and becomes the master again.
    sentinels.servers[master].restart();
    let silent = sentinels.master();
    let next = sentinels.servers[silent].port().to_string();
    let deadline = Instant::now() + DEADLINE;
    // Sentinels would tell it to follow, at a time of their own.
    while !sentinels.servers[master].cli(&["ROLE"]).contains("connected") {
        sentinels.servers[master].cli(&["REPLICAOF", "127.0.0.1", &next]);
        assert!(Instant::now() < deadline, "the former master follows the next one");
        tokio::task::yield_now().await;
    }
    sentinels.servers[silent].pause();
    register(&one, &two).await;
    wait_for(&routes, ["gw-1", ""]).await;
    assert_eq!(sentinels.master(), master);
    sentinels.servers[silent].resume();

    let unknown = RoutesConfig { sentinel_master: "nobody".to_owned(), ..config };
    let refused = probe(&unknown).await.unwrap_err().to_string();
    assert!(refused.contains("[routes]"), "{refused}");
}

#[tokio::test]
async fn a_cluster_divides_the_routes() {
    let mut cluster = RedisCluster::start();
    let config = config_of(RedisMode::Cluster, cluster.url());
    probe(&config).await.unwrap();
    let one = RouteTable::open(&config, "gw-1", 1).unwrap();
    let two = RouteTable::open(&config, "gw-2", 2).unwrap();
    let routes = RedisRoutes::open(&config, ring()).unwrap();
    register(&one, &two).await;
    wait_for(&routes, ["gw-1", ""]).await;
    // Many users in one question and one write, in order for each of them.
    let names: Vec<String> = (0..200).map(|n| format!("user-{n}")).collect();
    let route = |user, epoch| SessionRoute { app: "demo", user, device: "phone", epoch };
    let changes: Vec<RouteChange<'_>> = names
        .iter()
        .flat_map(|user| {
            [
                RouteChange::Set(route(user, 1)),
                RouteChange::Clear(route(user, 1)),
                RouteChange::Set(route(user, 2)),
            ]
        })
        .collect();
    two.write(&changes).await.unwrap();
    let users: Vec<&str> = names.iter().map(String::as_str).collect();
    let answer = routes.gateways_of("demo", &users).await.unwrap();
    assert!(answer.iter().all(|gateways| gateways.len() == 1 && *gateways[0] == *"gw-2"));
    for master in &cluster.masters {
        assert_ne!(master.cli(&["DBSIZE"]), "0", "every server has a share");
    }

    // One server away: nobody is left out. It comes back empty: written again.
    cluster.masters[1].kill();
    let answer = routes.gateways_of("demo", &users).await.unwrap();
    assert!(answer.iter().all(|gateways| gateways.len() == 2));
    cluster.masters[1].restart();
    register(&one, &two).await;
    wait_for(&routes, ["gw-1", ""]).await;
}

#[tokio::test]
async fn a_start_names_wrong_credentials_and_modes() {
    let user = ["--user", "roost", "on", ">of-the-user", "~roost:*", "+@all"];
    let server =
        Redis::start_with(&[["--requirepass", "of-the-server"].as_slice(), &user].concat());
    let refused = async |config: RoutesConfig| {
        let refused = probe(&config).await.unwrap_err().to_string();
        assert!(refused.contains("[routes]"), "{refused}");
    };
    let config = config(&server);
    refused(config.clone()).await;
    refused(RoutesConfig { password: "wrong".to_owned(), ..config.clone() }).await;
    let right = RoutesConfig { password: "of-the-server".to_owned(), ..config.clone() };
    probe(&right).await.unwrap();
    let named = RoutesConfig { username: "roost".to_owned(), ..config.clone() };
    refused(RoutesConfig { password: "of-the-server".to_owned(), ..named.clone() }).await;
    let user = RoutesConfig { password: "of-the-user".to_owned(), ..named };
    probe(&user).await.unwrap();
    let elsewhere = RoutesConfig { key_prefix: "other:".to_owned(), ..user };
    refused(elsewhere).await;
    // The client takes a server without cluster support for a cluster of one.
    probe(&RoutesConfig { mode: RedisMode::Cluster, ..right.clone() }).await.unwrap();
    refused(RoutesConfig { mode: RedisMode::Sentinel, ..right }).await;

    // Away is not wrong.
    let away = RoutesConfig { url: "redis://127.0.0.1:1".to_owned(), ..RoutesConfig::default() };
    probe(&away).await.unwrap();
}
