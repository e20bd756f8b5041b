//! RECEIPT{read}: a person saw everything up to seq. Merged like every watermark; `delivered` from a client is not a frame
//! of its own but follows from DELIVER_ACK, and is ignored here.

use roost_protocol::frame::receipt::{Receipt, ReceiptKind};

use super::{Caller, Raised, deliver_ack};
use crate::state::State;
use crate::store::LoadKeys;

/// Names the rows that are not remembered.
pub(crate) fn wanted(
    caller: &Caller<'_>,
    receipt: &Receipt<'_>,
    state: &State,
    keys: &mut LoadKeys,
) {
    let watermark = (receipt.conversation, receipt.seq);
    deliver_ack::wanted_watermark(caller.app, caller.user, &watermark, state, keys);
}

/// Merges.
pub(crate) fn handle(
    state: &mut State,
    caller: &Caller<'_>,
    receipt: &Receipt<'_>,
) -> Option<Raised> {
    match receipt.kind {
        ReceiptKind::Read => {
            deliver_ack::raise(state, caller, &receipt.conversation, ReceiptKind::Read, receipt.seq)
        }
        ReceiptKind::Delivered => None,
    }
}
