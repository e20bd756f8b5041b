//! Deliveries: shown once and in order, acknowledged together; gaps are pulled.

use std::time::Duration;

use roost_client::{Start, Tuning};
use roost_protocol::RefusalCode;
use roost_protocol::frame::event::Event as Notice;
use roost_protocol::frame::request::Response;

use crate::script::{CHAT, Script, chat, config, message};
use crate::{ms, notice};

#[test]
fn deliveries_are_shown_once_in_order_and_acknowledged_together() {
    let mut t = Script::online(config());
    t.deliver(CHAT, 1, 1, "bob");
    t.deliver(CHAT, 2, 2, "bob");
    t.deliver(CHAT, 2, 2, "bob");
    t.app_sees(&["message s:alice:bob 1 bob hi", "message s:alice:bob 2 bob hi"]);
    t.client_says(&[]);
    assert_eq!(t.wait_for_deadline(), Tuning::default().deliver_ack_delay);
    t.client_says(&["DELIVER_ACK 2 s:alice:bob=2"]);
    t.deliver(CHAT, 1, 1, "bob");
    t.app_sees(&[]);
}

#[test]
fn acknowledgements_ride_along_and_do_not_wait_for_more_than_32() {
    let mut t = Script::online(config());
    t.deliver(CHAT, 1, 1, "bob");
    t.app_sees(&["message s:alice:bob 1 bob hi"]);
    t.send("x");
    t.client_says(&["SEND s:alice:bob 1 x", "DELIVER_ACK 1 s:alice:bob=1"]);
    for seq in 2..34 {
        t.deliver(CHAT, seq, seq, "bob");
    }
    while t.core.poll_event().is_some() {}
    t.client_says(&["DELIVER_ACK 33 s:alice:bob=33"]);
}

#[test]
fn only_what_the_application_dealt_with_is_acknowledged() {
    let mut t = Script::online(config());
    t.deliver(CHAT, 1, 1, "bob");
    t.deliver(CHAT, 2, 2, "bob");
    t.core.poll_event();
    t.core.poll_event();
    t.after(ms(50));
    t.client_says(&["DELIVER_ACK 1 s:alice:bob=1"]);
    assert_eq!(t.core.inbox_seq(), 1);
    t.app_sees(&[]);
    t.after(ms(50));
    t.client_says(&["DELIVER_ACK 2 s:alice:bob=2"]);
}

#[test]
fn own_messages_of_other_devices_are_shown() {
    let mut t = Script::online(config());
    t.deliver(CHAT, 1, 1, "alice");
    t.app_sees(&["message s:alice:bob 1 alice hi"]);
}

#[test]
fn an_acknowledgement_counts_for_the_cursor_and_the_order() {
    let mut t = Script::online(config());
    t.send("mine");
    t.client_says(&["SEND s:alice:bob 1 mine"]);
    t.ack(t.sends[0], 2, 2);
    // Bob's message before it is still on its way.
    t.app_sees(&["acked s:alice:bob 2"]);
    t.deliver(CHAT, 1, 1, "bob");
    t.app_sees(&["message s:alice:bob 1 bob hi", "message s:alice:bob 2 alice mine"]);
    t.after(ms(50));
    t.client_says(&["DELIVER_ACK 2 s:alice:bob=2"]);
}

#[test]
fn a_gap_in_the_inbox_is_pulled_after_a_moment() {
    let mut t = Script::online(config());
    t.deliver(CHAT, 1, 1, "bob");
    t.deliver(CHAT, 3, 4, "bob");
    t.app_sees(&["message s:alice:bob 1 bob hi"]);
    t.after(ms(100));
    t.client_says(&["REQUEST sync after=1", "DELIVER_ACK 1 s:alice:bob=1"]);
    t.answer_sync(4, &[(2, "s:alice:carol", 1, "carol"), (3, CHAT, 2, "bob")], true);
    t.app_sees(&[
        "message s:alice:carol 1 carol hi",
        "message s:alice:bob 2 bob hi",
        "message s:alice:bob 3 bob hi",
    ]);
    t.client_says(&["REQUEST sync after=4", "DELIVER_ACK 4 s:alice:carol=1 s:alice:bob=3"]);
    t.answer_sync(4, &[], false);
    t.app_sees(&["synced 4"]);
}

#[test]
fn a_gap_in_a_conversation_alone_is_pulled_by_history() {
    let mut t = Script::online(config());
    t.deliver(CHAT, 1, 1, "bob");
    t.deliver(CHAT, 4, 2, "bob");
    t.app_sees(&["message s:alice:bob 1 bob hi"]);
    t.after(ms(100));
    t.client_says(&["REQUEST history s:alice:bob 1..4", "DELIVER_ACK 1 s:alice:bob=1"]);
    let messages = vec![message(CHAT, 2, "bob"), message(CHAT, 3, "bob")];
    t.answer(&Response::HistoryPage {
        conversation: chat(CHAT),
        messages,
        latest_seq: 4,
        more: false,
    });
    t.app_sees(&[
        "message s:alice:bob 2 bob hi",
        "message s:alice:bob 3 bob hi",
        "message s:alice:bob 4 bob hi",
    ]);
}

#[test]
fn a_gap_that_fills_by_itself_is_not_pulled() {
    let mut t = Script::online(config());
    t.deliver("s:alice:carol", 1, 2, "carol");
    t.app_sees(&["message s:alice:carol 1 carol hi"]);
    t.deliver(CHAT, 1, 1, "bob");
    t.app_sees(&["message s:alice:bob 1 bob hi"]);
    t.after(ms(200));
    t.client_says(&["DELIVER_ACK 2 s:alice:carol=1 s:alice:bob=1"]);
}

#[test]
fn a_device_in_the_middle_of_a_conversation_begins_where_its_cursor_says() {
    let mut config = config();
    config.saved.inbox_seq = 10;
    let mut t = Script::begin(config);
    t.client_says(&["CONNECT token=token epoch=0 inbox=10"]);
    t.connected(1);
    t.client_says(&["REQUEST sync after=10"]);
    // Two live messages overtake the answer: whether 8 is the first here is not known yet.
    t.deliver(CHAT, 8, 12, "bob");
    t.app_sees(&["connected epoch=1"]);
    t.answer_sync(12, &[(11, CHAT, 7, "bob"), (12, CHAT, 8, "bob")], false);
    t.app_sees(&["message s:alice:bob 7 bob hi", "message s:alice:bob 8 bob hi", "synced 12"]);
}

#[test]
fn a_new_device_may_begin_at_the_end() {
    let mut config = config();
    config.start = Start::Latest;
    let mut t = Script::begin(config);
    t.client_says(&["CONNECT token=token epoch=0 inbox=0"]);
    t.connected(1);
    t.client_says(&["REQUEST sync after=0"]);
    t.answer_sync(40, &[(1, CHAT, 1, "bob")], true);
    t.app_sees(&["connected epoch=1", "synced 40"]);
    t.deliver(CHAT, 33, 41, "bob");
    t.app_sees(&["message s:alice:bob 33 bob hi"]);
}

#[test]
fn hints_and_digests_make_it_pull() {
    let mut t = Script::online(config());
    t.server_says(&notice(Notice::Hint { conversation: chat(CHAT), seq: 1, inbox_seq: 1 }));
    t.client_says(&["REQUEST sync after=0"]);
    t.answer_sync(1, &[(1, CHAT, 1, "bob")], false);
    t.app_sees(&["message s:alice:bob 1 bob hi", "synced 1"]);
    t.after(ms(50));
    t.client_says(&["DELIVER_ACK 1 s:alice:bob=1"]);
    // A hint for what is stored: the server missed the acknowledgement.
    t.server_says(&notice(Notice::Hint { conversation: chat(CHAT), seq: 1, inbox_seq: 1 }));
    t.after(ms(50));
    t.client_says(&["DELIVER_ACK 1 s:alice:bob=1"]);
    t.server_says(&notice(Notice::Digest { inbox_seq: 1 }));
    t.client_says(&[]);
    t.server_says(&notice(Notice::Digest { inbox_seq: 2 }));
    t.client_says(&["REQUEST sync after=1"]);
}

#[test]
fn a_refused_or_lost_sync_is_asked_again() {
    let mut t = Script::begin(config());
    t.client_says(&["CONNECT token=token epoch=0 inbox=0"]);
    t.connected(1);
    t.client_says(&["REQUEST sync after=0"]);
    let code = RefusalCode::Unavailable;
    t.answer(&Response::Refused { code, retry_after_ms: 400, detail: "" });
    let waited = t.wait_for_deadline();
    assert!(waited >= ms(400) && waited <= ms(480), "{waited:?}");
    t.client_says(&["REQUEST sync after=0"]);
    assert_eq!(t.wait_for_deadline(), Duration::from_secs(10));
    t.client_says(&["REQUEST sync after=0", "PING inbox=0"]);
}
