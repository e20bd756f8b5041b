//! A registry of members is there when it says so, survives a kill with its port and data, and is gone with its value.

use std::net::TcpStream;

use roost_testing::{Etcd, ZooKeeper};

#[test]
fn etcd_restarts_and_leaves_nothing() {
    let mut server = Etcd::start();
    let url = server.url();
    server.ctl(&["put", "kept", "7"]);
    server.kill();
    server.restart();
    assert_eq!(server.url(), url);
    assert_eq!(server.ctl(&["get", "kept", "--print-value-only"]), "7");
    drop(server);
    let address = url.trim_start_matches("http://");
    assert!(TcpStream::connect(address).is_err(), "nothing listens any more");
}

#[test]
fn zookeeper_restarts_and_leaves_nothing() {
    let mut server = ZooKeeper::start();
    let address = server.address();
    server.kill();
    server.restart();
    assert_eq!(server.address(), address);
    drop(server);
    assert!(TcpStream::connect(address).is_err(), "nothing listens any more");
}
