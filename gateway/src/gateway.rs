//! The assembly of a gateway: shards, acceptor, control thread, what they share, and the order in which they start and end.
//!
//! ```text
//! start:  listeners ─ shards (a ring each) ─ acceptor ─ control thread (delivery queue, admin)
//! drain:  not ready ─ acceptor ends ─ shards: GO_AWAY, close, end ─ the rest to logic is confirmed ─ control thread ends
//! ```
//! What clients say before the control thread runs waits at the gate.

mod drain;
mod shards;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use bytes::Bytes;
use roost_bus::{PublishError, SharedBus};
use roost_config::ConfigError;
use roost_health::Check;
use roost_membership::{RingWatch, RoutesConfig, RoutesUnavailable};
use roost_protocol::frame::close::Close;
use roost_protocol::{CloseReason, Encoder};
use roost_trace::Traces;
use tokio::sync::watch;

use crate::clock::WallClock;
use crate::config::GatewayConfig;
use crate::control::login_keys::LogicAddress;
use crate::control::{Control, ControlError, Phase};
use crate::io::acceptor::{Acceptor, AcceptorConfig, AcceptorStatistics};
use crate::io::address_table::AddressTable;
use crate::io::descriptor_limit;
use crate::io::intake::Intake;
use crate::io::probe::Driver;
use crate::io::socket::{ListenError, ListenerConfig, listen};
use crate::metrics::{ControlCounters, ShardCounters};
use crate::session::changes::SessionChanges;
use crate::session::directory::Directory;
use crate::session::handshake::Handshake;
use crate::session::key_refresh::KeyRefresh;
use crate::session::keys::VerificationKeys;
use crate::session::placement::Placement;
use crate::session::resume_token::ResumeKey;
use crate::shard::inbound::Gate;

pub use drain::DrainReport;
use shards::{ShardBuilder, Shards};

/// What every shard and the control thread share. Nothing in it is locked for longer than one table operation.
#[derive(Debug)]
pub struct GatewayContext {
    /// Checked settings.
    pub config: GatewayConfig,
    /// Credentials.
    pub handshake: Handshake,
    /// Sessions.
    pub directory: Arc<Directory>,
    /// Who is sent to another gateway; `None`: everybody is served here.
    pub placement: Option<Placement>,
    /// Wall-clock time from a shard's own instant.
    pub clock: WallClock,
}

/// How the gateway is, for the operator.
#[derive(Debug)]
pub struct Status {
    /// Of each shard.
    pub shards: Vec<Arc<ShardCounters>>,
    /// Of the control thread.
    pub control: Arc<ControlCounters>,
    /// Of the acceptor.
    pub acceptor: Arc<AcceptorStatistics>,
    /// The kernel driver.
    pub driver: Driver,
    /// Which driver, and why.
    pub driver_reason: String,
    /// Connections all shards together can hold.
    pub capacity: u64,
    /// Whether logic publishes keys for it.
    pub uses_login_keys: bool,
    /// Whether there is a route table.
    pub uses_routes: bool,
    is_draining: AtomicBool,
    neighbours: OnceLock<AppendMetrics>,
    membership: OnceLock<ReportMembership>,
}

/// How membership is.
pub struct ReportMembership(pub Box<dyn Fn() -> Check + Send + Sync>);

impl std::fmt::Debug for ReportMembership {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ReportMembership")
    }
}

/// Appends metrics in the Prometheus text format.
pub struct AppendMetrics(pub Box<dyn Fn(&mut String) + Send + Sync>);

impl std::fmt::Debug for AppendMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AppendMetrics")
    }
}

impl Status {
    /// /metrics shows these too, from now on: of the other tier, when both share a process. Only the first call counts.
    pub fn show_metrics(&self, neighbours: AppendMetrics) {
        let _ = self.neighbours.set(neighbours);
    }

    pub(crate) fn append_metrics(&self, out: &mut String) {
        if let Some(AppendMetrics(append)) = self.neighbours.get() {
            append(out);
        }
    }

    /// /readyz shows this too, from now on. Only the first call counts.
    pub fn show_membership(&self, membership: ReportMembership) {
        let _ = self.membership.set(membership);
    }

    pub(crate) fn membership(&self) -> Option<Check> {
        self.membership.get().map(|ReportMembership(report)| report())
    }

    /// Whether the gateway is leaving.
    pub fn is_draining(&self) -> bool {
        self.is_draining.load(Ordering::Relaxed)
    }

    /// Connections of all shards, as of about now.
    pub fn connections(&self) -> u64 {
        self.shards.iter().map(|shard| shard.connections.get()).sum()
    }

    pub(crate) fn driver_name(&self) -> &'static str {
        match self.driver {
            Driver::IoUring => "io_uring",
            Driver::Epoll => "epoll",
        }
    }
}

/// Why a gateway did not start. The text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A setting cannot be used.
    #[error("configuration: {0}")]
    Config(#[from] ConfigError),
    /// The kernel driver that was demanded is not to be had.
    #[error("{0}")]
    Driver(String),
    /// A listener could not be opened.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The bus refused the delivery queue.
    #[error("the delivery queue of this gateway cannot be opened: {0}")]
    Bus(#[from] PublishError),
    /// The route table cannot be used.
    #[error("the route table cannot be used: {0}")]
    Routes(#[from] RoutesUnavailable),
    /// The kernel refused something that a gateway needs.
    #[error("{what}: {error}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the kernel said.
        error: io::Error,
    },
}

fn system(what: &'static str) -> impl Fn(io::Error) -> StartError {
    move |error| StartError::System { what, error }
}

/// A gateway that serves. [`GatewayHandle::drain`] ends it; dropping it ends nothing but the acceptor and the control thread.
#[derive(Debug)]
#[must_use = "drain it to end it"]
pub struct GatewayHandle {
    addresses: Vec<SocketAddr>,
    admin_address: SocketAddr,
    notices: Vec<String>,
    context: Arc<GatewayContext>,
    status: Arc<Status>,
    gate: Arc<Gate>,
    acceptor: Acceptor,
    shards: Shards,
    control: ControlThread,
}

#[derive(Debug)]
struct ControlThread {
    thread: JoinHandle<()>,
    ended: mpsc::Receiver<()>,
    phase: watch::Sender<Phase>,
}

/// What a gateway works with.
#[derive(Clone)]
pub struct Neighbours {
    /// The bus to logic.
    pub bus: SharedBus,
    /// Where other processes learn which sessions are here. `None`: they need not, or deliveries go to every gateway.
    pub routes: Option<RoutesConfig>,
    /// Users that belong to another gateway of this ring are sent there. `None`: everybody is served.
    pub ring: Option<RingWatch>,
    /// How those are sent there who belong to another gateway since the ring changed. `None`: they stay until they go by themselves.
    pub shed: Option<ShedPlan>,
    /// Logic processes, whose login tokens are accepted. None: tokens of the given keys only.
    pub logic: Vec<LogicAddress>,
    /// What is remembered of traced messages.
    pub traces: Arc<Traces>,
}

/// See [`Neighbours::shed`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShedPlan {
    /// Sessions of this gateway in a second, on average.
    pub per_second: NonZeroU32,
    /// At most this long after a change of the ring it begins, at least half as long.
    pub settle: Duration,
}

impl From<SharedBus> for Neighbours {
    fn from(bus: SharedBus) -> Self {
        let (logic, traces) = (Vec::new(), Traces::off());
        Self { bus, routes: None, ring: None, shed: None, logic, traces }
    }
}

/// See [`Gateway::start`].
#[derive(Debug)]
pub struct Gateway;

impl Gateway {
    /// Starts a gateway: returns when clients can connect.
    ///
    /// # Errors
    /// See [`StartError`]. Nothing serves then; the process is expected to end.
    pub fn start(
        config: GatewayConfig,
        keys: VerificationKeys,
        neighbours: impl Into<Neighbours>,
    ) -> Result<GatewayHandle, StartError> {
        let Neighbours { bus, routes, ring, shed, logic, traces } = neighbours.into();
        config.check()?;
        let (driver, driver_reason) =
            Driver::choose(config.io.driver).map_err(StartError::Driver)?;
        descriptor_limit::raise().map_err(system("RLIMIT_NOFILE cannot be raised"))?;
        let listeners = open_listeners(&config)?;
        let admin = listen(&ListenerConfig::new(config.admin_listen))?;
        let addresses = listeners.iter().map(address_of).collect::<Result<Vec<_>, _>>()?;
        let admin_address = address_of(&admin)?;

        let mut directory = Directory::new(&config.name, config.limits.sessions_per_user_max);
        let routes = routes.map(|routes| (routes, Arc::new(SessionChanges::default())));
        if let Some((_, changes)) = &routes {
            directory = directory.telling(Arc::clone(changes));
        }
        let mut handshake = Handshake::new(keys, resume_key(&config)?);
        let login_keys = (!logic.is_empty()).then(|| (logic, Arc::new(KeyRefresh::default())));
        if let Some((_, refresh)) = &login_keys {
            handshake = handshake.refreshed_by(Arc::clone(refresh));
        }
        let context = Arc::new(GatewayContext {
            handshake,
            directory: Arc::new(directory),
            placement: ring.clone().map(|ring| Placement::new(ring, &config.name)),
            clock: WallClock::system(),
            config,
        });
        let gate = Gate::new(context.config.inbound.bytes_max, context.config.inbound.messages_max);
        let peers = Arc::new(AddressTable::default());
        let mut builder = ShardBuilder::new(&context, &gate, &traces, bus.partitions(), driver);
        for index in 0..context.config.shard_count() {
            builder.start_shard(index, &peers)?;
        }
        let ShardBuilder { shards, sources, counters, .. } = builder;
        let acceptor = start_acceptor(listeners, &shards.intakes, peers, &context.config)?;
        let capacity = shards.intakes.iter().map(|intake| u64::from(intake.capacity())).sum();
        let status = Arc::new(Status {
            shards: counters,
            control: Arc::new(ControlCounters::default()),
            acceptor: Arc::clone(acceptor.statistics()),
            driver,
            driver_reason,
            capacity,
            uses_login_keys: login_keys.is_some(),
            uses_routes: routes.is_some(),
            is_draining: AtomicBool::new(false),
            neighbours: OnceLock::new(),
            membership: OnceLock::new(),
        });
        let (phase, phases) = watch::channel(Phase::Run);
        let control = Control {
            bus,
            routes,
            shed: ring.zip(shed),
            login_keys,
            context: Arc::clone(&context),
            status: Arc::clone(&status),
            mailboxes: shards.mailboxes.clone(),
            gate: Arc::clone(&gate),
            sources,
            admin,
            traces,
            phase: phases,
        };
        let control = start_control(control, phase)?;
        let notices = capacity_notice(&context.config, &status).into_iter().collect();
        Ok(GatewayHandle {
            addresses,
            admin_address,
            notices,
            context,
            status,
            gate,
            acceptor,
            shards,
            control,
        })
    }
}

fn address_of(listener: &TcpListener) -> Result<SocketAddr, StartError> {
    listener.local_addr().map_err(system("the address of a listener"))
}

impl GatewayHandle {
    /// Where clients connect, in the order of `listen`, with the ports the kernel chose.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }
    /// Where the operator asks.
    pub fn admin_address(&self) -> SocketAddr {
        self.admin_address
    }
    /// What the operator should know: limits that are lower than configured.
    pub fn notices(&self) -> &[String] {
        &self.notices
    }
    /// Sessions; implements the routes of a single gateway.
    pub fn directory(&self) -> &Arc<Directory> {
        &self.context.directory
    }
    /// Credentials: keys may be replaced.
    pub fn handshake(&self) -> &Handshake {
        &self.context.handshake
    }
    /// Driver and counters.
    pub fn status(&self) -> &Arc<Status> {
        &self.status
    }
}

fn open_listeners(config: &GatewayConfig) -> Result<Vec<TcpListener>, StartError> {
    let open = |address: &SocketAddr| {
        let settings =
            ListenerConfig { backlog: config.io.listen_backlog, ..ListenerConfig::new(*address) };
        Ok(listen(&settings)?)
    };
    config.listen.iter().map(open).collect()
}

fn resume_key(config: &GatewayConfig) -> Result<ResumeKey, StartError> {
    if config.resume_secret.is_empty() {
        return ResumeKey::random().map_err(system("no randomness for the resume secret"));
    }
    Ok(ResumeKey::new(config.resume_secret.as_bytes()))
}

/// What happens when the kernel's limit is below what is configured.
fn capacity_notice(config: &GatewayConfig, status: &Status) -> Option<String> {
    let wanted = u64::from(config.limits.connections_max);
    (status.capacity < wanted).then(|| {
        format!(
            "limits.connections_max is {wanted}, but RLIMIT_NOFILE ({}) leaves room for {}: further clients wait in the \
             listen queue. Raise it (`ulimit -n`, systemd: LimitNOFILE=), or, with io_uring, run more shards: each has a \
             table of that size",
            descriptor_limit::current(),
            status.capacity,
        )
    })
}

fn start_acceptor(
    listeners: Vec<TcpListener>,
    intakes: &[Arc<Intake>],
    peers: Arc<AddressTable>,
    config: &GatewayConfig,
) -> Result<Acceptor, StartError> {
    let mut refusal = Vec::new();
    let close =
        Close { reason: CloseReason::TooManyConnectionsPerIp, retry_after_ms: 0, detail: "" };
    close.encode(&mut Encoder::new(), &mut refusal);
    let connections_per_address_max = match config.limits.connections_per_ip_max {
        0 => u32::MAX,
        limit => limit,
    };
    let settings = AcceptorConfig { connections_per_address_max, refusal: Bytes::from(refusal) };
    Acceptor::start(listeners, intakes.to_vec(), peers, settings)
        .map_err(system("the acceptor cannot start"))
}

fn start_control(
    control: Control,
    phase: watch::Sender<Phase>,
) -> Result<ControlThread, StartError> {
    let (ready, started) = mpsc::channel();
    let (end, ended) = mpsc::channel();
    let run = move || {
        control.run(&ready);
        _ = end.send(());
    };
    let what = "the control thread cannot start";
    let thread = thread::Builder::new()
        .name("gateway-control".to_owned())
        .spawn(run)
        .map_err(system(what))?;
    match started.recv() {
        Ok(Ok(())) => Ok(ControlThread { thread, ended, phase }),
        Ok(Err(ControlError::Bus(error))) => Err(error.into()),
        Ok(Err(ControlError::Routes(error))) => Err(error.into()),
        Ok(Err(ControlError::System(error))) => Err(system(what)(error)),
        Err(_) => Err(system(what)(io::Error::other("it ended at its start"))),
    }
}
