//! Housekeeping of the store: beside the batches, one round at a time, on a thread of its own that makes way for everything else.

use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};

use tokio::runtime::Handle;

use crate::background;
use crate::store::SharedStore;

pub(super) struct Tender {
    store: SharedStore,
    /// Dropped to end the thread.
    wake: Option<SyncSender<()>>,
    thread: background::Running<()>,
}

impl Tender {
    /// Starts the thread; to be called on a runtime, whose timers it uses.
    pub(super) fn start(store: &SharedStore) -> Self {
        let (wake, woken) = sync_channel(1);
        let (tended, runtime) = (Arc::clone(store), Handle::current());
        let thread = background::run("roost-tender", move || {
            while woken.recv().is_ok() {
                if let Err(error) = runtime.block_on(tended.tend()) {
                    tracing::warn!(%error, "housekeeping of the database failed");
                }
            }
        });
        Self { store: Arc::clone(store), wake: Some(wake), thread }
    }

    pub(super) fn wake_if_due(&self) {
        if self.store.is_tending_due()
            && let Some(wake) = &self.wake
        {
            // Full: a round is to come anyway.
            let _ = wake.try_send(());
        }
    }

    /// Waits for the round under way.
    pub(super) async fn finish(&mut self) {
        self.wake = None;
        let _ = (&mut self.thread).await;
    }
}
