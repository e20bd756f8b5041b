//! Batches for tests of stores.

#![allow(dead_code, reason = "each test file uses a part")]

use std::ops::RangeInclusive;

use roost_logic::store::*;

pub(crate) fn name(text: &str) -> Name {
    Name::from(text)
}

pub(crate) fn app() -> Name {
    name("demo")
}

/// Messages of `a` to `b` with these sequence numbers, with everything a worker writes beside them.
pub(crate) fn batch(seqs: RangeInclusive<u64>) -> Writes {
    batch_of(seqs, |seq| format!("body {seq}").into_bytes())
}

pub(crate) fn batch_of(seqs: RangeInclusive<u64>, body: impl Fn(u64) -> Vec<u8>) -> Writes {
    let (conversation, last) = (name("s:a:b"), *seqs.end());
    let mut writes = Writes {
        conversations: vec![ConversationRow {
            app: app(),
            conversation: conversation.clone(),
            last_seq: last,
        }],
        cursors: vec![CursorRow {
            app: app(),
            conversation: conversation.clone(),
            sender: name("a"),
            device: name("d"),
            session_epoch: 7,
            client_seq: u32::try_from(last).unwrap(),
        }],
        watermarks: vec![WatermarkRow {
            app: app(),
            conversation: conversation.clone(),
            user: name("b"),
            delivered_seq: last,
            read_seq: 1,
        }],
        device_cursors: vec![DeviceCursorRow {
            app: app(),
            user: name("b"),
            device: name("d"),
            inbox_seq: last,
        }],
        worker_marks: vec![(1, 500)],
        ..Writes::default()
    };
    for owner in ["a", "b"] {
        writes.inboxes.push(UserRow { app: app(), user: name(owner), last_inbox_seq: last });
    }
    for seq in seqs {
        writes.messages.push(NewMessage {
            app: app(),
            conversation: conversation.clone(),
            sender: name("a"),
            client_msg_id: if seq < 256 { [seq as u8; 16] } else { u128::from(seq).to_be_bytes() },
            kind: 1,
            body: body(seq).into(),
            placed: Placed {
                seq,
                message_id: seq * 10,
                server_time_ms: 1_000 + seq,
                payload_hash: -5,
                sender_inbox_seq: seq,
                peer_inbox_seq: seq,
            },
        });
        for owner in ["a", "b"] {
            writes.inbox.push(InboxRow {
                app: app(),
                owner: name(owner),
                inbox_seq: seq,
                conversation: conversation.clone(),
                seq,
            });
        }
    }
    writes.sort();
    writes
}
