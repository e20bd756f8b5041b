//! Tokens of `/v1/login` of a logic process are accepted by a gateway in a process of its own: also when the gateway was there first, when
//! logic signs with another key, and, with the last keys, while logic is away.

mod support;

use std::process::{Command, Stdio};

use roost_testing::RabbitMq;
use roost_testing::host::Port;
use support::tiers::{Tier, login, register};
use support::{get, metric, roost, run_ok, wait_for};

fn act(verb: &str, user: &str, token: &str, server: &str, rest: &[&str]) -> Command {
    let mut command = roost();
    command.args([verb, "--as", user, "--server", server]).args(rest).env("ROOST_TOKEN", token);
    command
}

#[test]
fn a_login_over_http_connects_at_a_gateway() {
    let broker = RabbitMq::start();
    let folder = tempfile::tempdir().unwrap();
    let (http, frames, admin) = (Port::free(), Port::free(), Port::free());
    let server = format!("127.0.0.1:{}", frames.number());
    let file = folder.path().join("roost.toml");
    let key = folder.path().join("data/signing-key.pem");
    // No key of an app: only logic's own tokens count.
    let text = format!(
        "[bus]\nurl = {:?}\npartitions = 4\n\
         [cluster]\ngateways = [\"gw-1={server}\"]\nlogic = [\"http://127.0.0.1:{}\"]\n\
         [gateway]\nlisten = [{server:?}]\nadmin_listen = \"127.0.0.1:{}\"\nshards = 1\n\
         [logic]\nhttp_listen = \"127.0.0.1:{}\"\ndata_dir = {:?}\n\
         [[logic.apps]]\nid = \"shop\"\n",
        broker.url(),
        http.number(),
        admin.number(),
        http.number(),
        folder.path().join("data"),
    );
    std::fs::write(&file, text).unwrap();
    let admin = |path: &str| format!("http://127.0.0.1:{}{path}", admin.number());

    // The gateway is first: nobody tells it keys yet, and it says so.
    let _gateway = Tier::start("gateway", &file);
    let is_ready = || ureq::get(admin("/readyz?verbose")).call().is_ok();
    wait_for("the gateway misses logic", || (!is_ready()).then_some(()));
    let logic = Tier::start("logic", &file);
    wait_for("the gateway has keys", || is_ready().then_some(()));
    assert!(get(&admin("/readyz?verbose")).contains("login keys: 1"));
    register(http.number(), &["alice", "bob"]);
    let (alice, bob) = (login(http.number(), "alice"), login(http.number(), "bob"));
    let sent = run_ok(act("send", "alice", &alice, &server, &["--to", "bob", "by login"]));
    assert!(sent.contains("acked conversation=s:alice:bob seq=1"), "{sent}");
    let seen = run_ok(act("tail", "bob", &bob, &server, &["--from-start", "--count", "1"]));
    assert!(seen.contains("by login"), "{seen}");

    // Logic is away: the last keys count. The session waits for logic's answers until it is back.
    drop(logic);
    let mut tail = act("tail", "bob", &bob, &server, &["--from-start", "--count", "2"]);
    let tail = tail.stdout(Stdio::piped()).spawn().expect("roost tail starts");
    wait_for("bob is connected", || {
        (metric(&admin("/metrics"), "roost_gateway_sessions") >= 1.0).then_some(())
    });

    // It comes back with another key, which the gateway learns from the first token that it signed.
    std::fs::remove_file(&key).unwrap();
    let _logic = Tier::start("logic", &file);
    let alice_again = login(http.number(), "alice");
    let sent =
        run_ok(act("send", "alice", &alice_again, &server, &["--to", "bob", "by another key"]));
    assert!(sent.contains("seq=2"), "{sent}");
    let seen = tail.wait_with_output().expect("roost tail ends");
    let seen = String::from_utf8_lossy(&seen.stdout);
    assert!(seen.contains("by another key"), "{seen}");
}
