//! Every queue and exchange of the bus, declared in this one place by whichever tier comes first.
//!
//! | name | kind | why |
//! |---|---|---|
//! | `roost.in.N` | classic, durable, single active consumer, refuses when full, dead letters to `roost.dead` | a partition |
//! | `roost.out.GATEWAY` | exclusive, refuses when full | deliveries to a gateway; gone with its connection |
//! | `roost.dead` | classic, durable, drops the oldest | bodies that took their worker down too often |
//! | `roost.partitions` | classic, durable, never used | its length limit *is* the number of partitions: another number is refused |
//! | `roost.workers` | fanout exchange | workers hear of each other |
//! | `roost.worker.ID` | exclusive | what one worker hears |
//! | `roost.attempts.BODY` | classic, durable, expires | one marker for each time that body was handed out again |
//!
//! Messages are transient everywhere: the broker is never the only holder of anything acknowledged. Queues that are not exclusive
//! are durable all the same, because RabbitMQ 4.3 refuses transient ones.

use lapin::options::{
    ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, ExchangeKind};
use roost_protocol::topology::Partition;

/// Where bodies go that took their worker down too often.
pub const DEAD_QUEUE: &str = "roost.dead";
/// Its length limit is the cluster's number of partitions.
pub const PARTITIONS_QUEUE: &str = "roost.partitions";
pub(super) const WORKERS_EXCHANGE: &str = "roost.workers";

/// Bytes a partition holds before it refuses: with 32 partitions 1 GiB, below which the broker's memory alarm must not be.
const INBOUND_BYTES_MAX: i32 = 32 << 20;
/// Bytes a delivery queue holds before it refuses.
const OUTBOUND_BYTES_MAX: i32 = 64 << 20;
/// Bytes of dead letters kept for the operator.
const DEAD_BYTES_MAX: i32 = 64 << 20;
/// After this time without another crash a body's attempts are forgotten.
const ATTEMPTS_EXPIRE_MS: i32 = 3_600_000;

fn table(entries: &[(&str, AMQPValue)]) -> FieldTable {
    let mut table = FieldTable::default();
    for (key, value) in entries {
        table.insert((*key).into(), value.clone());
    }
    table
}

fn text(value: &str) -> AMQPValue {
    AMQPValue::LongString(value.into())
}

/// A durable classic queue; the type is spelled out, because a virtual host may have another default.
async fn durable(
    channel: &Channel,
    name: &str,
    arguments: &[(&str, AMQPValue)],
) -> lapin::Result<lapin::Queue> {
    let mut arguments = table(arguments);
    arguments.insert("x-queue-type".into(), text("classic"));
    channel.queue_declare(name.into(), QueueDeclareOptions::durable(), arguments).await
}

/// Declares everything shared. Fails when somebody declared something of it differently.
pub(super) async fn declare(channel: &Channel, partitions: u16) -> lapin::Result<()> {
    let limit = AMQPValue::LongInt(i32::from(partitions));
    durable(channel, PARTITIONS_QUEUE, &[("x-max-length", limit)]).await?;
    let dead = [("x-max-length-bytes", AMQPValue::LongInt(DEAD_BYTES_MAX))];
    durable(channel, DEAD_QUEUE, &dead).await?;
    for partition in (0..partitions).map(Partition) {
        let arguments = [
            ("x-single-active-consumer", AMQPValue::Boolean(true)),
            ("x-max-length-bytes", AMQPValue::LongInt(INBOUND_BYTES_MAX)),
            ("x-overflow", text("reject-publish")),
            ("x-dead-letter-exchange", text("")),
            ("x-dead-letter-routing-key", text(DEAD_QUEUE)),
        ];
        durable(channel, &partition.queue(), &arguments).await?;
    }
    let options = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
    let (name, kind) = (WORKERS_EXCHANGE.into(), ExchangeKind::Fanout);
    channel.exchange_declare(name, kind, options, FieldTable::default()).await
}

/// Whether [`declare`] makes this queue.
pub(super) fn is_shared(queue: &str) -> bool {
    queue == DEAD_QUEUE || queue.starts_with("roost.in.")
}

/// An exclusive queue: it goes with this connection, and nobody else may use it.
async fn exclusive(
    channel: &Channel,
    name: &str,
    arguments: FieldTable,
) -> lapin::Result<lapin::Queue> {
    let options = QueueDeclareOptions { exclusive: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(name.into(), options, arguments).await
}

/// Declares a delivery queue.
pub(super) async fn declare_delivery_queue(channel: &Channel, queue: &str) -> lapin::Result<()> {
    let arguments = table(&[
        ("x-max-length-bytes", AMQPValue::LongInt(OUTBOUND_BYTES_MAX)),
        ("x-overflow", text("reject-publish")),
    ]);
    exclusive(channel, queue, arguments).await.map(|_| ())
}

/// Declares the queue on which a worker hears of the others; returns its name.
pub(super) async fn declare_worker_queue(channel: &Channel, worker: &str) -> lapin::Result<String> {
    let name = format!("roost.worker.{worker}");
    // What nobody reads in time is worth nothing.
    let arguments = table(&[("x-max-length", AMQPValue::LongInt(1024))]);
    exclusive(channel, &name, arguments).await?;
    let (queue, exchange) = (name.as_str().into(), WORKERS_EXCHANGE.into());
    let options = QueueBindOptions::default();
    channel.queue_bind(queue, exchange, "".into(), options, FieldTable::default()).await?;
    Ok(name)
}

/// The queue that counts how often a body was handed out again.
pub(super) fn attempts_queue(body_id: &str) -> String {
    format!("roost.attempts.{body_id}")
}

/// Declares it and returns how many attempts it has counted.
pub(super) async fn declare_attempts(channel: &Channel, queue: &str) -> lapin::Result<u32> {
    let expires = [("x-expires", AMQPValue::LongInt(ATTEMPTS_EXPIRE_MS))];
    Ok(durable(channel, queue, &expires).await?.message_count())
}

/// Forgets a body's attempts.
pub(super) async fn delete_attempts(channel: &Channel, queue: &str) -> lapin::Result<()> {
    channel.queue_delete(queue.into(), QueueDeleteOptions::default()).await.map(|_| ())
}
