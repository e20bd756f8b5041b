//! SENDs: numbers, repeats, refusals, the window, what survives a restart.

use roost_client::Action;
use roost_protocol::RefusalCode;
use roost_protocol::frame::event::Event as Notice;

use crate::script::{Script, config};
use crate::{ms, notice};

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
