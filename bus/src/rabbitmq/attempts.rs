//! The delivery limit: a body that takes its worker down again and again is put aside.
//!
//! Classic queues only say *that* a body was delivered before. How often must survive the worker, so the broker counts: each time such
//! a body is handed out, a marker goes into a queue of its own name, and that queue's length is the number of attempts.
//! * First time again: an ordinary fail-over; handed out like any other.
//! * Second time and later: it may be the culprit, so it is handed out alone, nothing else suspicious with it. So the innocent ones are
//!   done one by one, and only the culprit reaches the limit.
//! * At the limit: rejected, which dead-letters it into `roost.dead` with the broker's own note of where it was.

use std::sync::Arc;

use bytes::Bytes;
use lapin::Channel;
use lapin::message::Delivery;
use lapin::options::BasicRejectOptions;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::hand::{Hand, Lease};
use super::{Inner, topology};

/// How often a body was handed out again.
#[derive(Debug)]
pub(super) struct Attempt {
    channel: Channel,
    queue: String,
}

impl Attempt {
    /// The body is done.
    pub(super) async fn forget(self) {
        // Else it expires.
        _ = topology::delete_attempts(&self.channel, &self.queue).await;
    }
}

/// What to do with a redelivered body.
pub(super) enum Ruling {
    HandOut { attempt: Option<Attempt>, alone: Option<OwnedSemaphorePermit> },
    DeadLettered,
}

/// Counts another attempt. Waits, when the body must be alone, until no other one is out.
pub(super) async fn rule(
    inner: &Inner,
    channel: &Channel,
    delivery: &Delivery,
    (hand, lease): (&Hand, &Lease),
    gate: &Arc<Semaphore>,
) -> lapin::Result<Ruling> {
    let Some(id) = delivery.properties.message_id() else {
        // Not ours; the worker refuses what it cannot read.
        return Ok(Ruling::HandOut { attempt: None, alone: None });
    };
    let queue = topology::attempts_queue(id.as_str());
    let attempts = topology::declare_attempts(channel, &queue).await?;
    if attempts >= u32::from(inner.config.delivery_limit) {
        tracing::error!(
            body = id.as_str(),
            attempts,
            queue = topology::DEAD_QUEUE,
            "a body took its worker down too often and was put aside"
        );
        delivery.acker.reject(BasicRejectOptions { requeue: false }).await?;
        topology::delete_attempts(channel, &queue).await?;
        inner.counters.dead_lettered.add(1);
        return Ok(Ruling::DeadLettered);
    }
    // Never closed.
    let alone = match attempts {
        0 => None,
        _ => Arc::clone(gate).acquire_owned().await.ok(),
    };
    // Not counted unless the worker is about to get it.
    hand.wait_polled().await;
    if lease.is_over() {
        return Ok(Ruling::HandOut { attempt: None, alone: None });
    }
    // When the broker does not take the marker now, this attempt is not counted.
    _ = inner.publish_to(queue.clone(), Bytes::new()).await;
    Ok(Ruling::HandOut { attempt: Some(Attempt { channel: channel.clone(), queue }), alone })
}
