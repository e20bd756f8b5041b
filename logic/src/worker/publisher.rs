//! The second half of the worker's order, one batch after the other: publish, wait for the confirms, acknowledge.
//!
//! A gateway that takes nothing loses its deliveries by a named rule, never silently: `returned` (nobody is there: the route is
//! stale, receivers sync when they connect) or `abandoned` (the bus did not take them for [`GIVE_UP`]: receivers are told by their
//! next digest, senders ask again).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use roost_bus::{InboundDelivery, PublishError, SharedBus};
use roost_membership::SharedRoutes;
use roost_trace::{Passage, TraceWriter, now_ns};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::outputs::{GatewayBodies, Outputs};
use super::trace::{self, Sent};
use crate::metrics::Metrics;

/// How long a delivery is offered to a bus that does not take it.
const GIVE_UP: Duration = Duration::from_secs(10);
const RETRY_FIRST: Duration = Duration::from_millis(5);
const RETRY_MAX: Duration = Duration::from_millis(500);

/// A committed batch: what it says, whence its bodies came, and the bodies to acknowledge.
pub(super) struct Published {
    pub(super) outputs: Outputs,
    pub(super) origins: Vec<Arc<str>>,
    pub(super) deliveries: Vec<InboundDelivery>,
    /// Traced messages in them.
    pub(super) acknowledged: Vec<Passage>,
}

pub(super) async fn run(
    bus: SharedBus,
    routes: SharedRoutes,
    metrics: Arc<Metrics>,
    mut trace: TraceWriter,
    mut queue: mpsc::Receiver<Published>,
) {
    while let Some(Published { outputs, origins, deliveries, acknowledged }) = queue.recv().await {
        if !outputs.is_empty() {
            let gateways = gateways(&routes, &outputs).await;
            let traced = outputs.traced(&origins, gateways.as_deref());
            let outgoing = outputs.distribute(&origins, gateways.as_deref());
            let sent = outgoing.into_iter().map(|to| publish(&bus, &routes, &metrics, to));
            let sent = join_all(sent).await;
            trace::record_sent(&mut trace, &traced, &sent);
        }
        for delivery in deliveries {
            delivery.acknowledge().await;
        }
        trace::record_acknowledged(&mut trace, &acknowledged);
    }
}

/// Asked after the commit: who has no route now will find the message when it connects and syncs.
async fn gateways(routes: &SharedRoutes, outputs: &Outputs) -> Option<Vec<Vec<Arc<str>>>> {
    let users: Vec<(&str, &str)> = outputs.users().collect();
    let mut gateways = Vec::with_capacity(users.len());
    for chunk in users.chunk_by(|a, b| a.0 == b.0) {
        let names: Vec<&str> = chunk.iter().map(|(_, user)| *user).collect();
        match routes.gateways_of(chunk[0].0, &names).await {
            Ok(found) => gateways.extend(found),
            Err(error) => {
                tracing::warn!(%error, "deliveries are left to the receivers' next sync");
                return None;
            }
        }
    }
    Some(gateways)
}

/// All bodies of one gateway, in order: the later ones wait for the earlier one's confirm.
async fn publish(
    bus: &SharedBus,
    routes: &SharedRoutes,
    metrics: &Metrics,
    to: GatewayBodies,
) -> Sent {
    let (since_ns, mut code) = (now_ns(), 0);
    for body in to.bodies {
        match publish_one(bus, &to.gateway, body).await {
            Ok(()) => {}
            Err(PublishError::Returned(_)) => {
                code = 1;
                metrics.returned.inc();
                routes.returned(&to.gateway).await;
            }
            Err(
                error @ (PublishError::Full(_)
                | PublishError::Unavailable(_)
                | PublishError::Refused(_)),
            ) => {
                tracing::warn!(%error, gateway = %to.gateway, "deliveries were given up");
                code = 2;
                metrics.abandoned.inc();
            }
        }
    }
    Sent { gateway: to.gateway, since_ns, at_ns: now_ns(), code }
}

async fn publish_one(bus: &SharedBus, gateway: &str, body: Bytes) -> Result<(), PublishError> {
    let give_up = Instant::now() + GIVE_UP;
    let mut pause = RETRY_FIRST;
    loop {
        let result =
            match tokio::time::timeout_at(give_up, bus.publish_outbound(gateway, body.clone()))
                .await
            {
                Ok(result) => result,
                Err(_) => return Err(PublishError::Full(gateway.to_owned())),
            };
        match result {
            Ok(()) => return Ok(()),
            Err(error @ (PublishError::Returned(_) | PublishError::Refused(_))) => {
                return Err(error);
            }
            Err(error @ (PublishError::Full(_) | PublishError::Unavailable(_))) => {
                if Instant::now() >= give_up {
                    return Err(error);
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(RETRY_MAX);
            }
        }
    }
}
