//! `roost logic` tells the operator which dependency is missing, and while the way to the broker is interrupted HTTP requests are told so at once.

mod support;

use std::time::{Duration, Instant};

use roost_testing::host::Port;
use roost_testing::{Etcd, RabbitMq, Redis};
use support::tiers::{Tier, register};
use support::{get, metric, wait_for};

const API_KEY: &str = "the API key of the shop's own server, long enough";

/// Status and body of POST /v1/messages from alice to bob.
fn send(http: &Port, text: &str) -> (u16, String) {
    let agent: ureq::Agent =
        ureq::Agent::config_builder().http_status_as_error(false).build().into();
    let url = format!("http://127.0.0.1:{}/v1/messages", http.number());
    let message = serde_json::json!({
        "sender": "alice",
        "to_user": "bob",
        "client_msg_id": format!("{:032x}", fastrand::u128(..)),
        "text": text,
    });
    let request = agent.post(url).header("authorization", format!("Bearer {API_KEY}"));
    let mut answer = request.send_json(&message).expect("an answer");
    (answer.status().as_u16(), answer.body_mut().read_to_string().expect("text"))
}

#[test]
fn logic_names_what_is_missing() {
    let (mut broker, mut redis, mut etcd) = (RabbitMq::start(), Redis::start(), Etcd::start());
    let folder = tempfile::tempdir().unwrap();
    let (http, admin) = (Port::free(), Port::free());
    let file = folder.path().join("roost.toml");
    let text = format!(
        "[bus]\nurl = {:?}\npartitions = 4\n[routes]\nurl = {:?}\npause_ms = 50\n\
         [membership]\nkind = \"etcd\"\nendpoints = [{:?}]\n\
         [logic]\nhttp_listen = \"127.0.0.1:{}\"\ndata_dir = {:?}\n[logic.http]\nsend_timeout_ms = 500\n\
         [[logic.apps]]\nid = \"shop\"\napi_keys = [{API_KEY:?}]\n",
        broker.url(),
        redis.url(),
        etcd.url(),
        http.number(),
        folder.path().join("data"),
    );
    std::fs::write(&file, text).unwrap();
    let _logic = Tier::start_with("logic", &file, admin.number());
    let admin = |path: &str| format!("http://127.0.0.1:{}{path}", admin.number());
    let report = || {
        let agent: ureq::Agent =
            ureq::Agent::config_builder().http_status_as_error(false).build().into();
        let mut answer = agent.get(admin("/readyz?verbose")).call().expect("an answer");
        let text = answer.body_mut().read_to_string().expect("text");
        (answer.status().as_u16(), text)
    };
    let wait_report = |status: u16, line: &str| {
        wait_for(&format!("{status} with {line:?}"), || {
            let (found, text) = report();
            (found == status && text.contains(line)).then_some(())
        });
    };
    register(http.number(), &["alice", "bob"]);
    assert_eq!(send(&http, "one").0, 200);
    let (status, text) = report();
    assert_eq!(status, 200, "{text}");
    for part in ["database: ok", "bus: ok", "redis_routes: closed", "membership: etcd, members: 0"]
    {
        assert!(text.contains(&format!("[ok ] {part}")), "{part} in {text}");
    }
    assert!(get(&admin("/metrics")).ends_with("# EOF\n"));
    for name in ["roost_bus_confirm_seconds_count", "roost_logic_commit_seconds_count"] {
        assert!(metric(&admin("/metrics"), name) > 0.0, "{name}");
    }

    // Without Redis everything goes on.
    redis.kill();
    assert_eq!(send(&http, "two").0, 200);
    wait_report(200, "[-- ] redis_routes: ");
    redis.restart();
    wait_for("Redis is asked again", || {
        assert_eq!(send(&http, "three").0, 200);
        report().1.contains("[ok ] redis_routes: closed").then_some(())
    });
    assert!(
        metric(&admin("/metrics"), "roost_breaker_opened_total{breaker=\"redis_routes\"}") >= 1.0
    );

    // Without the registry, too.
    assert!(get(&admin("/metrics")).contains("roost_membership_connected 1"));
    etcd.kill();
    wait_report(200, "[-- ] membership: etcd: ");
    etcd.restart();
    wait_report(200, "[ok ] membership: etcd, members: 0");

    // Without the broker nothing does: the first requests wait for their answer, others are told at once.
    broker.kill();
    wait_report(503, "[BAD] bus: no connection to the broker");
    let told = wait_for("the breaker opens", || {
        let started = Instant::now();
        let (status, text) = send(&http, "four");
        assert!(status == 503 || status == 504, "{status} {text}");
        text.contains("nothing was sent").then_some((started.elapsed(), text))
    });
    assert!(told.0 < Duration::from_millis(500), "not after the timeout: {:?}", told.0);
    assert!(told.1.contains("\"unavailable\""), "{}", told.1);
    broker.restart();
    wait_report(200, "[ok ] bus: ok");
    wait_for("messages pass again", || (send(&http, "five").0 == 200).then_some(()));
    wait_report(200, "[ok ] http_to_bus: closed");
}
