//! The two consumers of the in-process bus: a worker's share of the partitions, and a gateway's delivery queue.

use std::future::{poll_fn, ready};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use roost_protocol::topology::Partition;
use tokio::time::{Instant, timeout_at};

use super::partitions::{ConsumerId, Taken};
use super::{Shared, wake, wake_all};
use crate::{BoxFuture, InboundConsumer, InboundDelivery, OutboundConsumer};

/// What a consumer finds.
pub(super) enum Next<T> {
    Body(T),
    Closed,
    /// Nothing now, but something is delayed until then.
    HeldUntil(Instant),
    Nothing,
}

/// Waits for a body. `poll` registers the waker before it says that there is none.
async fn next_of<T>(mut poll: impl FnMut(Option<&Waker>) -> Next<T>) -> Option<T> {
    let mut held_until = None;
    loop {
        let woken = poll_fn(|cx: &mut Context<'_>| match poll(Some(cx.waker())) {
            Next::Body(body) => Poll::Ready(Ok(Some(body))),
            Next::Closed => Poll::Ready(Ok(None)),
            Next::HeldUntil(at) if held_until != Some(at) => Poll::Ready(Err(at)),
            Next::HeldUntil(_) | Next::Nothing => Poll::Pending,
        });
        let found = match held_until {
            None => woken.await,
            Some(at) => match timeout_at(at, woken).await {
                Ok(found) => found,
                Err(_) => {
                    held_until = None;
                    continue;
                }
            },
        };
        match found {
            Ok(next) => return next,
            Err(at) => held_until = Some(at),
        }
    }
}

/// A worker's share of the partitions.
pub(super) struct Consumer {
    pub(super) shared: Arc<Shared>,
    pub(super) id: ConsumerId,
}

impl Consumer {
    fn poll(shared: &Arc<Shared>, id: ConsumerId, waker: Option<&Waker>) -> Next<InboundDelivery> {
        let mut side = shared.inbound.lock();
        if side.is_closed {
            return Next::Closed;
        }
        match side.partitions.take(id) {
            Taken::Body { partition, tag, body, redelivered } => {
                drop(side);
                let receipt = Receipt { shared: Arc::clone(shared), partition, tag, is_open: true };
                Next::Body(InboundDelivery::new(
                    Partition(partition),
                    body,
                    redelivered,
                    Box::new(move || {
                        receipt.acknowledge();
                        Box::pin(ready(()))
                    }),
                ))
            }
            Taken::HeldUntil(at) => {
                side.partitions.register(id, waker);
                Next::HeldUntil(at)
            }
            Taken::Nothing => {
                side.partitions.register(id, waker);
                Next::Nothing
            }
        }
    }
}

impl InboundConsumer for Consumer {
    fn next(&mut self) -> BoxFuture<'_, Option<InboundDelivery>> {
        Box::pin(next_of(|waker| Self::poll(&self.shared, self.id, waker)))
    }

    fn try_next(&mut self) -> Option<InboundDelivery> {
        match Self::poll(&self.shared, self.id, None) {
            Next::Body(delivery) => Some(delivery),
            Next::Closed | Next::HeldUntil(_) | Next::Nothing => None,
        }
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        let wakers = self.shared.inbound.lock().partitions.leave(self.id);
        wake_all(wakers);
    }
}

/// Acknowledges one delivery, or gives it back when it is dropped.
struct Receipt {
    shared: Arc<Shared>,
    partition: u16,
    tag: u64,
    is_open: bool,
}

impl Receipt {
    fn acknowledge(mut self) {
        self.is_open = false;
        let waker = self.shared.inbound.lock().partitions.acknowledge(self.partition, self.tag);
        wake(waker);
    }
}

impl Drop for Receipt {
    fn drop(&mut self) {
        if self.is_open {
            let waker = self.shared.inbound.lock().partitions.give_back(self.partition, self.tag);
            wake(waker);
        }
    }
}

/// The delivery queue of one gateway.
pub(super) struct DeliveryQueue {
    pub(super) shared: Arc<Shared>,
    pub(super) gateway: String,
    pub(super) id: u64,
}

impl DeliveryQueue {
    fn poll(&self, waker: Option<&Waker>) -> Next<Bytes> {
        let mut side = self.shared.outbound.lock();
        if side.is_closed {
            return Next::Closed;
        }
        side.queues.take(&self.gateway, self.id, waker)
    }
}

impl OutboundConsumer for DeliveryQueue {
    fn next(&mut self) -> BoxFuture<'_, Option<Bytes>> {
        Box::pin(next_of(|waker| self.poll(waker)))
    }

    fn try_next(&mut self) -> Option<Bytes> {
        match self.poll(None) {
            Next::Body(body) => Some(body),
            Next::Closed | Next::HeldUntil(_) | Next::Nothing => None,
        }
    }
}

impl Drop for DeliveryQueue {
    fn drop(&mut self) {
        self.shared.outbound.lock().queues.remove(&self.gateway, self.id);
    }
}
