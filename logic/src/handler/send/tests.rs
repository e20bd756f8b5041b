use super::*;
use crate::state::State;
use crate::store::{Loaded, UserRow};
use roost_protocol::frame::send::{MessageKind, Target};
use roost_protocol::id::ClientMsgId;

struct Chat {
    state: State,
    ids: MessageIds,
}

#[derive(Clone, Copy)]
struct Try {
    epoch: u64,
    client_seq: u32,
    id: u8,
    body: &'static [u8],
    to: &'static str,
}

const FIRST: Try = Try { epoch: 10, client_seq: 1, id: 1, body: b"hello", to: "bob" };

impl Chat {
    fn new() -> Self {
        Self { state: State::new(), ids: MessageIds::new(1, 0) }
    }

    fn outcome(&mut self, attempt: Try) -> Outcome {
        let target = match attempt.to.split_once(':') {
            Some(_) => Target::Conversation(ConversationId::parse(attempt.to).unwrap()),
            None => Target::User(UserId::new(attempt.to).unwrap()),
        };
        let user = UserId::new("alice").unwrap();
        let send = Send {
            target,
            client_msg_id: ClientMsgId([attempt.id; 16]),
            client_seq: attempt.client_seq,
            kind: MessageKind::TEXT,
            body: attempt.body,
        };
        let conversation = target.conversation(user);
        let input = Input {
            caller: Caller { app: "demo", user, device: "d1", session_epoch: attempt.epoch },
            send,
            body: Bytes::from_static(attempt.body),
            conversation,
            conversation_text: conversation.to_string(),
            redelivered: false,
        };
        let mut keys = LoadKeys::default();
        wanted(&input, &self.state, &mut keys, false);
        let users = keys.users.iter().filter(|(_, user)| ["alice", "bob"].contains(&&**user));
        let users = users
            .map(|(app, user)| UserRow { app: app.clone(), user: user.clone(), last_inbox_seq: 0 })
            .collect();
        self.state.absorb(&keys, Loaded { users, ..Loaded::default() });
        handle(&mut self.state, &mut self.ids, 1_000, &input)
    }

    #[track_caller]
    fn check(&mut self, attempt: Try, expected: Result<u64, (RefusalCode, u32)>) {
        let outcome = match self.outcome(attempt) {
            Outcome::Placed { placed, .. } => Ok(placed.seq),
            Outcome::Refused { code, expected_client_seq, .. } => Err((code, expected_client_seq)),
        };
        assert_eq!(outcome, expected);
    }
}

#[test]
fn a_repeat_gets_the_identical_acknowledgement() {
    let mut chat = Chat::new();
    let first = chat.outcome(FIRST);
    chat.check(Try { client_seq: 2, id: 2, ..FIRST }, Ok(2));
    let Outcome::Placed { placed, push: true, repeated: false, .. } = first else {
        panic!("accepted and pushed")
    };
    for epoch in [10, 9, 11] {
        let Outcome::Placed { placed: again, push, repeated: true, .. } =
            chat.outcome(Try { epoch, ..FIRST })
        else {
            panic!("acknowledged again")
        };
        assert_eq!((again, push), (placed, false));
    }
    let writes = chat.state.take_writes();
    assert_eq!((writes.messages.len(), writes.inbox.len()), (2, 4));
}

#[test]
fn another_payload_under_the_same_id_is_refused() {
    let mut chat = Chat::new();
    chat.check(FIRST, Ok(1));
    chat.check(Try { client_seq: 2, body: b"other", ..FIRST }, Err((RefusalCode::IdReuse, 0)));
    chat.check(Try { client_seq: 3, id: 3, ..FIRST }, Ok(2));
}

#[test]
fn numbers_are_taken_in_order() {
    let mut chat = Chat::new();
    chat.check(Try { client_seq: 2, ..FIRST }, Err((RefusalCode::OutOfOrder, 1)));
    chat.check(FIRST, Ok(1));
    chat.check(Try { client_seq: 3, id: 3, ..FIRST }, Err((RefusalCode::OutOfOrder, 2)));
    chat.check(Try { client_seq: 2, id: 3, ..FIRST }, Ok(2));
    chat.check(Try { client_seq: 1, id: 4, ..FIRST }, Err((RefusalCode::OutOfOrder, 3)));
    chat.check(Try { client_seq: 3, id: 4, ..FIRST }, Ok(3));
}

#[test]
fn an_epoch_begins_anew_and_fences_the_older_one() {
    let mut chat = Chat::new();
    chat.check(FIRST, Ok(1));
    chat.check(Try { epoch: 11, client_seq: 2, id: 2, ..FIRST }, Err((RefusalCode::OutOfOrder, 1)));
    chat.check(Try { epoch: 11, id: 2, ..FIRST }, Ok(2));
    chat.check(Try { client_seq: 2, id: 3, ..FIRST }, Err((RefusalCode::StaleSession, 0)));
    chat.check(Try { epoch: 11, client_seq: 2, id: 3, ..FIRST }, Ok(3));
}

#[test]
fn a_definite_refusal_consumes_the_number() {
    static LARGE: [u8; BODY_BYTES_MAX + 1] = [0; BODY_BYTES_MAX + 1];
    let mut chat = Chat::new();
    chat.check(Try { body: &LARGE, ..FIRST }, Err((RefusalCode::BodyTooLarge, 0)));
    chat.check(Try { client_seq: 2, id: 2, ..FIRST }, Ok(1));
    chat.check(Try { body: &LARGE, ..FIRST }, Err((RefusalCode::BodyTooLarge, 0)));
    chat.check(Try { to: "nobody", ..FIRST }, Err((RefusalCode::UnknownUser, 0)));
    chat.check(
        Try { to: "nobody", client_seq: 2, id: 2, ..FIRST },
        Err((RefusalCode::UnknownUser, 0)),
    );
}

#[test]
fn absent_and_forbidden_conversations_look_the_same() {
    let mut chat = Chat::new();
    for to in ["s:bob:carol", "g:team", "r:lobby", "s:alice:nobody"] {
        chat.check(Try { to, ..FIRST }, Err((RefusalCode::UnknownConversation, 0)));
    }
    chat.check(Try { to: "s:alice:bob", ..FIRST }, Ok(1));
}

#[test]
fn a_chat_with_oneself_has_one_inbox_entry() {
    let mut chat = Chat::new();
    chat.check(Try { to: "alice", ..FIRST }, Ok(1));
    assert_eq!(chat.state.take_writes().inbox.len(), 1);
}

#[test]
fn the_hash_is_frozen() {
    assert_eq!(payload_hash(1, b"hello"), payload_hash(1, b"hello"));
    assert_ne!(payload_hash(1, b"hello"), payload_hash(2, b"hello"));
    assert_eq!(payload_hash(1, b"hello"), -2_683_040_894_160_474_420);
}
