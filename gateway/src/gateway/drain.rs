//! Leaving without losing anything: see the order at [`super`].

use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use super::GatewayHandle;
use super::shards::Shards;
use crate::config::DrainSettings;
use crate::control::Phase;
use crate::shard::message::{DrainPlan, ShardMessage};

/// How long the shards may take to close what is left after the deadline.
const SHUTDOWN_TIME: Duration = Duration::from_secs(5);
/// How long the bus may take to confirm the last messages. Those are not lost: no client has an acknowledgement for them.
const CONFIRM_TIME: Duration = Duration::from_secs(3);
/// Pause before a full mailbox is tried again.
const MAILBOX_RETRY: Duration = Duration::from_millis(1);

/// How a drain went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DrainReport {
    /// Connections when it began.
    pub connections: u64,
    /// Of them, still there at the deadline and closed without further ado.
    pub cut_off: u64,
    /// Messages the bus had not confirmed at the end; their senders send them again.
    pub unconfirmed: u64,
    /// How long it took.
    pub took: Duration,
}

impl GatewayHandle {
    /// Leaves as configured: not ready, no new clients, GO_AWAY to everyone, paced, then Close(draining); at the latest at the
    /// deadline everything is closed. Blocks until all threads have ended.
    pub fn drain(self) -> DrainReport {
        let DrainSettings { go_away_window, reconnect_after_max, close_after, .. } =
            self.context.config.drain;
        let plan = DrainPlan { go_away_window, reconnect_after_max, close_after };
        let deadline = self.context.config.drain.deadline;
        self.end(ShardMessage::Drain(plan), deadline)
    }

    /// Leaves at once: every connection is closed with `draining`. Blocks until all threads have ended.
    pub fn shutdown(self) -> DrainReport {
        self.end(ShardMessage::Shutdown, SHUTDOWN_TIME)
    }

    fn end(mut self, message: ShardMessage, deadline: Duration) -> DrainReport {
        let start = Instant::now();
        let connections = self.status.connections();
        tracing::info!(connections, ?message, "leaving");
        self.status.is_draining.store(true, Ordering::Relaxed);
        self.acceptor.stop();
        let until = start + deadline;
        self.shards.tell(&message, until);
        let mut left = self.shards.threads.len();
        wait_for(&self.shards.ended, &mut left, until);
        let mut cut_off = 0;
        if left > 0 {
            cut_off = self.status.connections();
            tracing::warn!(connections = cut_off, "still connected at the deadline: closed now");
            let until = Instant::now() + SHUTDOWN_TIME;
            self.shards.tell(&ShardMessage::Shutdown, until);
            wait_for(&self.shards.ended, &mut left, until);
        }
        self.control.phase.send_replace(Phase::Finish);
        if self.control.ended.recv_timeout(CONFIRM_TIME).is_err() {
            self.control.phase.send_replace(Phase::Abandon);
        }
        if left == 0 {
            join(self.shards.threads);
        } else {
            tracing::error!(shards = left, "shards did not end; the process ends without them");
        }
        join([self.control.thread]);
        let unconfirmed = self.gate.messages();
        let report = DrainReport { connections, cut_off, unconfirmed, took: start.elapsed() };
        tracing::info!(?report, "left");
        report
    }
}

impl Shards {
    /// Puts the message into every mailbox, waiting for room until `until`.
    fn tell(&self, message: &ShardMessage, until: Instant) {
        for mailbox in &self.mailboxes {
            while mailbox.send(copy(message)).is_err() && Instant::now() < until {
                std::thread::sleep(MAILBOX_RETRY);
            }
        }
    }
}

/// Only what ends a shard is sent to all of them.
fn copy(message: &ShardMessage) -> ShardMessage {
    match message {
        ShardMessage::Drain(plan) => ShardMessage::Drain(*plan),
        ShardMessage::Shutdown | ShardMessage::Shed(_) | ShardMessage::Batch(_) => {
            ShardMessage::Shutdown
        }
    }
}

fn wait_for(ended: &mpsc::Receiver<()>, left: &mut usize, until: Instant) {
    while *left > 0 {
        let wait = until.saturating_duration_since(Instant::now());
        match ended.recv_timeout(wait) {
            Ok(()) => *left -= 1,
            Err(_) => return,
        }
    }
}

fn join(threads: impl IntoIterator<Item = std::thread::JoinHandle<()>>) {
    for thread in threads {
        // A panic of a shard aborts the process; one of the control thread was printed.
        _ = thread.join();
    }
}
