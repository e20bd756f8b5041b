//! One partition's subscription: a channel of its own, because closing it is what gives everything unacknowledged back to the broker at
//! once and in order.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt;
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::FieldTable;
use lapin::{Channel, Connection, Consumer};
use roost_protocol::topology::Partition;
use tokio::sync::{Notify, Semaphore};

use super::attempts::{self, Ruling};
use super::connection::Failure;
use super::hand::{Arrival, Hand, Lease, Task};
use super::{End, Inner};
use crate::planted::{Bug, planted};

pub(super) struct Subscription {
    pub(super) inner: Arc<Inner>,
    pub(super) hand: Arc<Hand>,
    pub(super) connection: Arc<Connection>,
    pub(super) partition: Partition,
    /// See [`attempts`].
    pub(super) alone: Arc<Semaphore>,
    /// The partition is to go to another worker.
    pub(super) leave: Arc<Notify>,
    /// The worker has gone.
    pub(super) end: End,
}

enum Ended {
    Left,
    GivenBack,
}

/// The lease is over with the task, also when the task is aborted.
struct Held<'a>(&'a Arc<Hand>, Arc<Lease>);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.end(&self.1);
    }
}

impl Subscription {
    /// Receives until the partition was left.
    pub(super) async fn run(self) -> Result<u16, Failure> {
        loop {
            let (channel, consumer) = self.subscribe().await?;
            let held = Held(&self.hand, Lease::new(self.partition));
            let ended = self.receive(&channel, consumer, &held.1).await?;
            drop(held);
            channel.close(200, "given back".into()).await?;
            if let Ended::Left = ended {
                return Ok(self.partition.0);
            }
        }
    }

    async fn subscribe(&self) -> lapin::Result<(Channel, Consumer)> {
        let channel = self.connection.create_channel().await?;
        channel.basic_qos(self.inner.config.inbound_prefetch, BasicQosOptions::default()).await?;
        let queue = self.partition.queue();
        let no_ack = planted(Bug::AutoAck);
        let options = BasicConsumeOptions { no_ack, ..BasicConsumeOptions::default() };
        let arguments = FieldTable::default();
        let consumer =
            channel.basic_consume(queue.into(), "worker".into(), options, arguments).await?;
        Ok((channel, consumer))
    }

    async fn receive(
        &self,
        channel: &Channel,
        mut consumer: Consumer,
        lease: &Arc<Lease>,
    ) -> Result<Ended, Failure> {
        let mut is_leaving = false;
        let mut end = self.end.clone();
        loop {
            let delivery = tokio::select! {
                biased;
                () = end.reached() => {
                    self.hand.end(lease);
                    acknowledge(channel, lease).await?;
                    return Ok(Ended::Left);
                }
                task = lease.next_task() => match task {
                    Task::Acknowledge => {
                        acknowledge(channel, lease).await?;
                        continue;
                    }
                    Task::Leave => return Ok(Ended::Left),
                    Task::GiveBack => return Ok(Ended::GivenBack),
                },
                () = self.leave.notified() => {
                    // Only when what was taken is settled another worker may go on where this one stopped.
                    is_leaving = true;
                    self.hand.drain(lease);
                    continue;
                }
                delivery = consumer.next(), if !is_leaving => delivery,
            };
            match delivery {
                Some(delivery) => tokio::select! {
                    biased;
                    // Seen again above.
                    () = end.reached() => {}
                    handled = self.handle(channel, delivery?, lease) => handled?,
                },
                None => {
                    let queue = self.partition.queue();
                    let what = format!(
                        "the broker cancelled the subscription of {queue}: was it deleted?"
                    );
                    return Err(Failure::Lost(what));
                }
            }
        }
    }

    async fn handle(
        &self,
        channel: &Channel,
        delivery: Delivery,
        lease: &Arc<Lease>,
    ) -> Result<(), Failure> {
        let (mut attempt, mut alone) = (None, None);
        if delivery.redelivered {
            match attempts::rule(&self.inner, channel, &delivery, (&self.hand, lease), &self.alone)
                .await?
            {
                Ruling::DeadLettered => {
                    if let Some(watch) = self.inner.dead_letters.get() {
                        (watch.0)(self.partition, &delivery.data);
                    }
                    return Ok(());
                }
                Ruling::HandOut { attempt: counted, alone: permit } => {
                    (attempt, alone) = (counted, permit);
                }
            }
        }
        let Delivery { redelivered, data, delivery_tag: tag, .. } = delivery;
        let (lease, body) = (Arc::clone(lease), Bytes::from(data));
        self.hand.push(Arrival { lease, body, redelivered, tag, attempt, alone });
        Ok(())
    }
}

/// Tells the broker what the worker has acknowledged.
async fn acknowledge(channel: &Channel, lease: &Lease) -> lapin::Result<()> {
    let settled = lease.take_settled();
    let count = settled.len();
    for settled in settled {
        if !planted(Bug::AutoAck) {
            channel.basic_ack(settled.tag, BasicAckOptions::default()).await?;
        }
        if let Some(attempt) = settled.attempt {
            attempt.forget().await;
        }
    }
    lease.told(count);
    Ok(())
}
