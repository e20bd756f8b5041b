//! Tells the shards when the ring changed, so that they send away who belongs elsewhere now.
//!
//! Not at once: gateways that start or stop together change the ring several times in a row, and each gateway waits for another moment.

use std::time::Duration;

use roost_membership::RingWatch;

use crate::gateway::ShedPlan;
use crate::router::ShardMailboxes;
use crate::shard::message::{ShardMessage, ShardShedPlan};

/// Works for ever. Ends when dropped.
pub(super) async fn run(mut ring: RingWatch, plan: ShedPlan, mailboxes: ShardMailboxes) {
    let shards = u32::try_from(mailboxes.len()).unwrap_or(u32::MAX);
    let pause = Duration::from_secs(1) * shards / plan.per_second.get();
    loop {
        ring.changed().await;
        tokio::time::sleep(plan.settle.mul_f64(0.5 + random_part() / 2.0)).await;
        for mailbox in &mailboxes {
            let message = ShardMessage::Shed(ShardShedPlan { pause });
            if let Err(message) = mailbox.send(message) {
                mailbox.send_when_room(message).await;
            }
        }
    }
}

/// From 0 to 1. Without randomness all gateways wait alike, which is slower, not wrong.
fn random_part() -> f64 {
    let mut bytes = [0; 4];
    _ = getrandom::fill(&mut bytes);
    f64::from(u32::from_ne_bytes(bytes)) / f64::from(u32::MAX)
}
