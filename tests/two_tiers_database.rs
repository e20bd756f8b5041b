//! Two tiers over a database server, which is killed while a message is on its way.

mod support;

use std::path::Path;
use std::process::Stdio;

use roost_testing::host::Port;
use roost_testing::{MariaDb, PostgreSql, RabbitMq};
use support::tiers::{Tier, act, app, register};
use support::{roost, run_fails, run_ok};

fn write_configuration(file: &Path, broker: &RabbitMq, ports: [&Port; 3], store: &str) {
    let [http, frames, admin] = ports.map(Port::number);
    let text = format!(
        "[bus]\nurl = {:?}\npartitions = 8\n\
         [cluster]\ngateways = [\"gw-1=127.0.0.1:{frames}\"]\n\
         [gateway]\nlisten = [\"127.0.0.1:{frames}\"]\nadmin_listen = \"127.0.0.1:{admin}\"\nshards = 1\n\
         [logic]\nhttp_listen = \"127.0.0.1:{http}\"\ndata_dir = {:?}\n\
         [logic.store]\nurl = {store:?}\n\
         {}",
        broker.url(),
        file.with_extension("data"),
        app(),
    );
    std::fs::write(file, text).unwrap();
}

/// Two tiers over a database server, which is killed and restarted while a message is on its way.
fn survives_its_database(
    url: &str,
    wrong_url: &str,
    mut kill: impl FnMut(),
    mut restart: impl FnMut(),
) {
    let broker = RabbitMq::start();
    let folder = tempfile::tempdir().unwrap();
    let (http, frames, admin) = (Port::free(), Port::free(), Port::free());
    let server = format!("127.0.0.1:{}", frames.number());
    let file = folder.path().join("roost.toml");

    // Wrong credentials are named; then the schema is made, and once more is no change.
    write_configuration(&file, &broker, [&http, &frames, &admin], wrong_url);
    let migrate = || {
        let mut command = roost();
        command.args(["logic", "migrate", "--config"]).arg(&file);
        command
    };
    run_fails(migrate(), 1, &["ROOST_LOGIC__STORE__PASSWORD", "logic.store.url"]);
    write_configuration(&file, &broker, [&http, &frames, &admin], url);
    assert!(run_ok(migrate()).contains("made, schema"));
    assert!(run_ok(migrate()).contains("up to date, schema"));

    let logic = Tier::start("logic", &file);
    let gateway = Tier::start("gateway", &file);
    register(http.number(), &["alice", "bob"]);
    let sent = run_ok(act("send", "alice", &server, &["--to", "bob", "before"]));
    assert!(sent.contains("acked conversation=s:alice:bob seq=1"), "{sent}");

    kill();
    let mut sending = act("send", "alice", &server, &["--to", "bob", "while it was away"]);
    let sending = sending.stdout(Stdio::piped()).spawn().expect("roost send starts");
    restart();
    let sent = sending.wait_with_output().expect("roost send ends");
    let sent = String::from_utf8_lossy(&sent.stdout);
    assert!(sent.contains("acked conversation=s:alice:bob seq=2"), "{sent}");
    let seen = run_ok(act("tail", "bob", &server, &["--from-start", "--count", "2"]));
    assert!(seen.contains("before") && seen.contains("while it was away"), "{seen}");
    drop((logic, gateway));
}

#[test]
fn mariadb_is_killed_under_two_tiers() {
    let database = std::cell::RefCell::new(MariaDb::start());
    database.borrow().sql("CREATE DATABASE roost");
    let url = database.borrow().url("roost");
    let wrong = url.replace("roost:roost@", "roost:wrong@");
    survives_its_database(
        &url,
        &wrong,
        || database.borrow_mut().kill(),
        || database.borrow_mut().restart(),
    );
}

#[test]
fn postgresql_is_killed_under_two_tiers() {
    let database = std::cell::RefCell::new(PostgreSql::start());
    let url = database.borrow().url("postgres");
    let wrong = url.replace("roost:roost@", "roost:wrong@");
    survives_its_database(
        &url,
        &wrong,
        || database.borrow_mut().kill(),
        || database.borrow_mut().restart(),
    );
}
