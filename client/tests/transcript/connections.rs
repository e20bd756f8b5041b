//! Sessions: credentials, redirects, close reasons, reconnects, silence.

use std::time::Duration;

use roost_client::{Action, Tuning};
use roost_protocol::frame::ping::Pong;
use roost_protocol::frame::redirect::{GoAway, Redirect};
use roost_protocol::{CloseReason, Encoder};

use crate::script::{CHAT, Script, config};
use crate::{close, ms};

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
