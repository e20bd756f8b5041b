//! A cluster whose processes are killed, stopped, cut off, flushed and purged under load keeps every promise: each kind of process is killed
//! five times with effect, every other kind of fault takes effect at least once.

mod support;

use clap::Parser as _;
use roost_cluster::command::{self, Arguments};

use support::{free_port_base, roost};

#[test]
fn a_broken_cluster_loses_and_repeats_nothing() {
    let base = free_port_base().to_string();
    let arguments = ["roost-cluster", "chaos", "--minutes", "0.5", "--kills", "5", "--logic", "2"];
    let arguments = arguments.into_iter().chain(["--port-base", &base]);
    let arguments = Arguments::parse_from(arguments);
    command::run_with(&arguments, &roost()).unwrap();
}
