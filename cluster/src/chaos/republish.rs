//! Publishes bodies between the tiers a second time, as a publisher does that was not told whether the first time succeeded.
//!
//! A proxy that repeats bytes of AMQP cannot do it: a further publish on the same channel shifts the numbers of all later confirms, and whoever
//! published sees answers that it never asked for. So the broker shows every body that is published (its tracing exchange), and this publishes it again over
//! a connection of its own. A copy comes a moment later, often after bodies that were published after it.

use std::thread::JoinHandle;

use anyhow::{Context as _, Result, anyhow, bail};
use futures_util::StreamExt as _;
use lapin::message::Delivery;
use lapin::options::{
    BasicConsumeOptions, BasicPublishOptions, QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use roost_testing::RabbitMq;
use tokio::sync::{oneshot, watch};

use crate::plan::{BROKER_USER, VHOST};

const TRACE_EXCHANGE: &str = "amq.rabbitmq.trace";
/// The user of the copies, known from the tests' broker; theirs are not copied again.
const USER: &str = "guest";
/// Of traces that wait; further ones push out the oldest.
const WAITING_MAX: i32 = 10_000;
const TRANSIENT: u8 = 1;

/// Until [`Republisher::finish`].
#[derive(Debug)]
pub(super) struct Republisher {
    thread: JoinHandle<Result<u64>>,
    over: watch::Sender<bool>,
}

impl Republisher {
    /// Returns when every body comes twice.
    pub(super) fn start(broker: &RabbitMq) -> Result<Self> {
        let started = broker.eval(&format!(
            "rabbit_auth_backend_internal:set_permissions(<<\"{USER}\">>, <<\"{VHOST}\">>, <<\".*\">>, <<\".*\">>, <<\".*\">>, <<\"{USER}\">>), \
             rabbit_trace:start(<<\"{VHOST}\">>)."
        ));
        let url = format!("amqp://{USER}:{USER}@127.0.0.1:{}/{VHOST}", broker.port());
        let (over, is_over) = watch::channel(false);
        let (tell_ready, is_ready) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let run = move || runtime.block_on(copy(&url, tell_ready, is_over));
        let thread = std::thread::Builder::new().name("republish".to_owned()).spawn(run)?;
        let this = Self { thread, over };
        if is_ready.blocking_recv().is_ok() {
            return Ok(this);
        }
        let why = this.finish(broker).err().unwrap_or_else(|| anyhow!("it ended"));
        Err(why.context(format!("tracing: {started}")))
    }

    /// Once is enough again; how many bodies came twice.
    pub(super) fn finish(self, broker: &RabbitMq) -> Result<u64> {
        self.over.send_replace(true);
        let copies = self.thread.join().map_err(|_| anyhow!("the thread of copies panicked"))?;
        broker.eval(&format!("rabbit_trace:stop(<<\"{VHOST}\">>)."));
        copies
    }
}

async fn copy(
    url: &str,
    tell_ready: oneshot::Sender<()>,
    mut is_over: watch::Receiver<bool>,
) -> Result<u64> {
    let connection = Connection::connect(url, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    let (options, mut arguments) = (QueueDeclareOptions::default(), FieldTable::default());
    arguments.insert("x-max-length".into(), AMQPValue::LongInt(WAITING_MAX));
    let options = QueueDeclareOptions { exclusive: true, ..options };
    let queue = channel.queue_declare("".into(), options, arguments).await?;
    let name = queue.name().clone();
    let (exchange, key) = (TRACE_EXCHANGE.into(), "publish.#".into());
    let (options, arguments) = (QueueBindOptions::default(), FieldTable::default());
    channel.queue_bind(name.clone(), exchange, key, options, arguments.clone()).await?;
    let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
    let mut traces = channel.basic_consume(name, "traces".into(), options, arguments).await?;
    _ = tell_ready.send(());
    let mut copies = 0;
    loop {
        let trace = tokio::select! {
            _ = is_over.wait_for(|is_over| *is_over) => break,
            trace = traces.next() => trace.context("the broker ended it")??,
        };
        copies += u64::from(publish_again(&channel, &trace).await?);
    }
    connection.close(200, "bye".into()).await?;
    Ok(copies)
}

/// Whether it was a body between the tiers.
async fn publish_again(channel: &Channel, trace: &Delivery) -> Result<bool> {
    let headers = trace.properties.headers().as_ref().context("a trace without headers")?;
    let user = text(headers, "user").context("a trace without a user")?;
    let Some(AMQPValue::FieldArray(keys)) = headers.inner().get("routing_keys") else {
        bail!("a trace without keys");
    };
    let key = keys.as_slice().first().and_then(as_text).context("a trace without a key")?;
    let is_between_tiers = key.starts_with("roost.in.") || key.starts_with("roost.out.");
    if user != BROKER_USER || !is_between_tiers {
        return Ok(false);
    }
    let mut properties = BasicProperties::default().with_delivery_mode(TRANSIENT);
    if let Some(AMQPValue::FieldTable(own)) = headers.inner().get("properties")
        && let Some(id) = text(own, "message_id")
    {
        properties = properties.with_message_id(id.into());
    }
    let (exchange, options) = ("".into(), BasicPublishOptions::default());
    _ = channel.basic_publish(exchange, key.into(), options, &trace.data, properties).await?;
    Ok(true)
}

fn text(table: &FieldTable, name: &str) -> Option<String> {
    table.inner().get(name).and_then(as_text)
}

fn as_text(value: &AMQPValue) -> Option<String> {
    if let AMQPValue::LongString(text) = value {
        return Some(text.to_string());
    }
    let AMQPValue::ShortString(text) = value else { return None };
    Some(text.to_string())
}
