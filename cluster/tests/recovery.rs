//! Redis and the registry may be away: nobody is refused, nobody is dropped, nothing is lost. Times are for benchmarks, not judged here.

mod support;

use clap::Parser as _;
use roost_cluster::command::{self, Arguments};

use support::{free_port_base, roost};

#[track_caller]
fn check(specific: &[&str]) {
    let base = free_port_base().to_string();
    let common = ["--untimed", "--users", "60", "--rate", "200", "--calm", "2", "--away", "20"];
    let arguments = ["roost-cluster", "recovery", "--port-base", &base];
    let arguments = arguments.iter().chain(&common).chain(specific);
    command::run_with(&Arguments::parse_from(arguments), &roost()).unwrap();
}

#[test]
fn redis_and_etcd_may_be_away() {
    check(&["--only", "redis,registry", "--registry-away", "20"]);
}

#[test]
fn zookeeper_may_be_away() {
    check(&["--only", "registry", "--membership", "zookeeper", "--registry-away", "20"]);
}
