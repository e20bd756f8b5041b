//! Questions of the core and their answers: the inbox after the cursor, holes in conversations, and what the application asked.

use std::time::Duration;

use roost_protocol::ConversationId;
use roost_protocol::frame::deliver::Message as WireMessage;
use roost_protocol::frame::receipt::ReceiptKind;
use roost_protocol::frame::request::{MemberWatermarks, Response};

use super::Core;
use super::conversations::ConversationIndex;
use super::event::Event;
use super::inbox::Gap;
use super::requests::{Pending, Question};

impl Core {
    pub(super) fn on_response(&mut self, correlation: u16, response: Response<'_>) {
        let Some(pending) = self.requests.take(correlation) else { return };
        match (pending.question, response) {
            (question, Response::Refused { code, retry_after_ms, detail }) => {
                if code.is_retryable() || question.is_pull() {
                    let wait = Duration::from_millis(u64::from(retry_after_ms));
                    self.requests.put_back(self.now, pending, wait, &mut self.rng);
                } else {
                    let detail = detail.into();
                    self.events.push(Event::RequestRefused { request: correlation, code, detail });
                }
            }
            (
                Question::Sync { after, .. },
                Response::SyncPage { entries, latest_inbox_seq, more },
            ) => {
                self.on_sync_page(after, &entries, latest_inbox_seq, more);
            }
            (
                Question::Gap { index, after, before, .. },
                Response::HistoryPage { messages, more, .. },
            ) => {
                self.on_gap_page(index, (after, before), &messages, more);
            }
            (
                Question::History { index, .. },
                Response::HistoryPage { messages, latest_seq, more, .. },
            ) => {
                let messages = messages.iter().map(|m| *self.message(index, m, 0)).collect();
                let request = correlation;
                self.events.push(Event::History { request, messages, latest_seq, more });
            }
            (Question::Watermarks { .. }, Response::WatermarksPage { conversation, members }) => {
                self.on_watermarks(conversation, &members);
            }
            (
                _,
                Response::SyncPage { .. }
                | Response::HistoryPage { .. }
                | Response::WatermarksPage { .. },
            ) => self.ask_again(pending),
        }
    }

    /// The answer is to another question: a mistake of the server, worth another try, slowly.
    fn ask_again(&mut self, pending: Pending) {
        let wait = self.tuning.request_timeout;
        self.requests.put_back(self.now, pending, wait, &mut self.rng);
    }

    fn on_sync_page(
        &mut self,
        after: u64,
        entries: &[(u64, WireMessage<'_>)],
        latest_inbox_seq: u64,
        more: bool,
    ) {
        if !self.inbox.has_begun() {
            // Asked only for the end of the inbox.
            self.inbox.begin_after(latest_inbox_seq);
            self.finish_sync();
            return;
        }
        let page: Vec<u64> = entries.iter().map(|(inbox_seq, _)| *inbox_seq).collect();
        for (inbox_seq, message) in entries {
            self.on_message(message, *inbox_seq);
        }
        let all_taken = self.inbox.close_page(after, &page);
        self.inbox.on_latest(latest_inbox_seq);
        if more && all_taken && !page.is_empty() {
            self.pull();
        } else if all_taken {
            self.finish_sync();
        }
    }

    fn finish_sync(&mut self) {
        self.inbox.on_synced(&mut self.conversations, &mut self.events);
        self.events.push(Event::Synced { inbox_seq: self.inbox.watermark() });
        if let Some(Gap::Conversation { .. }) = self.inbox.gap(&self.conversations) {
            self.pull();
        }
    }

    fn on_gap_page(
        &mut self,
        index: ConversationIndex,
        (after, before): (u64, u64),
        messages: &[WireMessage<'_>],
        more: bool,
    ) {
        for message in messages {
            if self.conversations.index_of(message.conversation) == index {
                self.on_message(message, 0);
            }
        }
        let progressed = self.conversations[index].shown.is_some_and(|shown| shown > after);
        if !progressed && (!messages.is_empty() || !more) {
            let first = messages.iter().map(|m| m.seq).filter(|&seq| seq > after).min();
            let before = first.unwrap_or(before).min(before);
            self.inbox.skip_gap(index, before, &mut self.conversations, &mut self.events);
        } else if !progressed {
            return;
        }
        if let Some(Gap::Conversation { .. }) = self.inbox.gap(&self.conversations) {
            self.pull();
        }
    }

    fn on_watermarks(
        &mut self,
        conversation: ConversationId<'_>,
        members: &[MemberWatermarks<'_>],
    ) {
        for m in members {
            let user = m.user.as_str();
            let kinds =
                [(ReceiptKind::Delivered, m.delivered_seq), (ReceiptKind::Read, m.read_seq)];
            for (kind, seq) in kinds {
                self.merge_receipt(conversation, user, kind, seq, (false, 0));
            }
        }
    }

    /// A hole gets a moment to fill by itself: deliveries of two conversations may overtake each other.
    pub(super) fn plan_pull(&mut self) {
        if !self.is_online() || self.requests.is_pulling() {
            return;
        }
        match self.inbox.gap(&self.conversations) {
            Some(_) => {
                self.pull_at.get_or_insert(self.now + self.tuning.gap_delay);
            }
            None => self.pull_at = None,
        }
    }

    /// Asks for what is missing.
    pub(super) fn pull(&mut self) {
        self.pull_at = None;
        if !self.is_online() || self.requests.is_pulling() {
            return;
        }
        let limit = self.tuning.page_messages;
        let question = match self.inbox.gap(&self.conversations) {
            Some(Gap::Conversation { index, after, before }) => {
                Question::Gap { index, after, before, limit }
            }
            Some(Gap::Inbox) | None => return self.sync(),
        };
        let correlation = self.next_correlation();
        self.requests.add(self.now, correlation, question);
    }

    /// Asks for the inbox after the cursor; a device that does not know where it begins asks for its end only.
    pub(super) fn sync(&mut self) {
        self.inbox.on_sync_asked();
        let question = if self.inbox.has_begun() {
            Question::Sync { after: self.inbox.watermark(), limit: self.tuning.page_messages }
        } else {
            Question::Sync { after: 0, limit: 1 }
        };
        let correlation = self.next_correlation();
        self.requests.add(self.now, correlation, question);
    }
}
