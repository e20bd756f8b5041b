//! From this gateway's delivery queue to the shards.
//!
//! One batch at a time: while a mailbox is full nothing is taken, so the bus holds the rest. When the bus ends the queue it is opened
//! again, with a pause.

use std::sync::Arc;
use std::time::Duration;

use roost_bus::{Bus, OutboundConsumer};
use roost_protocol::envelope::OutboundBatch;

use crate::metrics::ControlCounters;
use crate::router::Router;

/// Pause before the delivery queue is opened again.
const REOPEN_PAUSE: Duration = Duration::from_secs(1);

/// Takes deliveries for ever, beginning with `consumer`. Ends when dropped.
pub(crate) async fn run(
    bus: &dyn Bus,
    gateway: &str,
    mut consumer: Box<dyn OutboundConsumer>,
    mut router: Router,
    counters: Arc<ControlCounters>,
) {
    loop {
        while let Some(body) = consumer.next().await {
            counters.batches_received.increment();
            let resolved = OutboundBatch::parse(body).and_then(|batch| router.resolve(&batch));
            if let Err(error) = resolved {
                counters.batches_damaged.increment();
                tracing::error!(%error, "a batch of deliveries could not be read; clients pull what it held");
            }
            router.flush().await;
        }
        counters.consumer_open.set(0);
        consumer = reopen(bus, gateway).await;
        counters.consumer_reopened.increment();
        counters.consumer_open.set(1);
    }
}

async fn reopen(bus: &dyn Bus, gateway: &str) -> Box<dyn OutboundConsumer> {
    loop {
        tokio::time::sleep(REOPEN_PAUSE).await;
        match bus.consume_outbound(gateway).await {
            Ok(consumer) => return consumer,
            Err(error) => {
                tracing::warn!(%error, "the delivery queue cannot be opened; trying again")
            }
        }
    }
}
