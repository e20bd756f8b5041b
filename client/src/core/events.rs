//! Events on their way to the application, and which messages it is done with.
//!
//! Asking for the next event says that the one before was dealt with: only then does a message count as stored.

use std::collections::VecDeque;

use super::conversations::{ConversationIndex, Conversations};
use super::event::{Event, Message};

/// The queue towards the application.
#[derive(Debug, Default)]
pub(crate) struct Events {
    queue: VecDeque<Queued>,
    /// The message given out last.
    unconfirmed: Option<Unconfirmed>,
}

#[derive(Debug)]
enum Queued {
    Message(ConversationIndex, Box<Message>),
    Other(Box<Event>),
}

#[derive(Debug, Clone, Copy)]
struct Unconfirmed {
    conversation: ConversationIndex,
    seq: u64,
    inbox_seq: u64,
    from_this_device: bool,
}

impl Events {
    pub(crate) fn push(&mut self, event: Event) {
        self.queue.push_back(Queued::Other(Box::new(event)));
    }

    pub(crate) fn push_message(&mut self, conversation: ConversationIndex, message: Box<Message>) {
        self.queue.push_back(Queued::Message(conversation, message));
    }

    pub(crate) fn len(&self) -> usize {
        self.queue.len()
    }

    /// The next event.
    pub(crate) fn poll(&mut self) -> Option<Event> {
        let queued = self.queue.pop_front();
        if queued.is_none() && self.queue.capacity() > 16 {
            self.queue.shrink_to(4);
        }
        match queued? {
            Queued::Other(event) => Some(*event),
            Queued::Message(conversation, message) => {
                self.unconfirmed = Some(Unconfirmed {
                    conversation,
                    seq: message.seq,
                    inbox_seq: message.inbox_seq,
                    from_this_device: message.from_this_device,
                });
                Some(Event::Message(*message))
            }
        }
    }

    /// The application is done with the last message: conversation and inbox position, when a DELIVER_ACK has to tell it.
    pub(crate) fn confirm(
        &mut self,
        conversations: &mut Conversations,
    ) -> Option<(ConversationIndex, u64)> {
        let done = self.unconfirmed.take()?;
        let conversation = &mut conversations[done.conversation];
        conversation.stored = conversation.stored.max(done.seq);
        (!done.from_this_device).then_some((done.conversation, done.inbox_seq))
    }

    /// Lowest inbox position among messages that the application is not done with.
    pub(crate) fn lowest_inbox_seq(&self) -> Option<u64> {
        let queued = self.queue.iter().filter_map(|q| match q {
            Queued::Message(_, message) => Some(message.inbox_seq),
            Queued::Other(_) => None,
        });
        let unconfirmed = self.unconfirmed.map(|u| u.inbox_seq);
        queued.chain(unconfirmed).filter(|&seq| seq != 0).min()
    }

    /// A message that was shown without its inbox position turns out to stand there.
    pub(crate) fn attach(&mut self, conversation: ConversationIndex, seq: u64, inbox_seq: u64) {
        for queued in &mut self.queue {
            match queued {
                Queued::Message(index, message) if *index == conversation && message.seq == seq => {
                    message.inbox_seq = inbox_seq;
                }
                Queued::Message(..) | Queued::Other(_) => {}
            }
        }
        if let Some(last) = &mut self.unconfirmed
            && last.conversation == conversation
            && last.seq == seq
        {
            last.inbox_seq = inbox_seq;
        }
    }
}
