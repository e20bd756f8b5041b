//! A database server is there when it says so, survives a kill with its port and data, and is gone with its value.

use std::net::TcpStream;

use roost_testing::{MariaDb, PostgreSql};

fn port(url: &str) -> u16 {
    let (address, _) = url.rsplit_once('/').expect("a path");
    address.rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port")
}

#[test]
fn mariadb_restarts_and_leaves_nothing() {
    let mut server = MariaDb::start();
    let url = server.url("kept");
    server.sql("CREATE DATABASE kept; CREATE TABLE kept.rows (row_id INT); INSERT INTO kept.rows VALUES (7)");
    server.kill();
    server.restart();
    assert_eq!(server.url("kept"), url);
    assert_eq!(server.sql("SELECT row_id FROM kept.rows").trim(), "7");
    drop(server);
    assert!(TcpStream::connect(("127.0.0.1", port(&url))).is_err(), "nothing listens any more");
}

#[test]
fn postgresql_restarts_and_leaves_nothing() {
    let mut server = PostgreSql::start();
    let url = server.url("postgres");
    server.sql("CREATE TABLE kept AS SELECT 7 AS row_id");
    server.kill();
    server.restart();
    assert_eq!(server.url("postgres"), url);
    assert_eq!(server.sql("SELECT row_id FROM kept").trim(), "7");
    drop(server);
    assert!(TcpStream::connect(("127.0.0.1", port(&url))).is_err(), "nothing listens any more");
}
