//! A gateway and a logic process, each on its own, exchange messages through a real RabbitMQ.

mod support;

use std::process::Stdio;

use roost_testing::RabbitMq;
use roost_testing::host::Port;
use support::tiers::{Tier, act, app, register};
use support::{roost, run_fails, run_ok};

#[test]
fn messages_cross_the_broker_and_survive_each_tier() {
    let broker = RabbitMq::start();
    let folder = tempfile::tempdir().unwrap();
    let (http, frames, admin) = (Port::free(), Port::free(), Port::free());
    let server = format!("127.0.0.1:{}", frames.number());
    let file = folder.path().join("roost.toml");
    let text = format!(
        "[bus]\nurl = {:?}\npartitions = 8\n\
         [cluster]\ngateways = [\"gw-1={server}\"]\n\
         [gateway]\nlisten = [{server:?}]\nadmin_listen = \"127.0.0.1:{}\"\nshards = 1\n\
         [logic]\nhttp_listen = \"127.0.0.1:{}\"\ndata_dir = {:?}\n{}",
        broker.url(),
        admin.number(),
        http.number(),
        folder.path().join("data"),
        app(),
    );
    std::fs::write(&file, text).unwrap();
    let logic = Tier::start("logic", &file);
    let gateway = Tier::start("gateway", &file);
    register(http.number(), &["alice", "bob"]);
    let sent = run_ok(act("send", "alice", &server, &["--to", "bob", "hello over the broker"]));
    assert!(sent.contains("acked conversation=s:alice:bob seq=1"), "{sent}");
    let mut tail = act("tail", "bob", &server, &["--from-start", "--count", "2"]);
    let tail = tail.stdout(Stdio::piped()).spawn().expect("roost tail starts");

    // Logic dies and comes back; the gateway goes on with the same clients.
    drop(logic);
    let logic = Tier::start("logic", &file);
    let sent = run_ok(act("send", "alice", &server, &["--to", "bob", "and again"]));
    assert!(sent.contains("seq=2"), "{sent}");
    let seen = tail.wait_with_output().expect("roost tail ends");
    let seen = String::from_utf8_lossy(&seen.stdout);
    assert!(seen.contains("hello over the broker") && seen.contains("and again"), "{seen}");

    // A second gateway of the same name is told so and never listens.
    let other = std::fs::read_to_string(&file).unwrap();
    let (frames, admin2) = (Port::free(), Port::free());
    let other = other
        .replace(
            &format!("listen = [{server:?}]"),
            &format!("listen = [\"127.0.0.1:{}\"]", frames.number()),
        )
        .replace(
            &format!("admin_listen = \"127.0.0.1:{}\"", admin.number()),
            &format!("admin_listen = \"127.0.0.1:{}\"", admin2.number()),
        );
    let second = folder.path().join("second.toml");
    std::fs::write(&second, other).unwrap();
    let mut command = roost();
    command.args(["gateway", "--config"]).arg(&second).env("ROOST_BUS__NAME_WAIT_MS", "300");
    run_fails(command, 1, &["\"gw-1\" is taken", "gateway.name"]);
    drop((logic, gateway));
}
