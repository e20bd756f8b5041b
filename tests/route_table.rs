//! Two gateways send users to where they belong, and deliveries find them by the route table: also when Redis is flushed, killed, empty again,
//! or a gateway is dead.

mod support;

use std::collections::HashSet;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use roost_membership::{Member, Ring};
use roost_testing::host::Port;
use roost_testing::{RabbitMq, Redis};
use support::tiers::{Tier, act, app, register};
use support::{DEADLINE, metric, run_ok, wait_for};

struct Gateway {
    server: String,
    admin: Port,
    _frames: Port,
    file: PathBuf,
}

impl Gateway {
    fn new(name: &str, folder: &Path) -> Self {
        let (frames, admin) = (Port::free(), Port::free());
        let server = format!("127.0.0.1:{}", frames.number());
        Self { server, admin, _frames: frames, file: folder.join(format!("{name}.toml")) }
    }

    fn metric(&self, name: &str) -> f64 {
        let url = format!("http://127.0.0.1:{}/metrics", self.admin.number());
        metric(&url, name)
    }

    fn missed(&self) -> f64 {
        self.metric("roost_gateway_control_users_missed_total")
    }

    fn wait_complete(&self) {
        wait_for("all routes are written", || {
            (self.metric("roost_gateway_control_routes_complete") == 1.0).then_some(())
        });
    }
}

/// `roost tail`, line by line.
struct Tail {
    process: Child,
    lines: mpsc::Receiver<String>,
    seen: HashSet<String>,
}

impl Tail {
    fn start(user: &str, server: &str) -> Self {
        let mut command = act("tail", user, server, &["--from-start"]);
        let mut process = command.stdout(Stdio::piped()).spawn().expect("roost tail starts");
        let output = BufReader::new(process.stdout.take().expect("piped"));
        let (line, lines) = mpsc::channel();
        std::thread::spawn(move || {
            output.lines().map_while(Result::ok).for_each(|text| _ = line.send(text));
        });
        Self { process, lines, seen: HashSet::new() }
    }

    /// A delivery that misses its gateway is found by the next heartbeat, after 26 s at least: too late here.
    fn wait(&mut self, text: &str) {
        self.wait_at_most(Duration::from_secs(20), text);
    }

    fn wait_at_most(&mut self, limit: Duration, text: &str) {
        while !self.seen.iter().any(|line| line.contains(text)) {
            let line = self.lines.recv_timeout(limit);
            self.seen.insert(line.unwrap_or_else(|_| panic!("bob sees {text:?} in time")));
        }
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        _ = self.process.kill();
        _ = self.process.wait();
    }
}

/// A user that the ring gives to this gateway.
fn user_of(gateway: &str) -> &'static str {
    let member = |name: &str| Member { name: name.into(), address: "h:1".into(), weight: 1 };
    let ring = Ring::new(vec![member("gw-1"), member("gw-2")]).unwrap();
    let is_there = |user: &&str| *ring.owner("shop", user).unwrap().name == *gateway;
    ["alice", "bob", "carol", "dave", "erin", "frank"]
        .into_iter()
        .find(is_there)
        .expect("one of six")
}

fn routes_of(user: &str) -> String {
    format!("roost:routes:shop/{user}")
}

#[test]
fn deliveries_find_their_gateway_whatever_happens_to_redis() {
    let (broker, mut redis) = (RabbitMq::start(), Redis::start());
    let folder = tempfile::tempdir().unwrap();
    let http = Port::free();
    let gateways = ["gw-1", "gw-2"].map(|name| Gateway::new(name, folder.path()));
    for (gateway, name) in gateways.iter().zip(["gw-1", "gw-2"]) {
        let text = format!(
            "[bus]\nurl = {:?}\npartitions = 4\n\
             [cluster]\ngateways = [\"gw-1={}\", \"gw-2={}\"]\nredirect = true\n\
             [routes]\nurl = {:?}\ngateway_lease_ms = 2000\npause_ms = 20\nresponse_timeout_ms = 2000\n\
             [gateway]\nname = {name:?}\nlisten = [{:?}]\nadmin_listen = \"127.0.0.1:{}\"\nshards = 1\n\
             [logic]\nhttp_listen = \"127.0.0.1:{}\"\ndata_dir = {:?}\n{}",
            broker.url(),
            gateways[0].server,
            gateways[1].server,
            redis.url(),
            gateway.server,
            gateway.admin.number(),
            http.number(),
            folder.path().join("data"),
            app(),
        );
        std::fs::write(&gateway.file, text).unwrap();
    }
    let [here, there] = &gateways;
    let _logic = Tier::start("logic", &here.file);
    let _here = Tier::start("gateway", &here.file);
    let second = Tier::start("gateway", &there.file);
    let (alice, bob_name) = (user_of("gw-1"), user_of("gw-2"));
    register(http.number(), &[alice, bob_name]);
    let send = |text: &str| run_ok(act("send", alice, &here.server, &["--to", bob_name, text]));
    let (routes_of_alice, routes_of_bob) = (routes_of(alice), routes_of(bob_name));
    let has_route = |redis: &Redis| {
        wait_for("bob has a route", || (redis.cli(&["HLEN", &routes_of_bob]) == "1").then_some(()));
    };

    // Bob asks the wrong gateway, is sent to his own, and is found by the route: the other one hears nothing of what is for him.
    let mut bob = Tail::start(bob_name, &here.server);
    here.wait_complete();
    there.wait_complete();
    has_route(&redis);
    send("by the route");
    bob.wait("by the route");
    assert_eq!(here.missed(), 0.0);
    assert_eq!(there.metric("roost_gateway_sessions"), 1.0);

    // Flushed: the gateways write everything again.
    assert_eq!(redis.cli(&["FLUSHALL"]), "OK");
    send("after the flush");
    bob.wait("after the flush");
    has_route(&redis);

    // Away: every gateway gets everything.
    redis.kill();
    let before = here.missed();
    send("without Redis");
    bob.wait("without Redis");
    assert!(here.missed() > before, "it went to the gateway without bob as well");

    // Back and empty: by the route again.
    redis.restart();
    has_route(&redis);
    let mut number = 0;
    wait_for("deliveries go by the route again", || {
        let before = here.missed();
        number += 1;
        let text = format!("message {number} after the restart");
        send(&text);
        bob.wait(&text);
        (here.missed() == before).then_some(())
    });
    wait_for("the sender's routes ended with her sessions", || {
        (redis.cli(&["HLEN", &routes_of_alice]) == "0").then_some(())
    });

    // A dead gateway: what comes back clears its routes. When it lives again its clients have theirs.
    drop(second);
    let stale = redis.cli(&["HVALS", &routes_of_bob]);
    wait_for("a delivery comes back", || {
        // Until the broker has noticed the death it takes them.
        send("to a dead gateway");
        redis.cli(&["HGET", "roost:gateways", "gw-2"]).contains(" gone ").then_some(())
    });
    let _second = Tier::start("gateway", &there.file);
    // Bob's client comes back by itself, in its own time.
    bob.wait_at_most(DEADLINE, "to a dead gateway");
    there.wait_complete();
    wait_for("bob has a new route", || {
        (redis.cli(&["HVALS", &routes_of_bob]) != stale).then_some(())
    });
    send("to a living one");
    bob.wait("to a living one");
}
