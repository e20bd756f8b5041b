//! REQUEST: pages of what is stored. Authorisation against membership, and cutting a page to one frame.

use roost_protocol::RefusalCode;
use roost_protocol::frame::deliver::Message;
use roost_protocol::frame::request::{MemberWatermarks, PageBudget, Response};
use roost_protocol::frame::send::MessageKind;
use roost_protocol::id::{ClientMsgId, ConversationId, UserId};

use crate::store::{InboxMessage, StoredMessage, WatermarkRow};

/// What is said when the conversation does not exist, and when it is somebody else's.
pub(crate) const UNKNOWN_CONVERSATION: Response<'static> = Response::Refused {
    code: RefusalCode::UnknownConversation,
    retry_after_ms: 0,
    detail: "no such conversation of this user",
};

/// Whether `user` may read `conversation`.
pub(crate) fn may_read(user: UserId<'_>, conversation: &ConversationId<'_>) -> bool {
    super::peer(conversation, user).is_some()
}

/// Rows to ask the store for: one more than the page, so that it is known whether more exist.
pub(crate) fn rows_wanted(limit: u16) -> usize {
    PageBudget::new(limit).messages_left() + 1
}

/// A stored message as it stands on the wire; `None` when the row does not hold what was once accepted.
pub(crate) fn message(stored: &StoredMessage) -> Option<Message<'_>> {
    Some(Message {
        conversation: ConversationId::parse(&stored.conversation).ok()?,
        seq: stored.seq,
        message_id: stored.message_id,
        sender: UserId::new(&stored.sender).ok()?,
        client_msg_id: ClientMsgId(stored.client_msg_id),
        kind: MessageKind(stored.kind),
        body: &stored.body,
        server_time_ms: stored.server_time_ms,
    })
}

fn fits(budget: &mut PageBudget, stored: &StoredMessage) -> bool {
    budget.take(stored.conversation.len(), stored.sender.len(), stored.body.len())
}

/// The page of an inbox.
pub(crate) fn sync_page(rows: &[InboxMessage], limit: u16, latest_inbox_seq: u64) -> Response<'_> {
    let mut budget = PageBudget::new(limit);
    let taken = rows.iter().take_while(|row| fits(&mut budget, &row.message)).count();
    let entries: Vec<_> = rows[..taken]
        .iter()
        .filter_map(|row| Some((row.inbox_seq, message(&row.message)?)))
        .collect();
    // A commit between the two reads may have added entries.
    let latest_inbox_seq =
        rows.last().map_or(latest_inbox_seq, |r| r.inbox_seq.max(latest_inbox_seq));
    let more = taken < rows.len();
    Response::SyncPage { entries, latest_inbox_seq, more }
}

/// The page of a conversation, in the order of `rows`.
pub(crate) fn history_page<'a>(
    conversation: ConversationId<'a>,
    rows: &'a [StoredMessage],
    limit: u16,
    latest_seq: u64,
) -> Response<'a> {
    let mut budget = PageBudget::new(limit);
    let taken = rows.iter().take_while(|row| fits(&mut budget, row)).count();
    let messages = rows[..taken].iter().filter_map(message).collect();
    let latest_seq = rows.iter().map(|row| row.seq).fold(latest_seq, u64::max);
    Response::HistoryPage { conversation, messages, latest_seq, more: taken < rows.len() }
}

/// Watermarks of both members; who has none stands at 0.
pub(crate) fn member_watermarks<'a>(
    conversation: ConversationId<'a>,
    rows: &[WatermarkRow],
) -> Vec<MemberWatermarks<'a>> {
    let of = |user: UserId<'a>| {
        let row = rows.iter().find(|row| &*row.user == user.as_str());
        MemberWatermarks {
            user,
            delivered_seq: row.map_or(0, |r| r.delivered_seq),
            read_seq: row.map_or(0, |r| r.read_seq),
        }
    };
    match conversation {
        ConversationId::Single(a, b) if a == b => vec![of(a)],
        ConversationId::Single(a, b) => vec![of(a), of(b)],
        ConversationId::Group(_) | ConversationId::Room(_) => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use roost_protocol::Encoder;
    use roost_protocol::limits::{BODY_BYTES_MAX, FRAME_BYTES_MAX, HEADER_BYTES};

    fn rows(count: u64, body_bytes: usize) -> Vec<InboxMessage> {
        let message = |seq| StoredMessage {
            conversation: "s:alice:bob".to_owned(),
            seq,
            message_id: seq,
            sender: "alice".to_owned(),
            client_msg_id: [1; 16],
            kind: 1,
            server_time_ms: 2,
            body: vec![0; body_bytes],
        };
        (1..=count).map(|seq| InboxMessage { inbox_seq: seq, message: message(seq) }).collect()
    }

    #[track_caller]
    fn check(rows_count: u64, body_bytes: usize, limit: u16, expected: (usize, bool)) {
        let rows = rows(rows_count, body_bytes);
        let page = sync_page(&rows, limit, rows_count);
        let mut encoder = Encoder::new();
        let payload = page.payload(&mut encoder).to_vec();
        assert!(HEADER_BYTES + payload.len() <= FRAME_BYTES_MAX);
        let Ok(Response::SyncPage { entries, more, .. }) = Response::decode(&payload) else {
            panic!("a page")
        };
        assert_eq!((entries.len(), more), expected);
    }

    #[test]
    fn pages_fit_one_frame() {
        check(0, 0, 20, (0, false));
        check(20, 10, 20, (20, false));
        check(21, 10, 20, (20, true));
        check(21, 10, 0, (20, true));
        check(201, 1, 1000, (200, true));
        check(20, BODY_BYTES_MAX, 20, (3, true));
    }
}
