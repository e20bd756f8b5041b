//! A broker is there when it says so, survives a kill with its ports and data, and is gone with its value.

use std::net::TcpStream;

use roost_testing::RabbitMq;

#[test]
fn starts_restarts_and_leaves_nothing() {
    let mut broker = RabbitMq::start();
    let address = broker.url();
    broker.ctl(&["add_vhost", "kept"]);
    broker.kill();
    broker.restart();
    assert_eq!(broker.url(), address);
    assert!(broker.ctl(&["list_vhosts"]).contains("kept"));
    let port = address.trim_end_matches("/%2f").rsplit(':').next().and_then(|p| p.parse().ok());
    let port: u16 = port.expect("a port");
    assert!(TcpStream::connect(("127.0.0.1", port)).is_ok());
    drop(broker);
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err(), "nothing listens any more");
}
