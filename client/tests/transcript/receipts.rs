//! Receipts, and the questions an application asks.

use roost_protocol::frame::event::Event as Notice;
use roost_protocol::frame::receipt::{Receipt, ReceiptKind};
use roost_protocol::frame::request::{MemberWatermarks, Response};
use roost_protocol::{Encoder, UserId};

use crate::notice;
use crate::script::{CHAT, Script, chat, config, message};

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
