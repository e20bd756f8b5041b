//! A message's way is known while and after it happens: `roost trace` tells it in the order of time, from one process and from several,
//! and an OpenTelemetry collector gets it as one tree of spans.

mod support;

use std::collections::HashSet;
use std::process::Command;

use roost_testing::RabbitMq;
use roost_testing::host::Port;
use serde_json::Value;
use support::cluster::{Gateway, Tail};
use support::collector::{Collector, Exported};
use support::tiers::{Tier, act, app, register};
use support::{Options, Server, roost, run_fails, run_ok, tail, wait_for};

fn trace(id: &str, admin: &str, more: &[&str]) -> Command {
    let mut command = roost();
    command.args(["trace", id, "--admin", admin]).args(more);
    command
}

/// What `roost send --json` printed.
struct Sent {
    message_id: String,
    client_msg_id: String,
}

impl Sent {
    fn read(json: &str) -> Self {
        let sent: Value = serde_json::from_str(json).expect("a JSON object");
        Self {
            message_id: sent["message_id"].to_string(),
            client_msg_id: sent["client_msg_id"].as_str().expect("an id").to_owned(),
        }
    }
}

/// From alice to bob.
fn send(server: &Server, text: &str) -> Sent {
    let mut command = support::send(server, "alice", "bob", text);
    command.arg("--json");
    Sent::read(&run_ok(command))
}

/// `roost trace --json`, once its verdict says this.
fn wait_for_verdict(sent: &Sent, admin: &str, verdict: &str) -> Value {
    wait_for(verdict, || {
        let told = run_ok(trace(&sent.message_id, admin, &["--json"]));
        let told: Value = serde_json::from_str(&told).expect("a JSON object");
        told["verdict"].as_str().expect("a verdict").contains(verdict).then_some(told)
    })
}

fn hops(told: &Value) -> Vec<&str> {
    let passages = told["passages"].as_array().expect("passages");
    passages.iter().map(|passage| passage["hop"].as_str().expect("a hop")).collect()
}

#[track_caller]
fn assert_in_order(hops: &[&str], expected: &[&str]) {
    let mut rest = hops.iter();
    for hop in expected {
        assert!(rest.any(|found| found == hop), "{hop} is missing or out of order in {hops:?}");
    }
}

/// Whether the last span of a message is there, and every parent.
fn is_complete(spans: &[Exported]) -> bool {
    let ids: HashSet<&[u8]> = spans.iter().map(|e| &*e.span.span_id).collect();
    let mut parents = spans.iter().map(|e| &*e.span.parent_span_id);
    has(spans, "settle") && parents.all(|id| id.is_empty() || ids.contains(id))
}

/// One tree, with one root.
#[track_caller]
fn assert_is_tree(spans: &[Exported]) {
    let ids: HashSet<&[u8]> = spans.iter().map(|e| &*e.span.span_id).collect();
    assert_eq!(ids.len(), spans.len(), "each span has an id of its own");
    let roots: Vec<_> = spans.iter().filter(|e| e.span.parent_span_id.is_empty()).collect();
    assert_eq!(roots.len(), 1, "{roots:?}");
    assert_eq!(roots[0].span.name, "send");
    for Exported { span, .. } in spans {
        assert!(span.start_time_unix_nano <= span.end_time_unix_nano, "{}", span.name);
    }
}

#[track_caller]
fn span<'a>(spans: &'a [Exported], name: &str) -> &'a Exported {
    let found = spans.iter().find(|e| e.span.name == name);
    let names = || spans.iter().map(|e| e.span.name.as_str()).collect::<Vec<_>>();
    found.unwrap_or_else(|| panic!("{name} is missing in {:?}", names()))
}

fn has(spans: &[Exported], name: &str) -> bool {
    spans.iter().any(|e| e.span.name == name)
}

#[test]
fn one_process_tells_the_whole_way() {
    let collector = Collector::start();
    let folder = tempfile::tempdir().unwrap();
    let mut options = Options::new(folder.path());
    options.arguments = vec!["--otlp-endpoint".to_owned(), collector.endpoint.clone()];
    let server = Server::start(&options);
    let admin = server.admin().to_string();

    let offline = send(&server, "nobody is there");
    wait_for_verdict(&offline, &admin, "bob is offline");

    let mut bob = Tail::of(tail(&server, "bob", &["--from-start", "--device", "phone"]));
    bob.wait("nobody is there");
    let sent = send(&server, "hello");
    bob.wait("hello");
    let verdict = "acknowledged to its sender; pushed to 1 device, which has stored it";
    let told = wait_for_verdict(&sent, &admin, verdict);
    assert_eq!(told["client_msg_id"], sent.client_msg_id.as_str());
    let way = ["received", "published", "taken", "committed", "push_taken", "delivery_written"];
    assert_in_order(&hops(&told), &way);
    assert_in_order(&hops(&told), &["delivery_written", "device_acknowledged"]);
    assert_in_order(&hops(&told), &["committed", "answer_written"]);

    // The table says the same, under either id.
    for id in [&sent.message_id, &sent.client_msg_id] {
        let table = run_ok(trace(id, &admin, &[]));
        for part in ["since first", "committed", "s:alice:bob 2, database", "bob/phone", verdict] {
            assert!(table.contains(part), "{part:?} is missing in\n{table}");
        }
    }

    let spans =
        collector.wait(&sent.client_msg_id, |spans| is_complete(spans) && has(spans, "COMMIT"));
    assert_is_tree(&spans);
    let commit = span(&spans, "COMMIT");
    assert_eq!(commit.process, "roost dev");
    assert_eq!(commit.attribute("db.system.name").as_deref(), Some("sqlite"));
    assert_eq!(
        commit.attribute("messaging.message.conversation_id").as_deref(),
        Some("s:alice:bob")
    );
    assert_eq!(commit.attribute("roost.message_id"), Some(sent.message_id.clone()));
    assert_eq!(span(&spans, "settle").attribute("roost.device").as_deref(), Some("bob/phone"));
    let url = format!("http://{admin}/metrics");
    assert!(support::metric(&url, "roost_trace_spans_exported_total") >= spans.len() as f64);
    assert_eq!(support::metric(&url, "roost_trace_spans_failed_total"), 0.0);
}

#[test]
fn what_is_not_known_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let mut options = Options::new(folder.path());
    // Nobody listens there: the messages do not care.
    let closed = Port::free();
    let endpoint = format!("http://127.0.0.1:{}/v1/traces", closed.number());
    options.arguments = vec!["--otlp-endpoint".to_owned(), endpoint];
    let server = Server::start(&options);
    let admin = server.admin().to_string();
    let sent = send(&server, "hello");
    wait_for_verdict(&sent, &admin, "committed as s:alice:bob 1");
    let url = format!("http://{admin}/metrics");
    wait_for("the exporter gives up", || {
        (support::metric(&url, "roost_trace_spans_failed_total") > 0.0).then_some(())
    });

    run_fails(
        trace("12345", &admin, &[]),
        1,
        &["no process remembers", "dev dev remembers", "/v1/conversations"],
    );
    run_fails(trace("hello", &admin, &[]), 2, &["expected a message_id"]);
    let nobody = format!("127.0.0.1:{}", closed.number());
    run_fails(trace("12345", &nobody, &[]), 1, &[&nobody, "did not answer", "--admin"]);
    let http = server.http().to_string();
    run_fails(trace("12345", &http, &[]), 1, &["operator's endpoint"]);
    let output = support::run(trace(&sent.message_id, &format!("{nobody},{admin}"), &[]));
    assert!(output.status.success(), "one of two knows it");
    assert!(String::from_utf8_lossy(&output.stderr).contains("did not answer"));
    drop(server);

    let mut options = Options::new(folder.path());
    options.arguments = vec!["--trace-sample".to_owned(), "0".to_owned()];
    let server = Server::start(&options);
    let sent = send(&server, "untraced");
    let admin = server.admin().to_string();
    run_fails(trace(&sent.client_msg_id, &admin, &[]), 1, &["does not trace it", "trace.sample"]);
}

#[test]
fn several_processes_tell_one_way() {
    let broker = RabbitMq::start();
    let collector = Collector::start();
    let folder = tempfile::tempdir().unwrap();
    let (http, logic_admin) = (Port::free(), Port::free());
    let gateways = ["gw-1", "gw-2"].map(|name| Gateway::new(name, folder.path()));
    for gateway in &gateways {
        let text = format!(
            "[bus]\nurl = {:?}\npartitions = 4\n\
             [cluster]\ngateways = [\"gw-1={}\", \"gw-2={}\"]\n\
             [trace]\notlp_endpoint = {:?}\n\
             {}[logic]\nhttp_listen = \"127.0.0.1:{}\"\nadmin_listen = \"127.0.0.1:{}\"\ndata_dir = {:?}\n{}",
            broker.url(),
            gateways[0].server,
            gateways[1].server,
            collector.endpoint,
            gateway.table(),
            http.number(),
            logic_admin.number(),
            folder.path().join("data"),
            app(),
        );
        std::fs::write(&gateway.file, text).unwrap();
    }
    let [here, there] = &gateways;
    let logic = Tier::start_with("logic", &here.file, logic_admin.number());
    let tiers = gateways.each_ref().map(|gateway| Tier::start("gateway", &gateway.file));
    register(http.number(), &["alice", "bob"]);
    let mut bob = Tail::start("bob", &there.server);
    wait_for("bob is connected", || (there.sessions() == 1).then_some(()));
    let arguments = ["--to", "bob", "--json", "from one gateway to the other"];
    let sent = Sent::read(&run_ok(act("send", "alice", &here.server, &arguments)));
    bob.wait("from one gateway to the other");

    let all = format!("{},{},127.0.0.1:{}", here.admin(), there.admin(), logic_admin.number());
    let told = wait_for_verdict(&sent, &all, "pushed to 1 device, which has stored it");
    let passages = told["passages"].as_array().unwrap();
    let saw = |process: &str, hop: &str| {
        passages.iter().any(|p| p["process"] == process && p["hop"] == hop)
    };
    for (process, hop) in [
        ("gateway gw-1", "received"),
        ("gateway gw-1", "publish_confirmed"),
        ("logic logic-1", "taken"),
        ("logic logic-1", "committed"),
        ("logic logic-1", "push_confirmed"),
        ("gateway gw-1", "answer_written"),
        ("gateway gw-2", "push_taken"),
        ("gateway gw-2", "delivery_written"),
        ("gateway gw-2", "device_acknowledged"),
    ] {
        assert!(saw(process, hop), "{process} did not tell {hop}: {told:#}");
    }

    // By the configurations of the processes, too; and a gateway alone does not know a message_id.
    let mut command = roost();
    command.args(["trace", &sent.message_id, "--config"]).arg(&here.file);
    command.arg("--config").arg(&there.file);
    assert!(run_ok(command).contains("which has stored it"));
    run_fails(trace(&sent.message_id, &here.admin(), &[]), 1, &["known to logic only"]);
    assert!(run_ok(trace(&sent.client_msg_id, &here.admin(), &[])).contains("answer written"));

    let spans =
        collector.wait(&sent.client_msg_id, |spans| is_complete(spans) && has(spans, "COMMIT"));
    assert_is_tree(&spans);
    let push = span(&spans, "publish roost.out.gw-2");
    assert_eq!(push.process, "roost-logic logic-1");
    assert_eq!(push.attribute("messaging.system").as_deref(), Some("rabbitmq"));
    assert_eq!(push.attribute("messaging.operation.type").as_deref(), Some("send"));
    let receive = span(&spans, "receive roost.out.gw-2");
    assert_eq!(receive.process, "roost-gateway gw-2");
    assert_eq!(receive.span.parent_span_id, push.span.span_id, "across processes");
    drop((logic, tiers));
}
