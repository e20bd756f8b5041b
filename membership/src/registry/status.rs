//! How membership is, for the operator.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use parking_lot::Mutex;
use roost_health::{Check, Level};

use super::RegistryError;
use super::config::RegistryKind;
use super::ring_watch::{CHECK, RingWatch};

/// Counters and the last trouble.
#[derive(Debug)]
pub struct RegistryStatus {
    kind: RegistryKind,
    ring: RingWatch,
    pub(super) ring_changes: AtomicU64,
    pub(super) reconnects: AtomicU64,
    pub(super) is_connected: AtomicBool,
    /// Why the registry cannot be used at present.
    pub(super) trouble: Mutex<Option<RegistryError>>,
}

impl RegistryStatus {
    pub(super) fn new(kind: RegistryKind, ring: RingWatch) -> Self {
        Self {
            kind,
            ring,
            ring_changes: AtomicU64::new(0),
            reconnects: AtomicU64::new(0),
            is_connected: AtomicBool::new(false),
            trouble: Mutex::new(None),
        }
    }

    /// Whether the registry answers and this process has its entry.
    pub fn is_connected(&self) -> bool {
        self.is_connected.load(Relaxed)
    }

    /// For /readyz. A registry that is away is no reason to turn new clients away: the last ring serves. A name that somebody else has
    /// is.
    pub fn check(&self) -> Check {
        let trouble = self.trouble.lock();
        let Some(error) = trouble.as_ref() else {
            return self.ring.check(self.kind);
        };
        let (kind, members) = (self.kind.name(), self.ring.load().members().len());
        let lease = match self.ring.is_fenced() {
            true => {
                "; the lease of this gateway is over: it serves who comes and sends nobody away"
            }
            false => "",
        };
        let level = match error {
            RegistryError::NameTaken { .. } => Level::Missing,
            RegistryError::Unreachable(_)
            | RegistryError::Refused(_)
            | RegistryError::LeaseOver => Level::Degraded,
        };
        let text = format!("{kind}: {error}; the last {members} members stay{lease}");
        Check::new(CHECK, level, text)
    }

    /// Appends the metrics in the Prometheus text format.
    pub fn encode(&self, out: &mut String) {
        let members = self.ring.load().members().len() as u64;
        let flag = u64::from;
        for (name, help, kind, value) in [
            ("members", "Gateways of the ring", "gauge", members),
            (
                "connected",
                "Whether the registry answers and this process has its entry",
                "gauge",
                flag(self.is_connected()),
            ),
            ("fenced", "Whether the lease is over", "gauge", flag(self.ring.is_fenced())),
            ("ring_changes", "Times the ring changed", "counter", self.ring_changes.load(Relaxed)),
            (
                "reconnects",
                "Times the registry came back",
                "counter",
                self.reconnects.load(Relaxed),
            ),
        ] {
            let suffix = if kind == "counter" { "_total" } else { "" };
            // A String takes everything.
            _ = writeln!(out, "# HELP roost_membership_{name} {help}.");
            _ = writeln!(out, "# TYPE roost_membership_{name} {kind}");
            _ = writeln!(out, "roost_membership_{name}{suffix} {value}");
        }
    }
}
