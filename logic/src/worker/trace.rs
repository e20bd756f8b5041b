//! What a worker records of traced messages. What is said in an attempt is kept until its transaction is committed, as answers are.

use std::sync::Arc;

use roost_protocol::{ClientMsgId, RefusalCode};
use roost_trace::{Hop, Passage, Text, TraceWriter, now_ns};

use super::operation::{Item, Operation};
use crate::store::Placed;

/// One copy of a traced message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TracedCopy {
    pub(super) id: ClientMsgId,
    /// When the gateway read it.
    pub(super) received_us: u64,
}

impl TracedCopy {
    fn at(self, hop: Hop, at_ns: u64) -> Passage {
        let Self { id, received_us } = self;
        Passage { received_us, ..Passage::new(id, hop, at_ns) }
    }
}

/// The ring of one worker.
#[derive(Debug)]
pub(super) struct WorkerTrace {
    writer: TraceWriter,
    /// Of the attempt that is under way.
    said: Vec<Passage>,
}

impl WorkerTrace {
    pub(super) fn new(writer: TraceWriter) -> Self {
        Self { writer, said: Vec::new() }
    }

    /// The message of an item, when it is traced.
    pub(super) fn copy_of(&self, item: &Item<'_>) -> Option<TracedCopy> {
        match &item.operation {
            Operation::Send(input) => {
                let (id, received_us) = (input.send.client_msg_id, item.envelope.received_us);
                self.writer.wants(id).then_some(TracedCopy { id, received_us })
            }
            Operation::DeliverAck(..)
            | Operation::Receipt(..)
            | Operation::SessionClosed(_)
            | Operation::Read
            | Operation::SessionOpened
            | Operation::Malformed => None,
        }
    }

    /// Items were taken. Returns the traced ones as they will be acknowledged, each with its body.
    pub(super) fn taken<'a>(
        &mut self,
        items: &[Item<'a>],
        delivered: impl Fn(usize) -> (u16, bool),
    ) -> Vec<(usize, Passage)> {
        if self.writer.is_off() {
            return Vec::new();
        }
        let mut taken = Vec::new();
        let at_ns = now_ns();
        for item in items {
            let Some(copy) = self.copy_of(item) else { continue };
            let (partition, is_redelivered) = delivered(item.body);
            let (number, code) = (partition.into(), is_redelivered.into());
            let passage = Passage { number, code, ..copy.at(Hop::Taken, at_ns) };
            self.writer.record(&passage);
            taken.push((item.body, Passage { hop: Hop::Acknowledged, ..passage }));
        }
        taken
    }

    /// An attempt begins: nothing of the one before was said to anybody.
    pub(super) fn begin(&mut self) {
        self.said.clear();
    }

    /// It has its place, or had it.
    pub(super) fn placed(
        &mut self,
        item: &Item<'_>,
        conversation: &str,
        placed: &Placed,
        is_repeated: bool,
    ) {
        let Some(copy) = self.copy_of(item) else { return };
        self.said.push(Passage {
            message_id: placed.message_id,
            number: placed.seq,
            code: is_repeated.into(),
            text: Text::new(conversation),
            ..copy.at(Hop::Committed, 0)
        });
    }

    /// It will not have one.
    pub(super) fn refused(&mut self, item: &Item<'_>, code: RefusalCode) {
        let Some(copy) = self.copy_of(item) else { return };
        self.said.push(Passage { code: code as u16, ..copy.at(Hop::RefusedByLogic, 0) });
    }

    /// The attempt is committed, in a transaction of so many operations whose commit began then.
    pub(super) fn commit(&mut self, since_ns: u64, operations: usize) {
        if self.said.is_empty() {
            return;
        }
        let at_ns = now_ns();
        let count = u32::try_from(operations).unwrap_or(u32::MAX);
        for passage in self.said.drain(..) {
            let is_commit = passage.hop == Hop::Committed;
            let (since_ns, count) = if is_commit { (since_ns, count) } else { (at_ns, 0) };
            self.writer.record(&Passage { at_ns, since_ns, count, ..passage });
        }
    }

    /// Nothing was committed, and it is refused all the same.
    pub(super) fn refuse_now(&mut self, item: &Item<'_>, code: RefusalCode) {
        let Some(copy) = self.copy_of(item) else { return };
        self.writer
            .record(&Passage { code: code as u16, ..copy.at(Hop::RefusedByLogic, now_ns()) });
    }

    pub(super) fn quarantined(&mut self, item: &Item<'_>, reason: &str) {
        let Some(copy) = self.copy_of(item) else { return };
        let text = Text::new(reason);
        self.writer.record(&Passage { text, ..copy.at(Hop::Quarantined, now_ns()) });
    }
}

/// An answer or a push of a traced message, and the gateways it goes to.
#[derive(Debug)]
pub(super) struct TracedOutput {
    pub(super) copy: TracedCopy,
    /// What it is when the bus has confirmed it.
    pub(super) hop: Hop,
    pub(super) gateways: Vec<Arc<str>>,
    /// Something else to say of it: its receiver is offline, or nobody knows.
    pub(super) missed: Option<(Hop, Text)>,
}

/// What became of the bodies of one gateway.
#[derive(Debug)]
pub(super) struct Sent {
    pub(super) gateway: Arc<str>,
    pub(super) since_ns: u64,
    pub(super) at_ns: u64,
    /// 0: confirmed; else as [`Hop::PushFailed`] says.
    pub(super) code: u16,
}

/// Records the second half: after the bus has answered, before bodies are acknowledged.
pub(super) fn record_sent(writer: &mut TraceWriter, outputs: &[TracedOutput], sent: &[Sent]) {
    for output in outputs {
        if let Some((hop, text)) = output.missed {
            let at_ns = sent.first().map_or_else(now_ns, |sent| sent.since_ns);
            writer.record(&Passage { text, ..output.copy.at(hop, at_ns) });
        }
        for sent in sent.iter().filter(|sent| output.gateways.contains(&sent.gateway)) {
            let hop = if sent.code == 0 { output.hop } else { Hop::PushFailed };
            writer.record(&Passage {
                since_ns: sent.since_ns,
                code: sent.code,
                text: Text::new(&sent.gateway),
                ..output.copy.at(hop, sent.at_ns)
            });
        }
    }
}

/// The bodies they came in are acknowledged.
pub(super) fn record_acknowledged(writer: &mut TraceWriter, acknowledged: &[Passage]) {
    if acknowledged.is_empty() {
        return;
    }
    let at_ns = now_ns();
    for passage in acknowledged {
        writer.record(&Passage { at_ns, ..*passage });
    }
}
