//! A gateway's delivery queue: exclusive, so that it and its deliveries go with the gateway, and publishers are told at once.
//!
//! Bodies are acknowledged when the gateway has taken them; until then the broker sends no more than a window. When the connection is
//! lost the queue goes with it, and an empty one is opened: what was in it is pulled by clients.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::FieldTable;
use lapin::{Channel, Connection, Consumer};
use roost_protocol::topology::delivery_queue;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::connection::{self, Backoff, Failure};
use super::{End, Inner, topology};
use crate::{BoxFuture, OutboundConsumer};

/// A body, and whence: the connection's number and the delivery's tag on it.
struct Arrival {
    body: Bytes,
    connection: u64,
    tag: u64,
}

/// What the gateway holds. Dropping it ends the queue.
pub(super) struct DeliveryQueue {
    arrivals: mpsc::UnboundedReceiver<Arrival>,
    taken: mpsc::UnboundedSender<(u64, u64)>,
}

impl DeliveryQueue {
    fn hand_over(&self, arrival: Option<Arrival>) -> Option<Bytes> {
        let Arrival { body, connection, tag } = arrival?;
        _ = self.taken.send((connection, tag));
        Some(body)
    }
}

impl OutboundConsumer for DeliveryQueue {
    fn next(&mut self) -> BoxFuture<'_, Option<Bytes>> {
        Box::pin(async {
            let arrival = self.arrivals.recv().await;
            self.hand_over(arrival)
        })
    }

    fn try_next(&mut self) -> Option<Bytes> {
        let arrival = self.arrivals.try_recv().ok();
        self.hand_over(arrival)
    }
}

/// A queue to be opened, and where its first success or failure is told.
pub(super) struct Opening {
    inner: Arc<Inner>,
    gateway: String,
    started: Option<oneshot::Sender<Result<(), Failure>>>,
    // Both bounded by the window of the subscription.
    arrived: mpsc::UnboundedSender<Arrival>,
    taken: mpsc::UnboundedReceiver<(u64, u64)>,
    connections: u64,
}

impl Opening {
    pub(super) fn new(
        inner: Arc<Inner>,
        gateway: &str,
        started: oneshot::Sender<Result<(), Failure>>,
    ) -> (Self, DeliveryQueue) {
        let (arrived, arrivals) = mpsc::unbounded_channel();
        let (take, taken) = mpsc::unbounded_channel();
        let (gateway, started) = (gateway.to_owned(), Some(started));
        let opening = Self { inner, gateway, started, arrived, taken, connections: 0 };
        (opening, DeliveryQueue { arrivals, taken: take })
    }

    /// Receives until the gateway has dropped its end or the bus ends.
    pub(super) async fn run(mut self, mut end: End) {
        let inner = Arc::clone(&self.inner);
        let mut backoff = Backoff::new(&inner.config);
        let give_up = Instant::now() + inner.config.name_wait;
        let gateway_end = self.arrived.clone();
        loop {
            let opened = tokio::select! {
                biased;
                () = end.reached() => return,
                () = gateway_end.closed() => return,
                opened = self.open() => opened,
            };
            let failure = match opened {
                Err(failure) => failure,
                Ok((connection, channel, consumer)) => {
                    backoff = Backoff::new(&inner.config);
                    if let Some(started) = self.started.take() {
                        _ = started.send(Ok(()));
                    }
                    let ended = tokio::select! {
                        biased;
                        () = end.reached() => None,
                        failure = self.receive(&channel, consumer) => failure,
                    };
                    connection::close(&connection).await;
                    let Some(failure) = ended else { return };
                    inner.counters.connections_lost.add(1);
                    failure
                }
            };
            tracing::warn!(%failure, gateway = self.gateway, "the delivery queue is not open; trying again");
            let may_wait = matches!(failure, Failure::NameTaken(_)) && Instant::now() < give_up;
            if !may_wait && let Some(started) = self.started.take() {
                _ = started.send(Err(self.explain(failure)));
                return;
            }
            tokio::select! {
                biased;
                () = end.reached() => return,
                () = gateway_end.closed() => return,
                () = backoff.pause(&inner.config) => {}
            }
        }
    }

    fn explain(&self, failure: Failure) -> Failure {
        match failure {
            Failure::NameTaken(_) => Failure::Refused(format!(
                "the name {:?} is taken: another live process has its delivery queue. Give each gateway and each logic node a name \
                 of its own (gateway.name, logic.name). If its predecessor died without a word, wait until the broker notices it",
                self.gateway
            )),
            Failure::Lost(_) | Failure::Refused(_) => failure,
        }
    }

    async fn open(&mut self) -> Result<(Connection, Channel, Consumer), Failure> {
        let config = &self.inner.config;
        let name = format!("{} deliveries", self.inner.name);
        let connection = connection::open(config, &name).await?;
        let queue = delivery_queue(&self.gateway);
        let opening = async {
            let channel = connection.create_channel().await?;
            topology::declare_delivery_queue(&channel, &queue).await?;
            channel.basic_qos(config.outbound_prefetch, BasicQosOptions::default()).await?;
            let options = BasicConsumeOptions { exclusive: true, ..BasicConsumeOptions::default() };
            let (queue, tag) = (queue.as_str().into(), "gateway".into());
            let consumer =
                channel.basic_consume(queue, tag, options, FieldTable::default()).await?;
            lapin::Result::Ok((channel, consumer))
        };
        match opening.await {
            Ok((channel, consumer)) => {
                self.connections += 1;
                Ok((connection, channel, consumer))
            }
            Err(error) => {
                connection::close(&connection).await;
                Err(error.into())
            }
        }
    }

    /// Ends with the failure of the connection, or without one when the gateway has gone.
    async fn receive(&mut self, channel: &Channel, mut consumer: Consumer) -> Option<Failure> {
        loop {
            tokio::select! {
                biased;
                taken = self.taken.recv() => {
                    let (connection, tag) = taken?;
                    if let Err(error) = self.acknowledge(channel, connection, tag).await {
                        return Some(error.into());
                    }
                }
                delivery = consumer.next() => match delivery {
                    Some(Ok(delivery)) => {
                        let (connection, tag) = (self.connections, delivery.delivery_tag);
                        let body = Bytes::from(delivery.data);
                        self.arrived.send(Arrival { body, connection, tag }).ok()?;
                    }
                    Some(Err(error)) => return Some(error.into()),
                    None => {
                        let what = "the broker cancelled the subscription: was the queue deleted?";
                        return Some(Failure::Lost(what.to_owned()));
                    }
                }
            }
        }
    }

    /// Acknowledges all that was taken by now, in one go. Tags of a former connection mean nothing on this one.
    async fn acknowledge(
        &mut self,
        channel: &Channel,
        mut connection: u64,
        mut tag: u64,
    ) -> lapin::Result<()> {
        while let Ok((later_connection, later_tag)) = self.taken.try_recv() {
            (connection, tag) = (later_connection, later_tag);
        }
        if connection != self.connections {
            return Ok(());
        }
        channel.basic_ack(tag, BasicAckOptions { multiple: true }).await
    }
}
