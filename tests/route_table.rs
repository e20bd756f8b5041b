//! Two gateways send users to where they belong, and deliveries find them by the route table: also when Redis is flushed, killed, empty again,
//! or a gateway is dead.

mod support;

use std::path::Path;

use roost_membership::{Member, Ring};
use roost_testing::host::Port;
use roost_testing::{RabbitMq, Redis};
use support::cluster::{Gateway, Tail};
use support::tiers::{Tier, act, app, register};
use support::{DEADLINE, run_ok, wait_for};

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

fn write_configurations(
    gateways: &[Gateway; 2],
    broker: &RabbitMq,
    redis: &Redis,
    folder: &Path,
    http: &Port,
) {
    for gateway in gateways {
        let text = format!(
            "[bus]\nurl = {:?}\npartitions = 4\n\
             [cluster]\ngateways = [\"gw-1={}\", \"gw-2={}\"]\nredirect = true\n\
             [routes]\nurl = {:?}\ngateway_lease_ms = 2000\npause_ms = 20\nresponse_timeout_ms = 2000\n\
             {}[logic]\nhttp_listen = \"127.0.0.1:{}\"\ndata_dir = {:?}\n{}",
            broker.url(),
            gateways[0].server,
            gateways[1].server,
            redis.url(),
            gateway.table(),
            http.number(),
            folder.join("data"),
            app(),
        );
        std::fs::write(&gateway.file, text).unwrap();
    }
}

/// Alice belongs to the first gateway and sends, bob to the second and receives.
struct Scene {
    redis: Redis,
    here: Gateway,
    there: Gateway,
    alice: &'static str,
    bob_name: &'static str,
    bob: Tail,
}

impl Scene {
    fn send(&self, text: &str) {
        run_ok(act("send", self.alice, &self.here.server, &["--to", self.bob_name, text]));
    }

    fn has_route(&self) {
        let routes = routes_of(self.bob_name);
        wait_for("bob has a route", || (self.redis.cli(&["HLEN", &routes]) == "1").then_some(()));
    }

    /// Bob asked the wrong gateway, was sent to his own, and is found by the route: the other one hears nothing of what is for him.
    fn by_the_route(&mut self) {
        self.here.wait_complete();
        self.there.wait_complete();
        self.has_route();
        self.send("by the route");
        self.bob.wait("by the route");
        assert_eq!(self.here.missed(), 0.0);
        assert_eq!(self.there.sessions(), 1);
    }

    /// The gateways write everything again.
    fn after_a_flush(&mut self) {
        assert_eq!(self.redis.cli(&["FLUSHALL"]), "OK");
        self.send("after the flush");
        self.bob.wait("after the flush");
        self.has_route();
    }

    /// Every gateway gets everything.
    fn without_redis(&mut self) {
        self.redis.kill();
        let before = self.here.missed();
        self.send("without Redis");
        self.bob.wait("without Redis");
        assert!(self.here.missed() > before, "it went to the gateway without bob as well");
    }

    /// By the route again.
    fn back_and_empty(&mut self) {
        self.redis.restart();
        self.has_route();
        let mut number = 0;
        wait_for("deliveries go by the route again", || {
            let before = self.here.missed();
            number += 1;
            let text = format!("message {number} after the restart");
            self.send(&text);
            self.bob.wait(&text);
            (self.here.missed() == before).then_some(())
        });
        let routes = routes_of(self.alice);
        wait_for("the sender's routes ended with her sessions", || {
            (self.redis.cli(&["HLEN", &routes]) == "0").then_some(())
        });
    }

    /// What comes back clears a dead gateway's routes. When it lives again its clients have theirs.
    fn a_dead_gateway(&mut self, second: Tier) {
        drop(second);
        let routes = routes_of(self.bob_name);
        let stale = self.redis.cli(&["HVALS", &routes]);
        wait_for("a delivery comes back", || {
            // Until the broker has noticed the death it takes them.
            self.send("to a dead gateway");
            self.redis.cli(&["HGET", "roost:gateways", "gw-2"]).contains(" gone ").then_some(())
        });
        let _second = Tier::start("gateway", &self.there.file);
        // Bob's client comes back by itself, in its own time.
        self.bob.wait_at_most(DEADLINE, "to a dead gateway");
        self.there.wait_complete();
        wait_for("bob has a new route", || {
            (self.redis.cli(&["HVALS", &routes]) != stale).then_some(())
        });
        self.send("to a living one");
        self.bob.wait("to a living one");
    }
}

#[test]
fn deliveries_find_their_gateway_whatever_happens_to_redis() {
    let (broker, redis) = (RabbitMq::start(), Redis::start());
    let folder = tempfile::tempdir().unwrap();
    let http = Port::free();
    let gateways = ["gw-1", "gw-2"].map(|name| Gateway::new(name, folder.path()));
    write_configurations(&gateways, &broker, &redis, folder.path(), &http);
    let [here, there] = gateways;
    let _logic = Tier::start("logic", &here.file);
    let _here = Tier::start("gateway", &here.file);
    let second = Tier::start("gateway", &there.file);
    let (alice, bob_name) = (user_of("gw-1"), user_of("gw-2"));
    register(http.number(), &[alice, bob_name]);
    let bob = Tail::start(bob_name, &here.server);
    let mut scene = Scene { redis, here, there, alice, bob_name, bob };
    scene.by_the_route();
    scene.after_a_flush();
    scene.without_redis();
    scene.back_and_empty();
    scene.a_dead_gateway(second);
}
