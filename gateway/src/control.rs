//! The control thread: one current-thread runtime that publishes what shards hand over, distributes what logic delivers, and answers
//! the operator.
//!
//! It meets shards only at bounded queues: a slow control thread fills them, and then clients are answered `busy`.

mod admin;
mod consumer;
pub mod login_keys;
mod publisher;
mod routes;
mod shed;

use std::io;
use std::net::TcpListener;
use std::sync::{Arc, mpsc};
use std::time::Instant;

use roost_bus::{PublishError, SharedBus};
use roost_membership::redis::RouteTable;
use roost_membership::{RingWatch, RoutesConfig, RoutesUnavailable};
use roost_trace::Traces;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::clock::{self, CORRECTION_INTERVAL};
use crate::gateway::{GatewayContext, ShedPlan, Status};
use crate::metrics::exposition::{Exposition, Sources};
use crate::router::{Closer, Router, ShardMailboxes};
use crate::session::changes::SessionChanges;
use crate::session::key_refresh::KeyRefresh;
use crate::shard::inbound::{Gate, InboundSource};

use admin::AdminState;
use login_keys::{KeyKeeper, LogicAddress};
use publisher::Publisher;
use routes::RouteKeeper;

/// What the control thread is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Serve.
    Run,
    /// End when everything handed over is confirmed.
    Finish,
    /// End now.
    Abandon,
}

/// What the control thread is made of.
pub(crate) struct Control {
    pub(crate) bus: SharedBus,
    pub(crate) routes: Option<(RoutesConfig, Arc<SessionChanges>)>,
    pub(crate) shed: Option<(RingWatch, ShedPlan)>,
    pub(crate) login_keys: Option<(Vec<LogicAddress>, Arc<KeyRefresh>)>,
    pub(crate) context: Arc<GatewayContext>,
    pub(crate) status: Arc<Status>,
    pub(crate) mailboxes: ShardMailboxes,
    pub(crate) gate: Arc<Gate>,
    pub(crate) sources: Vec<InboundSource>,
    pub(crate) admin: TcpListener,
    pub(crate) traces: Arc<Traces>,
    pub(crate) phase: watch::Receiver<Phase>,
}

/// Why the control thread did not start.
#[derive(Debug)]
pub(crate) enum ControlError {
    Bus(PublishError),
    Routes(RoutesUnavailable),
    System(io::Error),
}

impl Control {
    /// Runs until told to end. `ready` hears once whether the delivery queue is open, before anything is served.
    pub(crate) fn run(self, ready: &mpsc::Sender<Result<(), ControlError>>) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = match runtime {
            Ok(runtime) => runtime,
            Err(error) => {
                _ = ready.send(Err(ControlError::System(error)));
                return;
            }
        };
        if let Err(error) = runtime.block_on(self.serve(ready)) {
            _ = ready.send(Err(error));
        }
        // Dropping the runtime ends the consumer, the admin endpoint and the clock.
    }

    async fn serve(
        self,
        ready: &mpsc::Sender<Result<(), ControlError>>,
    ) -> Result<(), ControlError> {
        let Self { bus, routes, shed, login_keys, context, status, .. } = self;
        let Self { mailboxes, gate, sources, admin, traces, mut phase, .. } = self;
        let name = context.config.name.clone();
        let consumer = bus.consume_outbound(&name).await.map_err(ControlError::Bus)?;
        let admin = tokio::net::TcpListener::from_std(admin).map_err(ControlError::System)?;
        status.control.consumer_open.set(1);
        let exposition = Exposition::new(Sources {
            shards: status.shards.clone(),
            control: Arc::clone(&status.control),
            gate: Arc::clone(&gate),
            acceptor: Arc::clone(&status.acceptor),
            driver: status.driver_name(),
        });
        let report = AdminState { status: Arc::clone(&status), exposition };
        let more = roost_trace::http::routes(Arc::clone(&traces));
        tokio::spawn(roost_health::admin::serve(admin, report, more));
        tokio::spawn(correct_clock(Arc::clone(&context)));

        let counters = Arc::clone(&status.control);
        if let Some((processes, refresh)) = login_keys {
            let (context, counters) = (Arc::clone(&context), Arc::clone(&counters));
            tokio::spawn(KeyKeeper::new(processes, refresh, context, counters).run());
        }
        let router =
            Router::new(Arc::clone(&context.directory), mailboxes.clone(), Arc::clone(&counters))
                .tracing(traces.writer(), Arc::clone(&context));
        let (consumer_bus, consumer_name) = (Arc::clone(&bus), name.clone());
        tokio::spawn(async move {
            consumer::run(&*consumer_bus, &consumer_name, consumer, router, counters).await;
        });

        let routes = match routes {
            Some((config, changes)) => Some(keep_routes(&config, changes, &context, &status)?),
            None => None,
        };
        if let Some((ring, plan)) = shed {
            tokio::spawn(shed::run(ring, plan, mailboxes.clone()));
        }
        let settings = &context.config.inbound;
        let parts = (Closer::new(mailboxes), Arc::clone(&status.control));
        let publisher = Publisher::new(&*bus, &name, settings, (gate, sources), parts)
            .tracing(traces.writer(), &context.clock);
        _ = ready.send(Ok(()));
        tokio::select! {
            () = publisher.run(phase.clone()) => {}
            _ = phase.wait_for(|phase| *phase == Phase::Abandon) => {}
        }
        if let Some((table, keeper)) = routes {
            keeper.abort();
            // Else the table learns it from the first delivery that comes back.
            _ = table.leave().await;
        }
        Ok(())
    }
}

fn keep_routes(
    config: &RoutesConfig,
    changes: Arc<SessionChanges>,
    context: &Arc<GatewayContext>,
    status: &Status,
) -> Result<(RouteTable, JoinHandle<()>), ControlError> {
    let mut incarnation = [0; 8];
    getrandom::fill(&mut incarnation).map_err(|e| ControlError::System(io::Error::other(e)))?;
    let incarnation = u64::from_ne_bytes(incarnation);
    let table = RouteTable::open(config, &context.config.name, incarnation)
        .map_err(ControlError::Routes)?;
    let (context, counters) = (Arc::clone(context), Arc::clone(&status.control));
    let keeper = RouteKeeper::new(table.clone(), config, context, changes, counters);
    Ok((table, tokio::spawn(keeper.run())))
}

async fn correct_clock(context: Arc<GatewayContext>) {
    loop {
        tokio::time::sleep(CORRECTION_INTERVAL).await;
        context.clock.correct(Instant::now(), clock::system_us());
    }
}
