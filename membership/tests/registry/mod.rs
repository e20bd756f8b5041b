//! What every registry must do, told as stories. Each adapter's test file runs all of them against its own server.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use roost_health::Level;
use roost_membership::{Member, MembershipConfig, Registry, RegistryError};
use roost_testing::Process;
use roost_testing::host::{Port, wait_until};

/// The shortest that is allowed.
const LEASE: Duration = Duration::from_secs(2);
/// Nothing here takes longer unless it is broken.
const DEADLINE: Duration = Duration::from_secs(30);
/// Tells a copy of the test program to be a member, and where.
const MEMBER: &str = "ROOST_TEST_MEMBER";

/// A real server of a registry.
pub(crate) trait Server {
    fn config(&self) -> MembershipConfig;
    fn kill(&mut self);
    fn restart(&mut self);
    fn pause(&self);
    fn resume(&self);
}

fn config(server: &dyn Server) -> MembershipConfig {
    MembershipConfig {
        lease: LEASE,
        response_timeout: Duration::from_millis(500),
        ..server.config()
    }
}

fn member(name: &str) -> Member {
    Member { name: name.into(), address: format!("{name}.example:7401").into(), weight: 3 }
}

fn join(server: &dyn Server, name: &str) -> Registry {
    let registry = Registry::join(&config(server), member(name)).expect("it joins");
    registry.open();
    registry
}

fn follow(server: &dyn Server) -> Registry {
    Registry::follow(&config(server)).expect("it follows")
}

/// `NAME:WEIGHT` of all members.
fn ring(registry: &Registry) -> String {
    let ring = registry.ring().load();
    let members = ring.members().iter();
    members.map(|m| format!("{}:{}", m.name, m.weight)).collect::<Vec<_>>().join(" ")
}

#[track_caller]
fn wait_ring(registry: &Registry, expected: &str) {
    wait_until(&format!("the ring is {expected:?}"), DEADLINE, || ring(registry) == expected);
}

fn metric(registry: &Registry, name: &str) -> u64 {
    let mut text = String::new();
    registry.status().encode(&mut text);
    let name = format!("roost_membership_{name} ");
    let value = text.lines().find_map(|line| line.strip_prefix(&name));
    value.and_then(|value| value.parse().ok()).expect("the metric")
}

/// A member that can be killed: a process. The test file has a test `member_process` that calls [`be_a_member`].
struct MemberProcess(Process);

impl MemberProcess {
    fn start(server: &dyn Server, name: &str) -> Self {
        let told = serde_json::json!({ "config": config(server), "name": name });
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        command.args(["--exact", "member_process"]).env(MEMBER, told.to_string());
        Self(Process::start(&command, Path::new("/dev/null")))
    }
}

/// Nothing, unless this process was started by [`MemberProcess`].
pub(crate) fn be_a_member() {
    let Ok(told) = std::env::var(MEMBER) else { return };
    let told: serde_json::Value = serde_json::from_str(&told).expect("what it is told");
    let config = serde_json::from_value(told["config"].clone()).expect("a configuration");
    let name = told["name"].as_str().expect("a name");
    let registry = Registry::join(&config, member(name)).expect("it joins");
    registry.open();
    loop {
        std::thread::park();
    }
}

/// A gateway has its name before it has users, and loses its users before its name.
pub(crate) fn members_come_and_go(server: &dyn Server) {
    let follower = follow(server);
    assert_eq!(ring(&follower), "");
    let first = Registry::join(&config(server), member("gw-1")).expect("it joins");
    assert_eq!(ring(&first), "gw-1:0");
    wait_ring(&follower, "gw-1:0");
    assert_eq!(follower.ring().load().owner("demo", "alice"), None);
    first.open();
    wait_ring(&follower, "gw-1:3");
    let second = join(server, "gw-2");
    wait_ring(&follower, "gw-1:3 gw-2:3");
    wait_ring(&first, "gw-1:3 gw-2:3");
    let address = follower.ring().load().member("gw-2").map(|m| Arc::clone(&m.address));
    assert_eq!(address.as_deref(), Some("gw-2.example:7401"));
    second.close();
    wait_ring(&first, "gw-1:3 gw-2:0");
    second.leave();
    wait_ring(&first, "gw-1:3");
    drop(first);
    wait_ring(&follower, "");
    assert_eq!(metric(&follower, "members"), 0);
    assert!(metric(&follower, "ring_changes_total") >= 6);
    assert_eq!(follower.status().check().level, Level::Well);
}

/// A crashed gateway is a member until its lease is over; then its name is free. A stopped one enters itself again.
pub(crate) fn leases_end(server: &dyn Server) {
    let follower = follow(server);
    let mut crashed = MemberProcess::start(server, "gw-1");
    let stopped = MemberProcess::start(server, "gw-2");
    wait_ring(&follower, "gw-1:3 gw-2:3");
    crashed.0.kill();
    let killed = Instant::now();
    // Its successor waits for what the crash left.
    let successor =
        Registry::join(&config(server), member("gw-1")).expect("the name is free again");
    let waited = killed.elapsed();
    assert!(waited > LEASE / 3, "only {waited:?} after the crash: no lease held the name");
    successor.open();
    wait_ring(&follower, "gw-1:3 gw-2:3");
    stopped.0.pause();
    wait_ring(&follower, "gw-1:3");
    stopped.0.resume();
    wait_ring(&follower, "gw-1:3 gw-2:3");
    assert_eq!(metric(&follower, "reconnects_total"), 0, "the registry was never away");
}

/// One name, one gateway: the second one does not start.
pub(crate) fn a_name_has_one_gateway(server: &dyn Server) {
    let first = join(server, "gw-1");
    let error = Registry::join(&config(server), member("gw-1")).expect_err("the name is taken");
    let text = error.to_string();
    assert!(matches!(error, RegistryError::NameTaken { .. }), "{text}");
    for part in ["\"gw-1\"", "gw-1.example:7401", "gateway.name"] {
        assert!(text.contains(part), "{text:?} should contain {part:?}");
    }
    wait_ring(&first, "gw-1:3");
    let bad = Member { address: "nowhere".into(), ..member("gw-3") };
    let error = Registry::join(&config(server), bad).expect_err("no address").to_string();
    assert!(error.contains("expected host:port"), "{error}");
}

/// While the registry is dead, and after it came back, the ring is what it was; who cannot prove its lease says so.
pub(crate) fn the_ring_survives_a_dead_registry(server: &mut dyn Server) {
    let (follower, first, second) = (follow(server), join(server, "gw-1"), join(server, "gw-2"));
    let all = [&follower, &first, &second];
    all.iter().for_each(|registry| wait_ring(registry, "gw-1:3 gw-2:3"));
    let changes = all.map(|registry| metric(registry, "ring_changes_total"));
    server.kill();
    wait_until("the lease is over", DEADLINE, || {
        first.ring().is_fenced() && second.ring().is_fenced() && !follower.status().is_connected()
    });
    assert!(!follower.ring().is_fenced(), "who has no lease loses none");
    let check = first.status().check();
    assert_eq!(check.level, Level::Degraded);
    assert!(check.text.contains("the last 2 members stay; the lease"), "{check:?}");
    server.restart();
    wait_until("all are back", DEADLINE, || {
        all.iter().all(|r| r.status().is_connected() && !r.ring().is_fenced())
    });
    assert_eq!(all.map(|registry| metric(registry, "ring_changes_total")), changes);
    assert_eq!(metric(&first, "reconnects_total"), 1);
    // And the list is followed again.
    second.leave();
    for registry in [&follower, &first] {
        wait_ring(registry, "gw-1:3");
    }
}

/// A registry that stood still for longer than a lease ends all leases when it goes on: nobody is taken out of the ring for that.
pub(crate) fn the_ring_survives_a_registry_that_stood_still(server: &dyn Server) {
    let (follower, first, second) = (follow(server), join(server, "gw-1"), join(server, "gw-2"));
    let all = [&follower, &first, &second];
    all.iter().for_each(|registry| wait_ring(registry, "gw-1:3 gw-2:3"));
    let changes = all.map(|registry| metric(registry, "ring_changes_total"));
    let paused = Instant::now();
    server.pause();
    wait_until("everybody notices, and leases are long over", DEADLINE, || {
        let are_away = all.iter().all(|registry| !registry.status().is_connected());
        are_away && first.ring().is_fenced() && paused.elapsed() > 2 * LEASE
    });
    server.resume();
    wait_until("all are back", DEADLINE, || {
        all.iter().all(|r| r.status().is_connected() && !r.ring().is_fenced())
    });
    assert_eq!(all.map(|registry| metric(registry, "ring_changes_total")), changes);
    // Who does not come back is given up one lease later.
    second.leave();
    wait_ring(&follower, "gw-1:3");
}

/// At start, a registry that cannot be used is an error that says so.
#[track_caller]
pub(crate) fn refused(config: &MembershipConfig, parts: &[&str]) {
    let error = Registry::follow(config).expect_err("it cannot be used").to_string();
    for part in parts {
        assert!(error.contains(part), "{error:?} should contain {part:?}");
    }
}

/// Where nobody listens.
pub(crate) fn nobody(scheme: &str) -> (Port, String) {
    let port = Port::free();
    let address = format!("{scheme}127.0.0.1:{}", port.number());
    (port, address)
}
