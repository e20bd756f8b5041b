//! A cluster whose processes are killed, stopped, cut off, slowed down, misdated and flushed under load keeps every promise: each kind of process
//! is killed five times with effect, every other kind of fault takes effect at least once, and two take effect at the same time.

mod support;

use clap::Parser as _;
use roost_cluster::command::{self, Arguments};

use support::{free_port_base, roost};

#[track_caller]
fn check(arguments: &[&str]) {
    let base = free_port_base().to_string();
    let arguments = ["roost-cluster", "chaos"].iter().chain(arguments);
    let arguments = Arguments::parse_from(arguments.chain(&["--port-base", &base]));
    command::run_with(&arguments, &roost()).unwrap();
}

#[test]
fn a_broken_cluster_loses_and_repeats_nothing() {
    check(&["--minutes", "2.5", "--kills", "5", "--rate", "1000", "--messages", "200000"]);
}

#[test]
fn nor_with_zookeeper() {
    let few = ["--only", "kill,pause,partition", "--kills", "1"];
    check(&[&["--membership", "zookeeper", "--minutes", "0.3"], few.as_slice()].concat());
}
