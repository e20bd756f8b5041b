//! Membership in a real ZooKeeper: see the stories.

mod registry;

use registry::{Server, nobody, refused};
use roost_membership::{MembershipConfig, Registry, RegistryKind};
use roost_testing::{Redis, ZooKeeper};

impl Server for ZooKeeper {
    fn config(&self) -> MembershipConfig {
        let (kind, endpoints) = (RegistryKind::ZooKeeper, vec![self.address()]);
        MembershipConfig { kind, endpoints, ..Default::default() }
    }
    fn kill(&mut self) {
        ZooKeeper::kill(self);
    }
    fn restart(&mut self) {
        ZooKeeper::restart(self);
    }
    fn pause(&self) {
        ZooKeeper::pause(self);
    }
    fn resume(&self) {
        ZooKeeper::resume(self);
    }
}

#[test]
fn member_process() {
    registry::be_a_member();
}

#[test]
fn members_come_and_go() {
    registry::members_come_and_go(&ZooKeeper::start());
}

#[test]
fn leases_end() {
    registry::leases_end(&ZooKeeper::start());
}

#[test]
fn a_name_has_one_gateway() {
    registry::a_name_has_one_gateway(&ZooKeeper::start());
}

#[test]
fn the_ring_survives_a_dead_registry() {
    registry::the_ring_survives_a_dead_registry(&mut ZooKeeper::start());
}

#[test]
fn the_ring_survives_a_registry_that_stood_still() {
    registry::the_ring_survives_a_registry_that_stood_still(&ZooKeeper::start());
}

/// The first server that answers is used, and what answers none of the questions is named.
#[test]
fn what_cannot_be_used_is_said_at_start() {
    let server = ZooKeeper::start();
    let config = server.config();
    let (_port, dead) = nobody("");
    let both = vec![dead.clone(), server.address()];
    let both = MembershipConfig { endpoints: both, ..config.clone() };
    Registry::follow(&both).expect("the second server answers").leave();
    let away = MembershipConfig { endpoints: vec![dead.clone()], ..config.clone() };
    refused(&away, &["no server answers", &dead]);
    let redis = Redis::start();
    let other = redis.url().replace("redis://", "").replace("/0", "");
    refused(&MembershipConfig { endpoints: vec![other.clone()], ..config.clone() }, &[&other]);
    let account = |password: &str| MembershipConfig {
        user: "roost".to_owned(),
        password: password.to_owned(),
        prefix: "/closed".to_owned(),
        ..config.clone()
    };
    Registry::follow(&account("right")).expect("it makes the prefix its own").leave();
    Registry::follow(&account("right")).expect("and may use it").leave();
    let advice = ["not authorized", "membership.user and membership.password"];
    refused(&account("wrong"), &advice);
    refused(&MembershipConfig { prefix: "/closed".to_owned(), ..config.clone() }, &advice);
}
