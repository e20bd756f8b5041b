//! A batch as one transaction. Rows go in key order, so that locks are taken in one order by everybody.

use super::driver::{Statement, Value};
use super::statement::{Conflict, Table};
use super::{Dialect, Quarantined, Result, Shared, Writes};

/// A body has up to 16 KiB: a statement has up to 1 MiB.
static MESSAGES: Table = Table {
    into: "messages (app_id, conversation, seq, message_id, sender, client_msg_id, kind, payload_hash, server_time_ms, \
           sender_inbox_seq, peer_inbox_seq, body)",
    rows_max: 64,
    conflict: Conflict::Refuse,
    is_confidential: true,
};
static INBOX: Table =
    Table::new("inbox (app_id, owner, inbox_seq, conversation, seq)", Conflict::Refuse);
static CONVERSATIONS: Table = Table::new(
    "conversations (app_id, conversation, last_seq)",
    Conflict::Update {
        mysql: "ON DUPLICATE KEY UPDATE last_seq = VALUES(last_seq)",
        postgres: "ON CONFLICT (app_id, conversation) DO UPDATE SET last_seq = excluded.last_seq",
    },
);
static INBOX_COUNTERS: Table = Table::new(
    "inbox_counters (app_id, owner, last_inbox_seq)",
    Conflict::Update {
        mysql: "ON DUPLICATE KEY UPDATE last_inbox_seq = VALUES(last_inbox_seq)",
        postgres: "ON CONFLICT (app_id, owner) DO UPDATE SET last_inbox_seq = excluded.last_inbox_seq",
    },
);
static CURSORS: Table = Table::new(
    "send_cursors (app_id, conversation, sender, device, session_epoch, client_seq)",
    Conflict::Update {
        mysql: "ON DUPLICATE KEY UPDATE session_epoch = VALUES(session_epoch), client_seq = VALUES(client_seq)",
        postgres: "ON CONFLICT (app_id, conversation, sender, device) DO UPDATE SET \
                   session_epoch = excluded.session_epoch, client_seq = excluded.client_seq",
    },
);
static WATERMARKS: Table = Table::new(
    "watermarks (app_id, conversation, user_id, delivered_seq, read_seq)",
    Conflict::Update {
        mysql: "ON DUPLICATE KEY UPDATE delivered_seq = GREATEST(delivered_seq, VALUES(delivered_seq)), \
                read_seq = GREATEST(read_seq, VALUES(read_seq))",
        postgres: "ON CONFLICT (app_id, conversation, user_id) DO UPDATE SET \
                   delivered_seq = GREATEST(watermarks.delivered_seq, excluded.delivered_seq), \
                   read_seq = GREATEST(watermarks.read_seq, excluded.read_seq)",
    },
);
static DEVICE_CURSORS: Table = Table::new(
    "device_cursors (app_id, user_id, device, inbox_seq)",
    Conflict::Update {
        mysql: "ON DUPLICATE KEY UPDATE inbox_seq = GREATEST(inbox_seq, VALUES(inbox_seq))",
        postgres: "ON CONFLICT (app_id, user_id, device) DO UPDATE SET \
                   inbox_seq = GREATEST(device_cursors.inbox_seq, excluded.inbox_seq)",
    },
);
static WORKER_MARKS: Table = Table::new(
    "worker_marks (worker_id, until_ms)",
    Conflict::Update {
        mysql: "ON DUPLICATE KEY UPDATE until_ms = GREATEST(until_ms, VALUES(until_ms))",
        postgres: "ON CONFLICT (worker_id) DO UPDATE SET until_ms = GREATEST(worker_marks.until_ms, excluded.until_ms)",
    },
);
static QUARANTINE: Table = Table::new(
    "quarantine (app_id, user_id, device, frame_kind, payload, reason, server_time_ms)",
    Conflict::Refuse,
);

impl Shared {
    pub(super) async fn commit(&self, mut writes: Writes) -> Result<()> {
        writes.sort();
        let statements = statements(self.dialect, &writes);
        if statements.is_empty() {
            self.end().await;
            return Ok(());
        }
        self.write(&statements).await
    }

    pub(super) async fn quarantine(&self, entry: &Quarantined) -> Result<()> {
        let mut out = Vec::new();
        QUARANTINE.write(self.dialect, std::slice::from_ref(entry), quarantined, &mut out);
        self.transact(&out).await.map(|_| ())
    }
}

fn quarantined(entry: &Quarantined) -> [Value<'_>; 7] {
    [
        Value::Text(&entry.app),
        Value::Text(&entry.user),
        Value::Text(&entry.device),
        Value::Text(entry.frame_kind),
        Value::Bytes(&entry.payload),
        Value::Text(&entry.reason),
        number(entry.server_time_ms),
    ]
}

pub(super) fn number(value: u64) -> Value<'static> {
    Value::Number(value.cast_signed())
}

pub(super) fn statements(dialect: Dialect, writes: &Writes) -> Vec<Statement<'_>> {
    use Value::{Bytes, Small, Text};
    let mut out = Vec::new();
    CONVERSATIONS.write(
        dialect,
        &writes.conversations,
        |row| [Text(&row.app), Text(&row.conversation), number(row.last_seq)],
        &mut out,
    );
    INBOX_COUNTERS.write(
        dialect,
        &writes.inboxes,
        |row| [Text(&row.app), Text(&row.user), number(row.last_inbox_seq)],
        &mut out,
    );
    MESSAGES.write(
        dialect,
        &writes.messages,
        |row| {
            [
                Text(&row.app),
                Text(&row.conversation),
                number(row.placed.seq),
                number(row.placed.message_id),
                Text(&row.sender),
                Bytes(&row.client_msg_id),
                Small(row.kind.into()),
                Value::Number(row.placed.payload_hash),
                number(row.placed.server_time_ms),
                number(row.placed.sender_inbox_seq),
                number(row.placed.peer_inbox_seq),
                Bytes(&row.body),
            ]
        },
        &mut out,
    );
    INBOX.write(
        dialect,
        &writes.inbox,
        |row| {
            let (app, owner) = (Text(&row.app), Text(&row.owner));
            [app, owner, number(row.inbox_seq), Text(&row.conversation), number(row.seq)]
        },
        &mut out,
    );
    CURSORS.write(
        dialect,
        &writes.cursors,
        |row| {
            let key = [Text(&row.app), Text(&row.conversation), Text(&row.sender)];
            let [app, conversation, sender] = key;
            let client_seq = Value::Number(row.client_seq.into());
            [app, conversation, sender, Text(&row.device), number(row.session_epoch), client_seq]
        },
        &mut out,
    );
    WATERMARKS.write(
        dialect,
        &writes.watermarks,
        |row| {
            let (app, conversation) = (Text(&row.app), Text(&row.conversation));
            let (delivered, read) = (number(row.delivered_seq), number(row.read_seq));
            [app, conversation, Text(&row.user), delivered, read]
        },
        &mut out,
    );
    DEVICE_CURSORS.write(
        dialect,
        &writes.device_cursors,
        |row| [Text(&row.app), Text(&row.user), Text(&row.device), number(row.inbox_seq)],
        &mut out,
    );
    WORKER_MARKS.write(
        dialect,
        &writes.worker_marks,
        |(worker_id, until_ms)| [Value::Number((*worker_id).into()), number(*until_ms)],
        &mut out,
    );
    out
}
