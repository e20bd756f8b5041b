//! The ring as it is now, for those who place users: read without a lock, and followed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::{ArcSwap, Guard};
use roost_health::{Check, Level};
use tokio::sync::watch;

use super::config::RegistryKind;
use crate::ring::Ring;

/// Its name in /readyz.
pub(super) const CHECK: &str = "membership";

/// A ring that may change. Clones are the same ring.
#[derive(Debug, Clone)]
pub struct RingWatch {
    ring: Arc<ArcSwap<Ring>>,
    is_fenced: Arc<AtomicBool>,
    changes: watch::Receiver<()>,
}

/// The writing end.
#[derive(Debug, Clone)]
pub(super) struct RingWriter {
    ring: Arc<ArcSwap<Ring>>,
    is_fenced: Arc<AtomicBool>,
    changes: watch::Sender<()>,
}

pub(super) fn channel() -> (RingWriter, RingWatch) {
    let ring = Arc::new(ArcSwap::from_pointee(Ring::default()));
    let is_fenced = Arc::new(AtomicBool::new(false));
    let (sender, changes) = watch::channel(());
    let watch = RingWatch { ring: Arc::clone(&ring), is_fenced: Arc::clone(&is_fenced), changes };
    (RingWriter { ring, is_fenced, changes: sender }, watch)
}

impl RingWriter {
    pub(super) fn load(&self) -> Guard<Arc<Ring>> {
        self.ring.load()
    }

    pub(super) fn store(&self, ring: Ring) {
        self.ring.store(Arc::new(ring));
        self.changes.send_replace(());
    }

    /// Tells when that is another state: who follows the ring looks at it again.
    pub(super) fn set_fenced(&self, is_fenced: bool) {
        if self.is_fenced.swap(is_fenced, Ordering::Relaxed) != is_fenced {
            self.changes.send_replace(());
        }
    }
}

impl RingWatch {
    /// A ring that nobody announces changes of.
    pub fn fixed(ring: Arc<ArcSwap<Ring>>) -> Self {
        let (_, changes) = watch::channel(());
        Self { ring, is_fenced: Arc::default(), changes }
    }

    /// For /readyz, when all is well.
    pub fn check(&self, kind: RegistryKind) -> Check {
        let text = format!("{}, members: {}", kind.name(), self.load().members().len());
        Check::new(CHECK, Level::Well, text)
    }

    /// The ring as of now.
    pub fn load(&self) -> Guard<Arc<Ring>> {
        self.ring.load()
    }

    /// The ring itself, for those who only read it.
    pub fn shared(&self) -> &Arc<ArcSwap<Ring>> {
        &self.ring
    }

    /// This gateway cannot prove that it is a member: others may have been given its users. It then claims nobody and passes on nobody.
    pub fn is_fenced(&self) -> bool {
        self.is_fenced.load(Ordering::Relaxed)
    }

    /// Returns when the ring changed since the last time; never, when nobody will change it any more.
    pub async fn changed(&mut self) {
        if self.changes.changed().await.is_err() {
            std::future::pending().await
        }
    }
}
