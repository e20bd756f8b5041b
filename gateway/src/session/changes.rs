//! Sessions that began and ended, from the directory to whoever writes the route table.
//!
//! Bounded, and never in a shard's way: when nobody keeps up, changes are dropped and the whole directory counts as unwritten.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crossbeam_queue::ArrayQueue;
use tokio::sync::Notify;

use super::SessionIdentity;

/// More than a login storm brings within one round trip to the table; 16 bytes each.
const CHANGES_WAITING_MAX: usize = 1 << 16;

/// A change of the directory.
#[derive(Debug)]
pub enum SessionChange {
    /// It began, in place of an older one of the device if there was one.
    Opened(SessionIdentity),
    /// It ended, and no newer one of the device is here.
    Closed(SessionIdentity),
}

/// The way from the shards to the control thread.
#[derive(Debug)]
pub struct SessionChanges {
    waiting: ArrayQueue<SessionChange>,
    has_overflowed: AtomicBool,
    wake: Notify,
}

impl Default for SessionChanges {
    fn default() -> Self {
        Self {
            waiting: ArrayQueue::new(CHANGES_WAITING_MAX),
            has_overflowed: AtomicBool::new(false),
            wake: Notify::new(),
        }
    }
}

impl SessionChanges {
    pub(super) fn push(&self, change: SessionChange) {
        if self.waiting.push(change).is_err() {
            self.has_overflowed.store(true, Ordering::Release);
        }
        self.wake.notify_one();
    }

    /// The same, only when the session has had the time to fetch: a bug that tests plant.
    pub(super) fn push_late(self: &Arc<Self>, change: SessionChange) {
        const FETCHED: Duration = Duration::from_secs(2);
        let changes = Arc::clone(self);
        std::thread::spawn(move || {
            std::thread::sleep(FETCHED);
            changes.push(change);
        });
    }

    /// The next changes, in the order in which they happened. When there may be more, [`wait`](Self::wait) does not wait.
    pub(crate) fn take(&self, count_max: usize) -> Vec<SessionChange> {
        let taken: Vec<_> = std::iter::from_fn(|| self.waiting.pop()).take(count_max).collect();
        if taken.len() == count_max {
            self.wake.notify_one();
        }
        taken
    }

    /// Whether changes were dropped since this was last asked.
    pub(crate) fn take_overflow(&self) -> bool {
        self.has_overflowed.swap(false, Ordering::AcqRel)
    }

    /// Waits for a change since this was last waited for.
    pub(crate) async fn wait(&self) {
        self.wake.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::directory::{Authenticated, Directory};
    use roost_protocol::envelope::ConnectionAddress;
    use roost_protocol::frame::connect::DeviceClass;

    #[test]
    fn what_the_directory_does_is_told_until_nobody_keeps_up() {
        let changes = Arc::new(SessionChanges::default());
        let directory = Directory::new("gw", 0).telling(Arc::clone(&changes));
        let login = Authenticated {
            app: directory.app_index("demo").unwrap(),
            user: "alice".to_owned(),
            device: "d1".to_owned(),
            device_class: DeviceClass::Phone,
            last_epoch: 0,
            expires_s: 2_000_000_000,
        };
        let open = || directory.register(&login, ConnectionAddress::default(), 1).unwrap().session;
        let (first, second) = (open(), open());
        assert!(!directory.remove(&first) && directory.remove(&second));
        let told = changes.take(9).into_iter().map(|change| match change {
            SessionChange::Opened(session) => ("opened", session.epoch()),
            SessionChange::Closed(session) => ("closed", session.epoch()),
        });
        let expected =
            [("opened", first.epoch()), ("opened", second.epoch()), ("closed", second.epoch())];
        assert_eq!(told.collect::<Vec<_>>(), expected);
        assert!(!changes.take_overflow());
        (0..=CHANGES_WAITING_MAX).for_each(|_| drop(open()));
        assert!(changes.take_overflow() && !changes.take_overflow());
    }
}
