//! Membership in a real etcd: see the stories.

mod registry;

use registry::{Server, nobody, refused};
use roost_membership::{MembershipConfig, RegistryKind};
use roost_testing::{Etcd, Redis};

impl Server for Etcd {
    fn config(&self) -> MembershipConfig {
        let (kind, endpoints) = (RegistryKind::Etcd, vec![self.url()]);
        MembershipConfig { kind, endpoints, ..Default::default() }
    }
    fn kill(&mut self) {
        Etcd::kill(self);
    }
    fn restart(&mut self) {
        Etcd::restart(self);
    }
    fn pause(&self) {
        Etcd::pause(self);
    }
    fn resume(&self) {
        Etcd::resume(self);
    }
}

#[test]
fn member_process() {
    registry::be_a_member();
}

#[test]
fn members_come_and_go() {
    registry::members_come_and_go(&Etcd::start());
}

#[test]
fn leases_end() {
    registry::leases_end(&Etcd::start());
}

#[test]
fn a_name_has_one_gateway() {
    registry::a_name_has_one_gateway(&Etcd::start());
}

#[test]
fn the_ring_survives_a_dead_registry() {
    registry::the_ring_survives_a_dead_registry(&mut Etcd::start());
}

/// Tokens of accounts do not survive a restart.
#[test]
fn the_ring_survives_a_dead_registry_with_accounts() {
    let mut server = WithAccounts(Etcd::start());
    server.0.add_accounts();
    registry::the_ring_survives_a_dead_registry(&mut server);
}

#[test]
fn the_ring_survives_a_registry_that_stood_still() {
    registry::the_ring_survives_a_registry_that_stood_still(&Etcd::start());
}

struct WithAccounts(Etcd);

impl Server for WithAccounts {
    fn config(&self) -> MembershipConfig {
        let (user, password) = ("root".to_owned(), "roost".to_owned());
        MembershipConfig { user, password, ..self.0.config() }
    }
    fn kill(&mut self) {
        self.0.kill();
    }
    fn restart(&mut self) {
        self.0.restart();
    }
    fn pause(&self) {
        self.0.pause();
    }
    fn resume(&self) {
        self.0.resume();
    }
}

/// The first endpoint that answers is used, and what answers none of the questions is named.
#[test]
fn what_cannot_be_used_is_said_at_start() {
    let mut server = Etcd::start();
    let config = server.config();
    let (_port, dead) = nobody("http://");
    let both = MembershipConfig { endpoints: vec![dead.clone(), server.url()], ..config.clone() };
    roost_membership::Registry::follow(&both).expect("the second endpoint answers").leave();
    let away = MembershipConfig { endpoints: vec![dead.clone()], ..config.clone() };
    refused(&away, &["no server answers", &dead, "refused"]);
    let redis = Redis::start();
    let other = redis.url().replace("redis://", "http://").replace("/0", "");
    let other = MembershipConfig { endpoints: vec![other], ..config.clone() };
    refused(&other, &["127.0.0.1"]);
    let unknown = |user: &str| MembershipConfig {
        user: user.to_owned(),
        password: "wrong".to_owned(),
        ..config.clone()
    };
    refused(&unknown("root"), &["not enabled", "leave membership.user"]);
    server.add_accounts();
    refused(&config, &["wants credentials", "membership.user"]);
    refused(&unknown("root"), &["check membership.user and membership.password"]);
    server.ctl(&["user", "add", "nobody:wrong"]);
    refused(&unknown("nobody"), &["permission denied", "membership.prefix"]);
}
