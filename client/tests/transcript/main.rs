//! What a server says and what the client must answer, written out: one test per rule of the client's hop.

mod connections;
mod receipts;
mod receiving;
mod script;
mod sending;

use std::time::Duration;

use roost_protocol::frame::close::Close;
use roost_protocol::frame::event::Event as Notice;
use roost_protocol::{CloseReason, Encoder};

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
