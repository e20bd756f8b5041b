//! The one place in this crate that reads the clock. Tests set it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// Time since 1970, from the system or from a test.
#[derive(Debug, Clone, Default)]
pub enum Clock {
    /// The system's clock.
    #[default]
    System,
    /// Milliseconds that a test sets.
    Manual(Arc<AtomicU64>),
}

impl Clock {
    /// A clock that stands at `now_ms` until the returned number is changed.
    pub fn manual(now_ms: u64) -> (Self, Arc<AtomicU64>) {
        let time = Arc::new(AtomicU64::new(now_ms));
        (Self::Manual(Arc::clone(&time)), time)
    }

    /// Milliseconds since 1970.
    pub fn now_ms(&self) -> u64 {
        match self {
            Self::System => {
                let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
            }
            Self::Manual(time) => time.load(Ordering::Relaxed),
        }
    }
}
