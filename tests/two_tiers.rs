//! A gateway and a logic process, each on its own, exchange messages through a real RabbitMQ.

mod support;

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use roost_testing::RabbitMq;
use roost_testing::host::Port;
use support::{roost, run_fails, run_ok};

const SECRET: &str = "the secret of the shop's own server, long enough";

/// A process of one tier, killed when the test ends.
struct Tier(Child);

impl Drop for Tier {
    fn drop(&mut self) {
        _ = self.0.kill();
        _ = self.0.wait();
    }
}

impl Tier {
    fn start(tier: &str, config: &Path) -> Self {
        let mut command = roost();
        command.args([tier, "--config"]).arg(config).stdout(Stdio::piped());
        let mut child = command.spawn().expect("roost starts");
        let output = BufReader::new(child.stdout.take().expect("piped"));
        let started = Self(child);
        let mut lines = output.lines().map_while(Result::ok);
        assert!(lines.any(|line| line == "ready"), "{tier} ended without being ready");
        started
    }
}

fn token(user: &str) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    let mut header = jsonwebtoken::Header::new(jsonwebtoken::Algorithm::HS256);
    header.kid = Some("shop-1".to_owned());
    let claims = serde_json::json!({"app": "shop", "sub": user, "iat": now, "exp": now + 600});
    let key = jsonwebtoken::EncodingKey::from_secret(SECRET.as_bytes());
    jsonwebtoken::encode(&header, &claims, &key).expect("a token")
}

fn act(verb: &str, user: &str, server: &str, rest: &[&str]) -> std::process::Command {
    let mut command = roost();
    command.args([verb, "--as", user, "--server", server]).args(rest);
    command.env("ROOST_TOKEN", token(user));
    command
}

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
         [logic]\nhttp_listen = \"127.0.0.1:{}\"\ndata_dir = {:?}\n\
         [[logic.apps]]\nid = \"shop\"\n[[logic.apps.keys]]\nid = \"shop-1\"\nalgorithm = \"HS256\"\nsecret = {SECRET:?}\n",
        broker.url(),
        admin.number(),
        http.number(),
        folder.path().join("data"),
    );
    std::fs::write(&file, text).unwrap();
    let logic = Tier::start("logic", &file);
    let gateway = Tier::start("gateway", &file);
    for user in ["alice", "bob"] {
        let account = serde_json::json!({"app": "shop", "user": user, "password": "correct horse"});
        let url = format!("http://127.0.0.1:{}/v1/register", http.number());
        ureq::post(url).send_json(&account).expect("an account");
    }
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
