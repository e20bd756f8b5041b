//! RabbitMQ keeps what every bus promises, and says what is wrong before anybody is served. A real broker.

mod contract;

use std::time::Duration;

use contract::soon;
use roost_bus::{BusConfig, RabbitBus};
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
