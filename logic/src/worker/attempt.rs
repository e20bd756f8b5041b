//! Handling and committing, until it worked, was refused for good, or the database is away.

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use roost_bus::planted::{Bug, planted};
use roost_protocol::RefusalCode;
use roost_trace::now_ns;

use super::operation::{Item, Operation};
use super::outputs::{Outputs, Refusal};
use super::trace::WorkerTrace;
use crate::handler::{deliver_ack, receipt, send, session};
use crate::ids::MessageIds;
use crate::metrics::Metrics;
use crate::state::State;
use crate::store::{LoadKeys, NewMessage, Quarantined, SharedStore, StoreError};

/// Attempts at one range that identities collide in, before it is bisected: the second one looks every identity up.
const COLLISIONS_MAX: usize = 3;

/// Attempts that other writers or lost connections come between.
const AGAIN_MAX: usize = 5;

/// The state, and what changes it.
pub(super) struct Attempts {
    pub(super) state: State,
    /// One of each database.
    pub(super) ids: Vec<MessageIds>,
    /// A commit of the batch under way failed, and may have happened all the same: what it placed has not been pushed.
    pub(super) is_unsure: bool,
    pub(super) store: SharedStore,
    pub(super) metrics: Arc<Metrics>,
    pub(super) trace: WorkerTrace,
    #[cfg(test)]
    pub(super) before_handle: Option<fn(&[u8])>,
}

/// Why a range was not committed.
enum Failure {
    /// Something in it is refused by the database: find it.
    Bisect(String),
    /// Nothing can be committed now.
    Store(StoreError),
}

/// An operation that made its handler fail, and how.
struct Poison {
    index: usize,
    reason: String,
}

impl Attempts {
    /// Does everything, in order. On error: items from the index on were not done, and nothing of them was said.
    pub(super) async fn run(
        &mut self,
        items: &[Item<'_>],
        partitions: &[u16],
        now_ms: u64,
        outputs: &mut Outputs,
    ) -> Result<(), (usize, StoreError)> {
        let mut ranges = Vec::from([(0..items.len(), None)]);
        while let Some((range, verdict)) = ranges.pop() {
            let Range { start, end } = range;
            let mark = outputs.mark();
            match self.attempt(&items[range], partitions, verdict, now_ms, outputs).await {
                Ok(()) => {}
                Err(Failure::Store(error)) => {
                    outputs.truncate(mark);
                    return Err((start, error));
                }
                Err(Failure::Bisect(reason)) => {
                    outputs.truncate(mark);
                    if end - start <= 1 {
                        ranges.push((start..end, Some(reason)));
                    } else {
                        let middle = usize::midpoint(start, end);
                        ranges.push((middle..end, None));
                        ranges.push((start..middle, None));
                    }
                }
            }
        }
        Ok(())
    }

    /// One range as one transaction. With a verdict its only operation is quarantined instead of handled.
    async fn attempt(
        &mut self,
        items: &[Item<'_>],
        partitions: &[u16],
        verdict: Option<String>,
        now_ms: u64,
        outputs: &mut Outputs,
    ) -> Result<(), Failure> {
        let mut poisoned: Vec<Poison> =
            verdict.map(|reason| Poison { index: 0, reason }).into_iter().collect();
        let (mut collisions, mut agains) = (0, 0);
        let mark = outputs.mark();
        loop {
            outputs.truncate(mark);
            self.trace.begin();
            self.state.begin();
            let done = match self.load(items, partitions, collisions > 0).await {
                Ok(()) => {
                    if let Err(poison) = self.handle(items, &poisoned, now_ms, outputs) {
                        self.state.forget();
                        poisoned.push(poison);
                        continue;
                    }
                    self.commit(items.len()).await
                }
                Err(error) => Err(error),
            };
            match done {
                Ok(()) => break,
                Err(StoreError::Duplicate(reason)) => {
                    self.metrics.identity_collisions.inc();
                    collisions += 1;
                    if collisions == COLLISIONS_MAX {
                        return Err(Failure::Bisect(reason));
                    }
                }
                Err(StoreError::Again(_)) if agains < AGAIN_MAX => {
                    self.metrics.agains.inc();
                    agains += 1;
                    self.state.forget();
                }
                Err(StoreError::Refused(reason)) => return Err(Failure::Bisect(reason)),
                Err(error) => {
                    if let StoreError::Fenced(_) = error {
                        self.state.forget();
                    }
                    return Err(Failure::Store(error));
                }
            }
        }
        self.quarantine(items, &poisoned, now_ms).await.map_err(Failure::Store)
    }

    async fn load(
        &mut self,
        items: &[Item<'_>],
        partitions: &[u16],
        suspicious: bool,
    ) -> Result<(), StoreError> {
        if items.is_empty() {
            return Ok(());
        }
        for renewed in self.store.begin(partitions).await? {
            self.state.forget();
            self.ids[renewed.database] = MessageIds::new(renewed.worker_id, renewed.mark_ms);
        }
        let locks_inboxes = self.store.is_shared();
        let mut keys = LoadKeys { locks_inboxes, ..LoadKeys::default() };
        let state = &self.state;
        for item in items {
            match &item.operation {
                Operation::Send(input) => send::wanted(input, state, &mut keys, suspicious),
                Operation::DeliverAck(caller, ack) => {
                    deliver_ack::wanted(caller, ack, state, &mut keys);
                }
                Operation::Receipt(caller, receipt) => {
                    receipt::wanted(caller, receipt, state, &mut keys);
                }
                Operation::SessionClosed(_)
                | Operation::Read
                | Operation::SessionOpened
                | Operation::Malformed => {}
            }
        }
        if !keys.is_empty() {
            let loaded = self.store.load(&keys).await?;
            self.state.absorb(&keys, loaded);
        }
        Ok(())
    }

    /// Runs all handlers; the first one that panics ends the attempt.
    fn handle(
        &mut self,
        items: &[Item<'_>],
        poisoned: &[Poison],
        now_ms: u64,
        outputs: &mut Outputs,
    ) -> Result<(), Poison> {
        for (index, item) in items.iter().enumerate() {
            if poisoned.iter().any(|poison| poison.index == index) {
                if let Operation::Send(input) = &item.operation {
                    let refusal = Refusal {
                        code: RefusalCode::Quarantined,
                        retry_after_ms: 0,
                        expected_client_seq: 0,
                        detail: "this message could not be handled; the operator has a copy",
                    };
                    send::skip(&mut self.state, input);
                    self.metrics.refused(refusal.code);
                    self.trace.refused(item, refusal.code);
                    outputs.refused(item.body, item.envelope, input.send.client_msg_id, refusal);
                }
                continue;
            }
            // After a panic the state is forgotten, so that half a change is never seen.
            let handled = catch_unwind(AssertUnwindSafe(|| self.handle_one(item, now_ms, outputs)));
            handled.map_err(|panic| Poison { index, reason: panic_text(&*panic) })?;
        }
        Ok(())
    }

    fn handle_one(&mut self, item: &Item<'_>, now_ms: u64, outputs: &mut Outputs) {
        #[cfg(test)]
        if let Some(before_handle) = self.before_handle {
            before_handle(item.payload);
        }
        let (body, envelope) = (item.body, item.envelope);
        match &item.operation {
            Operation::Send(input) => {
                let database = self.store.database_of(input.caller.app, &input.conversation_text);
                let ids = &mut self.ids[database];
                let outcome = send::handle(&mut self.state, ids, now_ms, input);
                self.say(item, input, outcome, outputs);
            }
            Operation::DeliverAck(caller, ack) => {
                for raised in deliver_ack::handle(&mut self.state, caller, ack) {
                    outputs.raised(body, envelope, &raised);
                }
            }
            Operation::Receipt(caller, receipt) => {
                if let Some(raised) = receipt::handle(&mut self.state, caller, receipt) {
                    outputs.raised(body, envelope, &raised);
                }
            }
            Operation::SessionClosed(caller) => session::closed(&mut self.state, caller),
            Operation::Read | Operation::SessionOpened | Operation::Malformed => {}
        }
    }

    fn say(
        &mut self,
        item: &Item<'_>,
        input: &send::Input<'_>,
        outcome: send::Outcome,
        outputs: &mut Outputs,
    ) {
        match outcome {
            send::Outcome::Placed { placed, names, push, repeated } => {
                let push = push || self.is_unsure;
                let counter = if repeated { &self.metrics.repeats } else { &self.metrics.messages };
                counter.inc();
                self.trace.placed(item, &input.conversation_text, &placed, repeated);
                outputs.placed(item.body, item.envelope, input, &placed, push.then_some(&names));
                outputs.trace_last(self.trace.copy_of(item), push);
            }
            send::Outcome::Refused { code, expected_client_seq, detail } => {
                self.metrics.refused(code);
                self.trace.refused(item, code);
                let refusal = Refusal { code, retry_after_ms: 0, expected_client_seq, detail };
                outputs.refused(item.body, item.envelope, input.send.client_msg_id, refusal);
                outputs.trace_last(self.trace.copy_of(item), false);
            }
        }
    }

    /// Of the databases that get messages.
    fn marks(&mut self, messages: &[NewMessage]) -> Vec<(u16, u64)> {
        let mut is_used = vec![false; self.ids.len()];
        for message in messages {
            is_used[self.store.database_of(&message.app, &message.conversation)] = true;
        }
        let used = self.ids.iter_mut().zip(is_used).filter(|(_, is_used)| *is_used);
        used.filter_map(|(ids, _)| ids.poll_mark()).collect()
    }

    async fn commit(&mut self, operations: usize) -> Result<(), StoreError> {
        let mut writes = self.state.take_writes();
        if !writes.messages.is_empty() {
            writes.worker_marks = self.marks(&writes.messages);
        }
        if writes.is_empty() {
            self.store.end().await;
            self.trace.commit(now_ns(), operations);
            return Ok(());
        }
        let (start, start_ns) = (Instant::now(), now_ns());
        let committed = self.store.commit(writes).await;
        let result = if planted(Bug::AckBeforeCommit) { Ok(()) } else { committed };
        match &result {
            Ok(()) => {
                self.trace.commit(start_ns, operations);
                self.metrics.batches.inc();
                self.metrics.batch_operations.observe(operations as f64);
                self.metrics.commit_seconds.observe(start.elapsed().as_secs_f64());
            }
            Err(error) => {
                let is_refused = matches!(error, StoreError::Duplicate(_) | StoreError::Refused(_));
                self.is_unsure |= !is_refused || self.store.databases() > 1;
                self.state.forget();
                self.ids.iter_mut().for_each(MessageIds::forget_mark);
            }
        }
        result
    }

    async fn quarantine(
        &mut self,
        items: &[Item<'_>],
        poisoned: &[Poison],
        now_ms: u64,
    ) -> Result<(), StoreError> {
        for poison in poisoned {
            let item = &items[poison.index];
            let entry = Quarantined {
                app: item.envelope.app.to_owned(),
                user: item.envelope.user.to_owned(),
                device: item.envelope.device.to_owned(),
                frame_kind: item.envelope.frame_kind.as_str(),
                payload: item.payload.to_vec(),
                reason: poison.reason.clone(),
                server_time_ms: now_ms,
            };
            tracing::error!(
                user = entry.user,
                frame_kind = entry.frame_kind,
                reason = entry.reason,
                "an operation made its handler fail and was quarantined"
            );
            self.store.quarantine(&entry).await?;
            self.metrics.quarantined.inc();
            self.trace.quarantined(item, &poison.reason);
        }
        Ok(())
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without text".to_owned())
}
