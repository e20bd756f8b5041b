//! RabbitMQ keeps what every bus promises, and says what is wrong before anybody is served. A real broker.

mod contract;

use std::time::Duration;

use contract::{body, next_delivery, soon};
use roost_bus::{Bus, BusConfig, PublishError, RabbitBus};
use roost_testing::RabbitMq;

const PARTITIONS: u16 = 8;

fn config(broker: &RabbitMq) -> BusConfig {
    BusConfig {
        url: broker.url(),
        partitions: PARTITIONS,
        name_wait: Duration::from_millis(300),
        heartbeat: Duration::from_secs(2),
        ..BusConfig::default()
    }
}

async fn connect(broker: &RabbitMq, name: &str) -> RabbitBus {
    soon(RabbitBus::connect(config(broker), name)).await.expect("the broker is there")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keeps_the_contract() {
    let broker = tokio::task::spawn_blocking(RabbitMq::start).await.unwrap();
    let bus = connect(&broker, "contract").await;
    contract::all(&bus).await;
}

/// The sentence of the refusal.
fn refused<T: std::fmt::Debug>(result: Result<T, PublishError>) -> String {
    match result {
        Err(PublishError::Refused(text)) => text,
        other => panic!("not refused: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn says_what_is_wrong_before_anybody_is_served() {
    let broker = tokio::task::spawn_blocking(RabbitMq::start).await.unwrap();
    let try_with = async |change: &dyn Fn(&mut BusConfig)| {
        let mut config = config(&broker);
        change(&mut config);
        soon(RabbitBus::connect(config, "start")).await
    };
    let text = refused(try_with(&|c| c.password = "wrong".to_owned()).await);
    assert!(text.contains("ROOST_BUS__PASSWORD") && text.contains("\"guest\""), "{text}");
    assert!(!text.contains("wrong"), "no secrets: {text}");
    let text = refused(try_with(&|c| c.url = c.url.replace("%2f", "nowhere")).await);
    assert!(text.contains("rabbitmqctl add_vhost nowhere"), "{text}");
    let text = refused(try_with(&|c| c.inbound_prefetch = 0).await);
    assert!(text.contains("bus.inbound_prefetch: is 0"), "{text}");
    let closed = try_with(&|c| c.url = "amqp://127.0.0.1:9/%2f".to_owned()).await;
    let text = closed.unwrap_err().to_string();
    assert!(text.contains("127.0.0.1:9 (bus.url)") && text.contains("RabbitMQ running"), "{text}");

    // Credentials of their own, and another user's.
    broker.ctl(&["add_user", "roost", "secret"]);
    let as_roost = |c: &mut BusConfig| {
        c.url = broker.url_without_credentials();
        (c.user, c.password) = ("roost".to_owned(), "secret".to_owned());
    };
    let text = refused(try_with(&as_roost).await);
    assert!(text.contains("does not let user \"roost\" use the virtual host"), "{text}");
    broker.ctl(&["set_permissions", "roost", "^other", ".*", ".*"]);
    let text = refused(try_with(&as_roost).await);
    assert!(text.contains("rabbitmqctl set_permissions"), "{text}");
    let permissions = ["^roost[.]", "^roost[.]|^amq[.]default$", "^roost[.]"];
    broker.ctl(&["set_permissions", "roost", permissions[0], permissions[1], permissions[2]]);
    let bus = try_with(&as_roost).await.expect("these permissions are enough");
    contract::all(&bus).await;

    two_gateways_of_one_name(&broker, &bus).await;
    bus.close().await;

    let text = refused(try_with(&|c| c.partitions = PARTITIONS + 1).await);
    assert!(text.contains("number of partitions") && text.contains("bus.partitions"), "{text}");
    broker.ctl(&["delete_queue", "roost.in.0"]);
    let declare = "rabbit_amqqueue:declare({resource, <<\"/\">>, queue, <<\"roost.in.0\">>}, true, false, [], none, <<\"test\">>).";
    broker.ctl(&["eval", declare]);
    let text = refused(try_with(&|_| {}).await);
    assert!(text.contains("roost.in.0") && text.contains("delete_queue"), "{text}");
}

/// The second one is refused when it has waited; the first one's own successor gets the queue when the first one is gone.
async fn two_gateways_of_one_name(broker: &RabbitMq, bus: &RabbitBus) {
    let mut first = bus.consume_outbound("gw-1").await.unwrap();
    let second = connect(broker, "second").await;
    let text = refused(soon(second.consume_outbound("gw-1")).await.map(|_| ()));
    assert!(text.contains("\"gw-1\" is taken") && text.contains("gateway.name"), "{text}");
    bus.publish_outbound("gw-1", body(1)).await.unwrap();
    assert_eq!(next_delivery(&mut first).await, 1, "the first one goes on");
    let patient = BusConfig { name_wait: contract::DEADLINE, ..config(broker) };
    let patient = soon(RabbitBus::connect(patient, "patient")).await.unwrap();
    let (waiting, ()) = tokio::join!(patient.consume_outbound("gw-1"), async {
        tokio::task::yield_now().await;
        drop(first);
    });
    assert!(waiting.is_ok(), "its predecessor went in time");
    patient.close().await;
    second.close().await;
}
