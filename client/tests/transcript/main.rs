//! What a server says and what the client must answer, written out: one test per rule of the client's hop.

mod script;

use std::time::Duration;

use roost_client::{Action, Start, Tuning};
use roost_protocol::frame::close::Close;
use roost_protocol::frame::event::Event as Notice;
use roost_protocol::frame::ping::Pong;
use roost_protocol::frame::receipt::{Receipt, ReceiptKind};
use roost_protocol::frame::redirect::{GoAway, Redirect};
use roost_protocol::frame::request::{MemberWatermarks, Response};
use roost_protocol::{CloseReason, Encoder, RefusalCode, UserId};

use script::{CHAT, Script, chat, config, message};

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn close(reason: CloseReason, retry_after_ms: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    Close { reason, detail: "", retry_after_ms }.encode(&mut Encoder::new(), &mut bytes);
    bytes
}

fn notice(notice: Notice<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    notice.encode(&mut Encoder::new(), &mut bytes);
    bytes
}

// Sending.

#[test]
fn a_send_is_acked_and_shown() {
    let mut t = Script::online(config());
    t.send("hello");
    t.client_says(&["SEND s:alice:bob 1 hello"]);
    t.ack(t.sends[0], 1, 1);
    t.app_sees(&["acked s:alice:bob 1", "message s:alice:bob 1 alice hello"]);
    t.send("again");
    t.client_says(&["SEND s:alice:bob 2 again"]);
    assert_eq!(t.core.unsent(), 1);
}

#[test]
fn without_an_answer_the_same_send_goes_out_again_later_and_later() {
    let mut t = Script::online(config());
    t.send("hello");
    t.client_says(&["SEND s:alice:bob 1 hello"]);
    let first = t.wait_for_deadline();
    assert!(first >= ms(3000) && first <= ms(3600), "{first:?}");
    t.client_says(&["SEND s:alice:bob 1 hello"]);
    t.server_says(&notice(Notice::Unknown(99)));
    let second = t.wait_for_deadline();
    assert!(second >= ms(6000) && second <= ms(7200), "{second:?}");
    t.client_says(&["SEND s:alice:bob 1 hello"]);
    let [a, b, c] = t.sends[..] else { panic!() };
    assert!(a.client_msg_id == b.client_msg_id && b.client_msg_id == c.client_msg_id);
    assert!(a.correlation == b.correlation, "a repeat keeps its place in the server's window");
    t.ack(a, 1, 1);
    t.ack(b, 1, 1);
    t.app_sees(&[
        "acked s:alice:bob 1",
        "message s:alice:bob 1 alice hello",
        "acked again s:alice:bob 1",
    ]);
}

#[test]
fn out_of_order_goes_back_with_the_same_numbers() {
    let mut t = Script::online(config());
    for text in ["a", "b", "c"] {
        t.send(text);
    }
    t.client_says(&["SEND s:alice:bob 1 a", "SEND s:alice:bob 2 b", "SEND s:alice:bob 3 c"]);
    t.ack(t.sends[0], 1, 1);
    // b is lost; c is refused, and once more by a copy that is late.
    t.refuse(t.sends[2], RefusalCode::OutOfOrder, 0, 2);
    t.refuse(t.sends[2], RefusalCode::OutOfOrder, 0, 2);
    t.client_says(&["SEND s:alice:bob 2 b", "SEND s:alice:bob 3 c"]);
    t.refuse(t.sends[2], RefusalCode::OutOfOrder, 0, 2);
    t.client_says(&[]);
    t.ack(t.sends[3], 2, 2);
    t.ack(t.sends[4], 3, 3);
    assert_eq!(t.core.unsent(), 0);
}

#[test]
fn a_number_used_up_without_a_commit_is_given_anew() {
    let mut t = Script::online(config());
    t.send("a");
    t.client_says(&["SEND s:alice:bob 1 a"]);
    t.refuse(t.sends[0], RefusalCode::OutOfOrder, 0, 2);
    t.client_says(&["SEND s:alice:bob 2 a"]);
}

#[test]
fn a_number_nobody_has_needs_a_new_session() {
    let mut t = Script::online(config());
    t.send("a");
    t.client_says(&["SEND s:alice:bob 1 a"]);
    t.ack(t.sends[0], 1, 1);
    t.app_sees(&["acked s:alice:bob 1", "message s:alice:bob 1 alice a"]);
    t.send("b");
    for n in 1..=3 {
        t.client_says(&["SEND s:alice:bob 2 b"]);
        t.refuse(t.sends[n], RefusalCode::OutOfOrder, 0, 1);
    }
    t.app_sees(&["the server ended this session: reconnect"]);
    assert_eq!(t.core.poll_action(), Some(Action::Disconnect));
    t.reconnects("server:7401");
    t.client_says(&["CONNECT resume=resume epoch=1 inbox=1"]);
    t.connected(2);
    t.client_says(&["SEND s:alice:bob 1 b", "REQUEST sync after=1"]);
}

#[test]
fn busy_waits_as_long_as_the_server_says() {
    for code in [RefusalCode::Busy, RefusalCode::RateLimited, RefusalCode::Unavailable] {
        let mut t = Script::online(config());
        t.send("a");
        t.send("b");
        t.client_says(&["SEND s:alice:bob 1 a", "SEND s:alice:bob 2 b"]);
        t.refuse(t.sends[0], code, 500, 0);
        t.refuse(t.sends[1], RefusalCode::OutOfOrder, 0, 1);
        t.client_says(&[]);
        let waited = t.wait_for_deadline();
        assert!(waited >= ms(500) && waited <= ms(600), "{waited:?}");
        t.client_says(&["SEND s:alice:bob 1 a", "SEND s:alice:bob 2 b"]);
    }
}

#[test]
fn a_definite_refusal_reaches_the_application_and_the_rest_goes_on() {
    let mut t = Script::online(config());
    t.send("a");
    t.send("b");
    t.client_says(&["SEND s:alice:bob 1 a", "SEND s:alice:bob 2 b"]);
    t.refuse(t.sends[0], RefusalCode::UnknownUser, 0, 0);
    t.ack(t.sends[1], 1, 1);
    t.app_sees(&[
        "refused s:alice:bob unknown_user why",
        "acked s:alice:bob 1",
        "message s:alice:bob 1 alice b",
    ]);
    assert_eq!(t.core.unsent(), 0);
}

#[test]
fn the_window_of_connected_is_kept() {
    let mut t = Script::online(config());
    for text in ["a", "b", "c", "d", "e", "f"] {
        t.send(text);
    }
    t.client_says(&[
        "SEND s:alice:bob 1 a",
        "SEND s:alice:bob 2 b",
        "SEND s:alice:bob 3 c",
        "SEND s:alice:bob 4 d",
    ]);
    t.ack(t.sends[0], 1, 1);
    t.client_says(&["SEND s:alice:bob 5 e"]);
}

#[test]
fn stale_session_begins_a_new_one_and_sends_everything_in_order() {
    let mut t = Script::online(config());
    t.send("a");
    t.send("b");
    t.client_says(&["SEND s:alice:bob 1 a", "SEND s:alice:bob 2 b"]);
    t.ack(t.sends[0], 1, 1);
    t.refuse(t.sends[1], RefusalCode::StaleSession, 0, 0);
    t.app_sees(&[
        "acked s:alice:bob 1",
        "message s:alice:bob 1 alice a",
        "the server ended this session: reconnect",
    ]);
    assert_eq!(t.core.poll_action(), Some(Action::Disconnect));
    t.reconnects("server:7401");
    t.client_says(&["CONNECT resume=resume epoch=1 inbox=1"]);
    t.connected(2);
    t.client_says(&["SEND s:alice:bob 1 b", "REQUEST sync after=1"]);
    assert_eq!(t.sends[1].client_msg_id, t.sends[2].client_msg_id);
}

#[test]
fn what_was_unsent_survives_a_restart() {
    let mut t = Script::online(config());
    let id = t.send("a");
    t.client_says(&["SEND s:alice:bob 1 a"]);
    let mut config = config();
    config.saved = t.core.save();
    assert_eq!(config.saved.unsent.len(), 1);
    let mut t = Script::begin(config);
    t.client_says(&["CONNECT resume=resume epoch=1 inbox=0"]);
    t.connected(2);
    t.client_says(&["SEND s:alice:bob 1 a", "REQUEST sync after=0"]);
    assert_eq!(t.sends[0].client_msg_id, id);
}

// Receiving.

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

// Receipts.

#[test]
fn receipts_merge_by_maximum() {
    let mut t = Script::online(config());
    for (kind, seq) in
        [(ReceiptKind::Delivered, 3), (ReceiptKind::Delivered, 2), (ReceiptKind::Read, 1)]
    {
        let user = Some(UserId::new("bob").unwrap());
        let receipt = Receipt {
            conversation: chat(CHAT),
            user,
            kind,
            seq,
            by_server: false,
            server_time_ms: 1,
        };
        let mut bytes = Vec::new();
        receipt.encode(&mut Encoder::new(), &mut bytes);
        t.server_says(&bytes);
    }
    t.app_sees(&["receipt s:alice:bob bob Delivered 3", "receipt s:alice:bob bob Read 1"]);
    t.core.request_watermarks(CHAT).unwrap();
    t.client_says(&["REQUEST watermarks s:alice:bob"]);
    let user = UserId::new("bob").unwrap();
    let members = vec![MemberWatermarks { user, delivered_seq: 3, read_seq: 2 }];
    t.answer(&Response::WatermarksPage { conversation: chat(CHAT), members });
    t.app_sees(&["receipt s:alice:bob bob Read 2"]);
}

#[test]
fn a_read_watermark_is_told_once_and_again_after_a_lost_connection() {
    let mut t = Script::online(config());
    t.core.mark_read(CHAT, 4).unwrap();
    t.core.mark_read(CHAT, 2).unwrap();
    t.client_says(&["RECEIPT s:alice:bob read=4"]);
    t.client_says(&[]);
    t.socket_closes();
    t.app_sees(&["the connection was lost: reconnect"]);
    t.reconnects("server:7401");
    t.client_says(&["CONNECT resume=resume epoch=1 inbox=0"]);
    t.connected(2);
    t.client_says(&["REQUEST sync after=0", "RECEIPT s:alice:bob read=4"]);
}

#[test]
fn history_is_answered_not_shown() {
    let mut t = Script::online(config());
    t.core.request_history(CHAT, 0, 3, 20, true).unwrap();
    t.client_says(&["REQUEST history s:alice:bob 0..3"]);
    let messages = vec![message(CHAT, 2, "bob"), message(CHAT, 1, "bob")];
    t.answer(&Response::HistoryPage {
        conversation: chat(CHAT),
        messages,
        latest_seq: 9,
        more: false,
    });
    t.app_sees(&["history [2, 1] of 9, more: false"]);
}

#[test]
fn the_window_of_requests_is_kept_and_has_room_for_a_pull() {
    let mut t = Script::online(config());
    for _ in 0..9 {
        t.core.request_watermarks(CHAT).unwrap();
    }
    t.client_says(&["REQUEST watermarks s:alice:bob"; 7]);
    t.server_says(&notice(Notice::Digest { inbox_seq: 1 }));
    t.client_says(&["REQUEST sync after=0"]);
    t.answer_sync(1, &[(1, CHAT, 1, "bob")], false);
    t.requests.pop();
    assert!(t.core.poll_timeout().is_some_and(|at| at > t.now), "it does not spin");
    t.client_says(&[]);
    t.answer(&Response::WatermarksPage { conversation: chat(CHAT), members: Vec::new() });
    t.client_says(&["REQUEST watermarks s:alice:bob"]);
}

// Connections.

#[test]
fn a_resume_token_that_fails_gives_way_to_the_access_token_and_then_to_a_new_one() {
    let mut t = Script::online(config());
    t.socket_closes();
    t.app_sees(&["the connection was lost: reconnect"]);
    t.reconnects("server:7401");
    t.client_says(&["CONNECT resume=resume epoch=1 inbox=0"]);
    t.server_says(&close(CloseReason::BadToken, 0));
    t.app_sees(&["the server closed the connection: bad_token: reconnect"]);
    assert_eq!(t.core.poll_action(), Some(Action::Disconnect));
    assert_eq!(t.reconnects("server:7401"), ms(0));
    t.client_says(&["CONNECT token=token epoch=1 inbox=0"]);
    t.server_says(&close(CloseReason::TokenExpired, 0));
    t.app_sees(&["the server closed the connection: token_expired: need token"]);
    assert_eq!(t.core.poll_action(), Some(Action::Disconnect));
    assert_eq!(t.core.poll_action(), Some(Action::NeedToken));
    assert_eq!(t.core.poll_timeout(), None);
    t.core.provide_token(t.now, "newer".into());
    t.socket_opens("server:7401");
    t.client_says(&["CONNECT token=newer epoch=1 inbox=0"]);
}

#[test]
fn redirects_are_followed_but_not_for_ever() {
    let mut t = Script::begin(config());
    for n in 0..=Tuning::default().redirects_max {
        t.client_says(&["CONNECT token=token epoch=0 inbox=0"]);
        let mut bytes = Vec::new();
        Redirect { address: "other:1" }.encode(&mut Encoder::new(), &mut bytes);
        bytes.extend(close(CloseReason::Redirected, 0));
        t.server_says(&bytes);
        t.app_sees(&["redirected to other:1: reconnect"]);
        assert_eq!(t.core.poll_action(), Some(Action::Disconnect));
        let last = n == Tuning::default().redirects_max;
        t.reconnects(if last { "server:7401" } else { "other:1" });
    }
}

#[test]
fn every_close_reason_is_followed_by_what_it_says() {
    for &reason in CloseReason::ALL {
        let mut t = Script::online(config());
        t.send("kept");
        t.client_says(&["SEND s:alice:bob 1 kept"]);
        t.server_says(&close(reason, 2_000));
        let next = match reason.reconnect() {
            roost_protocol::close_reason::Reconnect::Backoff => "reconnect",
            roost_protocol::close_reason::Reconnect::NewToken => "need token",
            roost_protocol::close_reason::Reconnect::Never => "stopped",
        };
        t.app_sees(&[&format!("the server closed the connection: {reason}: {next}")]);
        assert_eq!(t.core.poll_action(), Some(Action::Disconnect));
        if next == "reconnect" {
            assert!(t.reconnects("server:7401") >= ms(2_000), "retry_after is honoured");
        }
        assert_eq!(t.core.unsent(), 1);
    }
}

#[test]
fn reconnects_wait_longer_and_try_the_next_address() {
    let mut config = config();
    config.addresses.push("spare:7401".into());
    let mut t = Script::online(config);
    let mut waited = Vec::new();
    t.after(Duration::from_secs(10));
    t.socket_closes();
    for n in 0..6 {
        let address = if n % 2 == 0 { "spare:7401" } else { "server:7401" };
        waited.push(t.wait_for_deadline());
        assert_eq!(t.core.poll_action(), Some(Action::Connect { address: address.into() }));
        t.socket_closes();
    }
    for (n, waited) in waited.iter().enumerate() {
        assert!(*waited <= Duration::from_secs(1 << n), "{n}: {waited:?}");
    }
    assert!(waited.iter().sum::<Duration>() > Duration::from_secs(5));
}

#[test]
fn go_away_is_followed_when_it_says() {
    let mut t = Script::online(config());
    let mut bytes = Vec::new();
    GoAway { reconnect_after_ms: 700 }.encode(&mut Encoder::new(), &mut bytes);
    t.server_says(&bytes);
    t.send("still works");
    t.client_says(&["SEND s:alice:bob 1 still works"]);
    t.ack(t.sends[0], 1, 1);
    t.app_sees(&["acked s:alice:bob 1", "message s:alice:bob 1 alice still works"]);
    // The server goes before: not earlier than it said.
    t.after(ms(200));
    t.server_says(&close(CloseReason::Draining, 0));
    t.app_sees(&["the server closed the connection: draining: reconnect"]);
    assert_eq!(t.core.poll_action(), Some(Action::Disconnect));
    assert!(t.reconnects("server:7401") >= ms(500));

    let mut t = Script::online(self::config());
    t.server_says(&bytes);
    assert_eq!(t.wait_for_deadline(), ms(700));
    t.app_sees(&["the server ended this session: reconnect"]);
    assert_eq!(t.core.poll_action(), Some(Action::Disconnect));
    assert!(t.reconnects("server:7401") <= ms(1));
}

#[test]
fn a_quiet_session_pings_before_the_server_gives_up() {
    let mut t = Script::online(config());
    let first = t.wait_for_deadline();
    // 240 s, four fifths of the idle timeout of 300 s at most, spread over a tenth.
    assert!(first >= Duration::from_secs(216) && first <= Duration::from_secs(240), "{first:?}");
    t.client_says(&["PING inbox=0"]);
    let mut bytes = Vec::new();
    Pong::default().encode(&mut Encoder::new(), 0, &mut bytes);
    t.server_says(&bytes);
    assert!(t.wait_for_deadline() > Duration::from_secs(200));
    t.client_says(&["PING inbox=0"]);
    // No answer: the connection is dead.
    assert_eq!(t.wait_for_deadline(), Tuning::default().silence_timeout);
    t.app_sees(&["the server has fallen silent: reconnect"]);
}

#[test]
fn the_last_message_of_a_chat_is_covered_by_a_digest() {
    let mut t = Script::online(config());
    t.deliver(CHAT, 1, 1, "bob");
    t.app_sees(&["message s:alice:bob 1 bob hi"]);
    t.after(ms(50));
    t.client_says(&["DELIVER_ACK 1 s:alice:bob=1"]);
    t.wait_for_deadline();
    t.client_says(&["PING inbox=1"]);
    assert_eq!(t.now - t.begin, Tuning::default().digest_delay);
}

#[test]
fn a_server_that_takes_sends_but_stays_silent_is_left() {
    let mut t = Script::online(config());
    t.send("a");
    let mut pinged = false;
    while t.core.is_online() {
        let mut bytes = Vec::new();
        while t.core.poll_transmit(t.now, &mut bytes) {}
        pinged |= bytes.get(4) == Some(&3) || bytes.len() > 200;
        t.wait_for_deadline();
    }
    t.app_sees(&["the server has fallen silent: reconnect"]);
    assert_eq!(t.now - t.begin, Tuning::default().silence_timeout);
    assert!(pinged, "it asked before");
    assert_eq!(t.core.unsent(), 1);
}

#[test]
fn close_acknowledges_says_goodbye_and_keeps_the_queue() {
    let mut t = Script::online(config());
    t.deliver(CHAT, 1, 1, "bob");
    t.send("a");
    t.core.poll_event();
    t.core.close(t.now);
    t.client_says(&["DELIVER_ACK 1 s:alice:bob=1", "CLOSE normal"]);
    assert_eq!(t.core.poll_action(), Some(Action::Disconnect));
    assert_eq!(t.core.poll_action(), None);
    assert_eq!(t.core.poll_timeout(), None);
    assert_eq!(t.core.save().unsent.len(), 1);
}

#[test]
fn another_user_than_expected_ends_the_client() {
    let mut config = config();
    config.user_id = "mallory".into();
    let mut t = Script::begin(config);
    t.connected(1);
    t.app_sees(&["the token names another user: alice: stopped"]);
}
