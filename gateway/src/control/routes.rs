//! Keeps this gateway's routes in the route table.
//!
//! ```text
//!                 a write failed, changes were lost, or the table forgot us
//!        ┌───────────────────────────────────────────────────────────────────┐
//!        ▼                                                                   │
//!  Registering{next table of the directory} ──all tables written──► Complete ┘   renews one table after the other
//! ```
//! Until they are complete, logic sends this gateway every delivery: a table that is away is nothing to wait for. Changes are written in the
//! order in which they happened; a table of the directory is read first and written then, so a session that ends meanwhile is
//! cleared after it.

use std::sync::Arc;
use std::time::Duration;

use roost_membership::redis::{Announced, RouteChange, RouteTable, SessionRoute};
use roost_membership::{RoutesConfig, RoutesUnavailable};
use tokio::time::{Interval, MissedTickBehavior, interval};

use crate::gateway::GatewayContext;
use crate::metrics::ControlCounters;
use crate::session::SessionIdentity;
use crate::session::changes::{SessionChange, SessionChanges};
use crate::session::directory::{Directory, TABLES};

/// Changes in one round trip.
const BATCH_MAX: usize = 512;
/// How long clients may be sent to a gateway after the table says that it is gone.
const LOOK_FOR_GONE: Duration = Duration::from_millis(200);

/// See the module text.
pub(super) struct RouteKeeper {
    table: RouteTable,
    context: Arc<GatewayContext>,
    directory: Arc<Directory>,
    changes: Arc<SessionChanges>,
    counters: Arc<ControlCounters>,
    announce_interval: Duration,
    renew_interval: Duration,
    progress: Progress,
    /// The table answered last time. While it does not, only announcements are tried.
    is_reachable: bool,
    /// Table of the directory that is renewed next.
    renew_next: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    Registering { next: u16 },
    Complete,
}

impl RouteKeeper {
    pub(super) fn new(
        table: RouteTable,
        config: &RoutesConfig,
        context: Arc<GatewayContext>,
        changes: Arc<SessionChanges>,
        counters: Arc<ControlCounters>,
    ) -> Self {
        Self {
            table,
            directory: Arc::clone(&context.directory),
            context,
            changes,
            counters,
            announce_interval: config.gateway_lease / 4,
            renew_interval: config.lease / 3 / u32::from(TABLES),
            progress: Progress::Registering { next: 0 },
            is_reachable: true,
            renew_next: 0,
        }
    }

    /// Works for ever. Ends when dropped.
    pub(super) async fn run(mut self) {
        let mut announce = paced(self.announce_interval);
        let mut renew = paced(self.renew_interval);
        let mut look_for_gone = paced(LOOK_FOR_GONE);
        loop {
            tokio::select! {
                biased;
                _ = announce.tick() => self.announce().await,
                _ = look_for_gone.tick(), if self.is_reachable => {
                    let result = self.look_for_gone().await;
                    self.note(result);
                }
                () = std::future::ready(()), if self.is_registering() => {
                    let result = self.register_next().await;
                    self.note(result);
                }
                () = self.changes.wait(), if self.is_reachable => {
                    let result = self.write_changes().await;
                    self.note(result);
                }
                _ = renew.tick(), if self.is_reachable => {
                    let result = self.renew_next().await;
                    self.note(result);
                }
            }
        }
    }

    fn is_registering(&self) -> bool {
        self.is_reachable && self.progress != Progress::Complete
    }

    async fn look_for_gone(&self) -> Result<(), RoutesUnavailable> {
        if let Some(placement) = &self.context.placement {
            placement.set_gone(self.table.gone().await?);
        }
        Ok(())
    }

    async fn announce(&mut self) {
        match self.table.announce(self.progress == Progress::Complete).await {
            Ok(Announced::Again) => self.is_reachable = true,
            Ok(Announced::Unknown) => {
                self.is_reachable = true;
                self.begin_again();
            }
            Err(error) => self.note(Err(error)),
        }
        let is_complete = self.is_reachable && self.progress == Progress::Complete;
        self.counters.routes_complete.set(u64::from(is_complete));
    }

    fn begin_again(&mut self) {
        self.progress = Progress::Registering { next: 0 };
    }

    fn note(&mut self, result: Result<(), RoutesUnavailable>) {
        let Err(error) = result else { return };
        self.counters.routes_failures.increment();
        self.counters.routes_complete.set(0);
        if self.is_reachable {
            tracing::warn!(%error, "routes cannot be written; until they are, every delivery comes here");
        }
        self.is_reachable = false;
        self.begin_again();
    }

    /// Writes some of what changed, then the next table of the directory.
    async fn register_next(&mut self) -> Result<(), RoutesUnavailable> {
        self.write_changes().await?;
        let Progress::Registering { next } = self.progress else { return Ok(()) };
        self.write_table(next).await?;
        if next + 1 < TABLES {
            self.progress = Progress::Registering { next: next + 1 };
            return Ok(());
        }
        self.progress = Progress::Complete;
        self.announce().await;
        Ok(())
    }

    async fn renew_next(&mut self) -> Result<(), RoutesUnavailable> {
        self.write_table(self.renew_next).await?;
        self.renew_next = (self.renew_next + 1) % TABLES;
        Ok(())
    }

    async fn write_table(&self, number: u16) -> Result<(), RoutesUnavailable> {
        let mut sessions = Vec::new();
        self.directory.visit_table(number, |session| sessions.push(session.clone()));
        for batch in sessions.chunks(BATCH_MAX) {
            let changes: Vec<_> = batch.iter().map(|s| RouteChange::Set(self.route(s))).collect();
            self.write(&changes).await?;
        }
        Ok(())
    }

    async fn write_changes(&mut self) -> Result<(), RoutesUnavailable> {
        if self.changes.take_overflow() {
            self.counters.routes_overflows.increment();
            self.begin_again();
            self.announce().await;
        }
        let taken = self.changes.take(BATCH_MAX);
        let changes: Vec<_> = taken
            .iter()
            .map(|change| match change {
                SessionChange::Opened(session) => RouteChange::Set(self.route(session)),
                SessionChange::Closed(session) => RouteChange::Clear(self.route(session)),
            })
            .collect();
        self.write(&changes).await
    }

    async fn write(&self, changes: &[RouteChange<'_>]) -> Result<(), RoutesUnavailable> {
        self.table.write(changes).await?;
        self.counters.routes_written.add(changes.len() as u64);
        Ok(())
    }

    fn route<'a>(&'a self, session: &'a SessionIdentity) -> SessionRoute<'a> {
        SessionRoute {
            app: self.directory.app_name(session.app()),
            user: session.user(),
            device: session.device(),
            epoch: session.epoch(),
        }
    }
}

fn paced(period: Duration) -> Interval {
    let mut interval = interval(period.max(Duration::from_millis(1)));
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}
