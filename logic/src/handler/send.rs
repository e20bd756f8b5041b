//! SEND: identity first, then order, then permission, then the place.
//!
//! ```text
//! known client_msg_id, same payload   -> the same acknowledgement, for ever
//! known client_msg_id, other payload  -> id_reuse
//! epoch lower than the device's last  -> stale_session
//! client_seq beyond the next          -> out_of_order{expected}
//! definite refusal                    -> refused, the number is consumed
//! client_seq taken before             -> out_of_order{expected}: the client numbers it anew
//! next client_seq                     -> accepted: seq, message_id, inbox positions
//! ```

use std::sync::Arc;

use bytes::Bytes;
use roost_bus::planted::{Bug, planted};
use roost_protocol::RefusalCode;
use roost_protocol::frame::send::Send;
use roost_protocol::id::{ConversationId, UserId};
use roost_protocol::limits::BODY_BYTES_MAX;
use sha2::{Digest, Sha256};

use super::Caller;
use crate::ids::MessageIds;
use crate::state::{Identity, SendCursor, State};
use crate::store::{IdentityKey, LoadKeys, Name, NewMessage, Placed};

/// A message of a caller.
#[derive(Debug)]
pub(crate) struct Input<'a> {
    pub(crate) caller: Caller<'a>,
    pub(crate) send: Send<'a>,
    /// The body, as a slice of what arrived.
    pub(crate) body: Bytes,
    /// The conversation it goes to, and its text.
    pub(crate) conversation: ConversationId<'a>,
    pub(crate) conversation_text: String,
    /// Handled before, perhaps: a push may have been lost, so it is repeated.
    pub(crate) redelivered: bool,
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Stored now, or before: acknowledged, and pushed if `push`.
    Placed { placed: Placed, names: Names, push: bool, repeated: bool },
    /// Not accepted.
    Refused { code: RefusalCode, expected_client_seq: u32, detail: &'static str },
}

/// Names of an accepted message, shared with the rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Names {
    pub(crate) app: Name,
    pub(crate) sender: Name,
    pub(crate) peer: Name,
}

/// Frozen: stored beside every message, compared on every repeat.
pub(crate) fn payload_hash(kind: u8, body: &[u8]) -> i64 {
    let digest = Sha256::new().chain_update([kind]).chain_update(body).finalize();
    let mut first = [0; 8];
    first.copy_from_slice(&digest[..8]);
    i64::from_le_bytes(first)
}

/// Names the rows that are not remembered. `suspicious`: look identities up even where none is expected to be known.
pub(crate) fn wanted(input: &Input<'_>, state: &State, keys: &mut LoadKeys, suspicious: bool) {
    let Caller { app, user, device, session_epoch } = input.caller;
    let conversation = &*input.conversation_text;
    let Some(peer) = super::peer(&input.conversation, user) else { return };
    let app_name = || Name::from(app);
    if !state.conversations.contains([app, conversation]) {
        keys.conversations.push((app_name(), conversation.into()));
    }
    for member in [user, peer] {
        if !state.users.contains([app, member.as_str()]) {
            keys.users.push((app_name(), member.as_str().into()));
        }
    }
    if keys.locks_inboxes {
        keys.inboxes.push((app_name(), user.as_str().into()));
        keys.inboxes.push((app_name(), peer.as_str().into()));
    }
    let cursor = state.cursors.peek([app, conversation, user.as_str(), device]);
    if cursor.is_none() && session_epoch != 0 {
        keys.cursors.push((app_name(), conversation.into(), user.as_str().into(), device.into()));
    }
    // The next number of a running session is almost surely new; if not, the unique index says so and the batch is done
    // again suspiciously. Everything else may well be a repeat.
    let in_sequence = cursor.is_some_and(|cursor| {
        cursor.session_epoch == session_epoch && input.send.client_seq > cursor.client_seq
    });
    if suspicious || input.redelivered || session_epoch == 0 || !in_sequence {
        let identity = identity(input);
        if state.acknowledged.get(&identity).is_none() {
            keys.identities.push(IdentityKey {
                app: app_name(),
                conversation: conversation.into(),
                sender: user.as_str().into(),
                client_msg_id: identity.client_msg_id,
            });
        }
    }
}

fn identity<'a>(input: &'a Input<'_>) -> Identity<'a> {
    Identity {
        app: input.caller.app,
        conversation: &input.conversation_text,
        sender: input.caller.user.as_str(),
        client_msg_id: input.send.client_msg_id.0,
    }
}

/// Where `client_seq` stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    Next,
    /// Taken before; the next is this.
    Before(u32),
    /// Too far; the next is this.
    Beyond(u32),
    Stale,
}

fn order(state: &mut State, input: &Input<'_>) -> Order {
    let Caller { app, user, device, session_epoch } = input.caller;
    if session_epoch == 0 {
        return Order::Next;
    }
    let cursor = state
        .cursors
        .get([app, &input.conversation_text, user.as_str(), device])
        .map_or(SendCursor::default(), |entry| entry.value);
    if session_epoch < cursor.session_epoch && !planted(Bug::AcceptStaleEpoch) {
        return Order::Stale;
    }
    let taken = if session_epoch == cursor.session_epoch { cursor.client_seq } else { 0 };
    let expected = taken.saturating_add(1);
    match input.send.client_seq.cmp(&expected) {
        std::cmp::Ordering::Less => Order::Before(expected),
        std::cmp::Ordering::Equal => Order::Next,
        std::cmp::Ordering::Greater => Order::Beyond(expected),
    }
}

/// Takes the number. Durable only beside a stored message: a number lost with a refusal makes the client count anew.
fn consume(state: &mut State, input: &Input<'_>, durable: bool) {
    let Caller { app, user, device, session_epoch } = input.caller;
    if session_epoch == 0 {
        return;
    }
    let next = SendCursor { session_epoch, client_seq: input.send.client_seq };
    let key = [app, &*input.conversation_text, user.as_str(), device];
    if durable {
        state.cursors.change(key, |cursor| *cursor = next);
    } else if let Some(entry) = state.cursors.get(key) {
        entry.value = next;
    }
}

/// Takes the number of a send that is refused without being handled.
pub(crate) fn skip(state: &mut State, input: &Input<'_>) {
    if order(state, input) == Order::Next {
        consume(state, input, false);
    }
}

/// Decides.
pub(crate) fn handle(
    state: &mut State,
    ids: &mut MessageIds,
    now_ms: u64,
    input: &Input<'_>,
) -> Outcome {
    let Caller { app, user, .. } = input.caller;
    let Some(peer) = super::peer(&input.conversation, user) else {
        return refused(RefusalCode::UnknownConversation, "no such conversation of this user");
    };
    let order = order(state, input);
    let payload_hash = payload_hash(input.send.kind.0, input.send.body);
    if let Some(placed) = state.acknowledged.get(&identity(input))
        && !planted(Bug::SkipDedupe)
    {
        if order == Order::Next {
            consume(state, input, true);
        }
        if placed.payload_hash != payload_hash {
            return refused(
                RefusalCode::IdReuse,
                "this client_msg_id was sent with another payload",
            );
        }
        let names = names(state, app, user, peer);
        return Outcome::Placed { placed, names, push: input.redelivered, repeated: true };
    }
    match order {
        Order::Stale => {
            return refused(RefusalCode::StaleSession, "a newer session of this device exists");
        }
        Order::Beyond(expected) => return out_of_order(expected),
        Order::Next | Order::Before(_) => {}
    }
    if let Some(outcome) = definite_refusal(state, input, peer) {
        if order == Order::Next {
            consume(state, input, false);
        }
        return outcome;
    }
    match order {
        Order::Before(expected) => out_of_order(expected),
        Order::Next | Order::Beyond(_) | Order::Stale => {
            consume(state, input, true);
            accept(state, ids, now_ms, input, payload_hash, peer)
        }
    }
}

fn definite_refusal(state: &mut State, input: &Input<'_>, peer: UserId<'_>) -> Option<Outcome> {
    let Caller { app, user, .. } = input.caller;
    if input.send.body.len() > BODY_BYTES_MAX {
        return Some(refused(RefusalCode::BodyTooLarge, "a body has at most 16 KiB"));
    }
    let mut exists = |user: UserId<'_>| {
        state.users.get([app, user.as_str()]).is_some_and(|entry| entry.value.exists)
    };
    if !exists(user) {
        return Some(refused(RefusalCode::UnknownUser, "the sender does not exist in this app"));
    }
    if !exists(peer) {
        return Some(match input.send.target {
            roost_protocol::frame::send::Target::User(_) => {
                refused(RefusalCode::UnknownUser, "the receiver does not exist in this app")
            }
            roost_protocol::frame::send::Target::Conversation(_) => {
                refused(RefusalCode::UnknownConversation, "no such conversation of this user")
            }
        });
    }
    None
}

fn accept(
    state: &mut State,
    ids: &mut MessageIds,
    now_ms: u64,
    input: &Input<'_>,
    payload_hash: i64,
    peer: UserId<'_>,
) -> Outcome {
    let Caller { app, user, .. } = input.caller;
    let names = names(state, app, user, peer);
    let key = [app, &*input.conversation_text];
    let mut seq = 0;
    state.conversations.change(key, |conversation| {
        conversation.last_seq += 1;
        seq = conversation.last_seq;
    });
    let conversation =
        state.conversations.get(key).map(|entry| Arc::clone(&entry.key.0[1])).unwrap_or_default();
    let mut next_inbox_seq = |member: UserId<'_>| {
        let mut inbox_seq = 0;
        state.users.change([app, member.as_str()], |user| {
            user.last_inbox_seq += 1;
            inbox_seq = user.last_inbox_seq;
        });
        inbox_seq
    };
    let sender_inbox_seq = next_inbox_seq(user);
    let peer_inbox_seq = if peer == user { sender_inbox_seq } else { next_inbox_seq(peer) };
    let placed = Placed {
        seq,
        message_id: ids.make(now_ms),
        server_time_ms: now_ms,
        payload_hash,
        sender_inbox_seq,
        peer_inbox_seq,
    };
    let message = NewMessage {
        app: Arc::clone(&names.app),
        conversation,
        sender: Arc::clone(&names.sender),
        client_msg_id: input.send.client_msg_id.0,
        kind: input.send.kind.0,
        body: input.body.clone(),
        placed,
    };
    state.add_message(message, Arc::clone(&names.peer));
    Outcome::Placed { placed, names, push: true, repeated: false }
}

fn names(state: &mut State, app: &str, user: UserId<'_>, peer: UserId<'_>) -> Names {
    let mut name = |user: UserId<'_>| match state.users.get([app, user.as_str()]) {
        Some(entry) => (Arc::clone(&entry.key.0[0]), Arc::clone(&entry.key.0[1])),
        None => (app.into(), user.as_str().into()),
    };
    let (app, sender) = name(user);
    Names { app, sender, peer: name(peer).1 }
}

fn refused(code: RefusalCode, detail: &'static str) -> Outcome {
    Outcome::Refused { code, expected_client_seq: 0, detail }
}

fn out_of_order(expected_client_seq: u32) -> Outcome {
    let detail = "send again from the expected number on";
    Outcome::Refused { code: RefusalCode::OutOfOrder, expected_client_seq, detail }
}

#[cfg(test)]
mod tests;
