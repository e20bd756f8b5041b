//! Sessions that begin and end. Routes are kept by the gateways; what ends here is only the laziness of the device's cursor.

use super::Caller;
use crate::state::State;

/// Writes the device's cursor, if it moved since it was written.
pub(crate) fn closed(state: &mut State, caller: &Caller<'_>) {
    let key = [caller.app, caller.user.as_str(), caller.device];
    let moved = state
        .devices
        .get(key)
        .is_some_and(|entry| entry.value.inbox_seq > entry.value.stored_inbox_seq);
    if moved {
        state.devices.change(key, |_| {});
    }
}
