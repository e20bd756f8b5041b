//! DELIVER_ACK: what a device stored. Watermarks rise by maximum, never beyond the conversation's newest message.
//!
//! A device's cursor is kept for the operator and for retention; the device itself brings it along on every connect. It is
//! therefore written only when it moved far, or when the session ends.

use std::sync::Arc;

use roost_protocol::frame::deliver::DeliverAck;
use roost_protocol::frame::receipt::ReceiptKind;
use roost_protocol::id::{ConversationId, UserId};

use super::{Caller, Raised};
use crate::state::State;
use crate::store::LoadKeys;

/// How far a device's cursor moves before it is written.
const CURSOR_STEP: u64 = 64;

/// Names the rows that are not remembered, or not this far: other processes may have added to them.
pub(crate) fn wanted(
    caller: &Caller<'_>,
    ack: &DeliverAck<'_>,
    state: &State,
    keys: &mut LoadKeys,
) {
    let (app, user) = (caller.app, caller.user.as_str());
    if state.users.peek([app, user]).is_none_or(|known| known.last_inbox_seq < ack.inbox_seq) {
        keys.users.push((app.into(), user.into()));
    }
    for watermark in &ack.watermarks {
        wanted_watermark(app, caller.user, watermark, state, keys);
    }
}

/// Names what raising one watermark needs.
pub(crate) fn wanted_watermark(
    app: &str,
    user: UserId<'_>,
    (conversation, seq): &(ConversationId<'_>, u64),
    state: &State,
    keys: &mut LoadKeys,
) {
    if super::peer(conversation, user).is_none() {
        return;
    }
    let text = conversation.to_string();
    if state.conversations.peek([app, &text]).is_none_or(|known| known.last_seq < *seq) {
        keys.conversations.push((app.into(), text.as_str().into()));
    }
    if !state.watermarks.contains([app, &text, user.as_str()]) {
        keys.watermarks.push((app.into(), text.as_str().into(), user.as_str().into()));
    }
}

/// Merges.
pub(crate) fn handle(state: &mut State, caller: &Caller<'_>, ack: &DeliverAck<'_>) -> Vec<Raised> {
    let (app, user, device) = (caller.app, caller.user.as_str(), caller.device);
    if let Some(entry) = state.users.get([app, user])
        && entry.value.exists
    {
        let inbox_seq = ack.inbox_seq.min(entry.value.last_inbox_seq);
        let [app_name, user_name] = entry.key.0.clone();
        state.devices.insert_absent([&app_name, &user_name, &device.into()]);
        let mut write = false;
        if let Some(entry) = state.devices.get([app, user, device]) {
            entry.value.inbox_seq = entry.value.inbox_seq.max(inbox_seq);
            write = entry.value.inbox_seq >= entry.value.stored_inbox_seq + CURSOR_STEP;
        }
        if write {
            state.devices.change([app, user, device], |_| {});
        }
    }
    ack.watermarks
        .iter()
        .filter_map(|(conversation, seq)| {
            raise(state, caller, conversation, ReceiptKind::Delivered, *seq)
        })
        .collect()
}

/// Raises one watermark, if the caller is a member and it is higher than before.
pub(crate) fn raise(
    state: &mut State,
    caller: &Caller<'_>,
    conversation: &ConversationId<'_>,
    kind: ReceiptKind,
    seq: u64,
) -> Option<Raised> {
    let (app, user) = (caller.app, caller.user);
    let peer = super::peer(conversation, user)?;
    let text = conversation.to_string();
    let last_seq = state.conversations.get([app, &text])?.value.last_seq;
    let seq = seq.min(last_seq);
    let key = [app, &*text, user.as_str()];
    let entry = state.watermarks.get(key)?;
    let before = match kind {
        ReceiptKind::Delivered => entry.value.delivered_seq,
        ReceiptKind::Read => entry.value.read_seq,
    };
    if seq <= before {
        return None;
    }
    let [app_name, conversation_name, user_name] = &entry.key.0;
    let raised = Raised {
        app: Arc::clone(app_name),
        conversation: Arc::clone(conversation_name),
        user: Arc::clone(user_name),
        peer: peer.as_str().into(),
        kind,
        seq,
    };
    state.watermarks.change(key, |watermarks| match kind {
        ReceiptKind::Delivered => watermarks.delivered_seq = seq,
        ReceiptKind::Read => watermarks.read_seq = seq,
    });
    Some(raised)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{ConversationRow, Loaded, UserRow};

    fn caller() -> Caller<'static> {
        let user = UserId::new("bob").unwrap();
        Caller { app: "demo", user, device: "d", session_epoch: 5 }
    }

    fn state() -> State {
        let mut state = State::new();
        let conversation = ConversationId::parse("s:alice:bob").unwrap();
        let mut keys = LoadKeys::default();
        let ack = DeliverAck { inbox_seq: 1, watermarks: vec![(conversation, 1)] };
        wanted(&caller(), &ack, &state, &mut keys);
        assert_eq!((keys.conversations.len(), keys.users.len(), keys.watermarks.len()), (1, 1, 1));
        let loaded = Loaded {
            conversations: vec![ConversationRow {
                app: "demo".into(),
                conversation: "s:alice:bob".into(),
                last_seq: 10,
            }],
            users: vec![UserRow { app: "demo".into(), user: "bob".into(), last_inbox_seq: 500 }],
            ..Loaded::default()
        };
        state.absorb(&keys, loaded);
        state
    }

    fn ack(state: &mut State, inbox_seq: u64, conversation: &str, seq: u64) -> Vec<u64> {
        let conversation = ConversationId::parse(conversation).unwrap();
        let ack = DeliverAck { inbox_seq, watermarks: vec![(conversation, seq)] };
        handle(state, &caller(), &ack).iter().map(|raised| raised.seq).collect()
    }

    #[test]
    fn watermarks_rise_and_never_pass_the_newest_message() {
        let mut state = state();
        assert_eq!(ack(&mut state, 0, "s:alice:bob", 4), [4]);
        assert_eq!(ack(&mut state, 0, "s:alice:bob", 3), [0; 0]);
        assert_eq!(ack(&mut state, 0, "s:alice:bob", 99), [10]);
        assert_eq!(ack(&mut state, 0, "s:alice:carol", 99), [0; 0], "not a member");
        assert_eq!(ack(&mut state, 0, "g:team", 99), [0; 0]);
        let writes = state.take_writes();
        assert_eq!(writes.watermarks.len(), 1);
        assert_eq!(writes.watermarks[0].delivered_seq, 10);
    }

    #[test]
    fn a_cursor_is_written_when_it_moved_far() {
        let mut state = state();
        ack(&mut state, 63, "s:alice:bob", 1);
        assert!(state.take_writes().device_cursors.is_empty());
        ack(&mut state, 64, "s:alice:bob", 1);
        assert_eq!(state.take_writes().device_cursors[0].inbox_seq, 64);
        ack(&mut state, 9_999, "s:alice:bob", 1);
        let written = state.take_writes().device_cursors[0].inbox_seq;
        assert_eq!(written, 500, "never beyond the inbox");
    }
}
