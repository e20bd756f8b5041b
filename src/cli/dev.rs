//! `roost dev`: every part in one process, ready in under a second, with nothing to install.
//!
//! The well-known development keys are accepted here, so it listens on loopback unless told otherwise.

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use arc_swap::ArcSwap;
use roost_bus::{InProcessBus, SharedBus};
use roost_gateway::config::{DriverChoice, GatewayConfig};
use roost_gateway::gateway::{self, AppendMetrics, Gateway, GatewayHandle};
use roost_gateway::session::directory::Directory;
use roost_gateway::session::keys::VerificationKeys;
use roost_logic::auth::{KeyMaterial, Keys, VerificationKey};
use roost_logic::clock::Clock;
use roost_logic::config::LogicConfig;
use roost_logic::{Logic, LogicHandle, Neighbours, StartError};
use roost_membership::static_list::StaticList;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::traces::{Process, Tracing};
use crate::config::Config;

/// HTTP; frames, WebSocket and admin follow at fixed distances.
pub(crate) const PORT_BASE: u16 = 7400;
/// Name of the only gateway.
const NAME: &str = "dev";
pub(crate) const PORT_FRAMES: u16 = 1;
pub(crate) const PORT_ADMIN: u16 = 9;
/// A developer who stops the server wants it stopped: clients reconnect by themselves.
const DRAIN_WITHIN: Duration = Duration::from_millis(500);
/// As a shell reports a program that SIGINT ended.
pub(crate) const EXIT_INTERRUPTED: i32 = 130;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Where messages and keys are kept; made when missing. The next start continues with all history.
    #[arg(long, value_name = "DIR", default_value = "roost-data")]
    data_dir: PathBuf,
    /// How to talk to the kernel.
    #[arg(long, value_enum, default_value = "auto")]
    driver: Driver,
    /// Gateway threads, each with its own connections; default: one per core.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    shards: Option<u16>,
    /// HTTP listens here; TCP frames on the next port, admin (loopback only) nine above.
    #[arg(long, value_name = "PORT", default_value_t = PORT_BASE, value_parser = clap::value_parser!(u16).range(1..=65526))]
    port_base: u16,
    /// Address to listen on. Anyone who reaches it can log in as anybody with the development keys.
    #[arg(long, value_name = "IP", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    host: IpAddr,
    /// Share of messages that are traced, 0 to 1: see `roost trace --help`.
    #[arg(long, value_name = "SHARE", default_value_t = 1.0)]
    trace_sample: f64,
    /// Send traces to this OpenTelemetry collector (OTLP over HTTP), e.g. http://127.0.0.1:4318/v1/traces.
    #[arg(long, value_name = "URL")]
    otlp_endpoint: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Driver {
    /// io_uring where a probe succeeds, epoll elsewhere.
    Auto,
    /// io_uring, or an error that says why not.
    #[value(name = "io_uring")]
    IoUring,
    /// epoll.
    Epoll,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let server = Server::start(args)?;
    // Handlers stand before `ready` is printed, so that whoever reads it may already signal.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut signals = runtime.block_on(async { Signals::listen() })?;
    let mut out = std::io::stdout().lock();
    out.write_all(server.banner(args)?.as_bytes())?;
    out.flush()?;
    drop(out);
    runtime.block_on(async {
        signals.next().await;
        eprintln!("stopping; once more to stop at once");
        let stopped = tokio::task::spawn_blocking(move || server.stop());
        tokio::select! {
            stopped = stopped => Ok(stopped.map(|()| ExitCode::SUCCESS)?),
            () = signals.next() => std::process::exit(EXIT_INTERRUPTED),
        }
    })
}

struct Server {
    gateway: GatewayHandle,
    logic: LogicHandle,
    tracing: Tracing,
}

impl Server {
    fn start(args: &Args) -> Result<Self> {
        let mut config = config(args)?;
        // Before keys and ports, which a second start on this folder would trip over.
        let claim = Logic::claim(&config.logic)?;
        let keys = Keys::open(&config.logic, true)?;
        // Kept with the signing key, so that clients resume after a restart.
        config.gateway.resume_secret = keys.resume_secret();
        let process =
            Process { tier: "dev", name: NAME.to_owned(), bus: "in_process", database: "sqlite" };
        let tracing = Tracing::start(&config.trace, process)?;
        let traces = Arc::clone(&tracing.traces);
        let bus: SharedBus = InProcessBus::new(config.bus.partitions).shared();
        let busy = || format!("--port-base {} cannot be used; choose another", args.port_base);
        let verification = verification_keys(keys.verification())?;
        let neighbours =
            gateway::Neighbours { traces: Arc::clone(&traces), ..Arc::clone(&bus).into() };
        let gateway =
            Gateway::start(config.gateway, verification, neighbours).with_context(busy)?;
        let frames = SocketAddr::new(args.host, args.port_base + PORT_FRAMES).to_string();
        let neighbours = Neighbours {
            bus,
            routes: Arc::<Directory>::clone(gateway.directory()),
            ring: Arc::new(ArcSwap::new(Arc::clone(StaticList::alone(NAME, &frames)?.ring()))),
            clock: Clock::System,
            redis: None,
        };
        drop(claim);
        let logic = match Logic::start_traced(config.logic, keys, neighbours, true, &traces) {
            Ok(logic) => logic,
            Err(error) => {
                gateway.shutdown();
                let is_port = matches!(error, StartError::Listen { .. });
                let error = anyhow::Error::from(error);
                return Err(if is_port { error.context(busy()) } else { error });
            }
        };
        let metrics = Arc::clone(&logic.metrics);
        let append = AppendMetrics(Box::new(move |out| {
            metrics.encode(out);
            traces.encode(out);
        }));
        gateway.status().show_metrics(append);
        Ok(Self { gateway, logic, tracing })
    }

    /// What a person needs to see, last of all `ready`.
    fn banner(&self, args: &Args) -> Result<String> {
        let mut text = String::new();
        let frames = self.gateway.addresses().first().context("a gateway has a listener")?;
        writeln!(text, "driver   {}", self.gateway.status().driver_reason)?;
        writeln!(text, "http     http://{}  (OpenAPI: /v1/openapi.json)", self.logic.http_address)?;
        writeln!(text, "frames   {frames}  (TCP)")?;
        writeln!(
            text,
            "admin    http://{}  (/readyz?verbose, /metrics)",
            self.gateway.admin_address()
        )?;
        writeln!(text, "data     {}", absolute(&args.data_dir).display())?;
        for notice in self.gateway.notices() {
            writeln!(text, "note     {notice}")?;
        }
        let server = match args.port_base == PORT_BASE && args.host == Ipv4Addr::LOCALHOST {
            true => String::new(),
            false => format!(" --server {frames}"),
        };
        writeln!(text, "try      roost tail --as bob --from-start{server}")?;
        writeln!(text, "         roost send --as alice --to bob{server} \"hello\"")?;
        writeln!(text, "ready")?;
        Ok(text)
    }

    /// The gateway first: what its clients still say reaches logic, and what logic answers reaches them.
    fn stop(self) {
        self.gateway.drain();
        self.logic.join();
        self.tracing.stop();
    }
}

fn config(args: &Args) -> Result<Config> {
    let mut gateway = GatewayConfig {
        name: NAME.to_owned(),
        listen: vec![SocketAddr::new(args.host, args.port_base + PORT_FRAMES)],
        admin_listen: SocketAddr::from((Ipv4Addr::LOCALHOST, args.port_base + PORT_ADMIN)),
        shards: args.shards.unwrap_or(0),
        ..GatewayConfig::default()
    };
    gateway.io.driver = match args.driver {
        Driver::Auto => DriverChoice::Auto,
        Driver::IoUring => DriverChoice::IoUring,
        Driver::Epoll => DriverChoice::Epoll,
    };
    // Load tests come from one address.
    gateway.limits.connections_per_ip_max = 0;
    gateway.drain.go_away_window = DRAIN_WITHIN;
    gateway.drain.close_after = DRAIN_WITHIN;
    // There is no broker to spare.
    gateway.inbound.publish_interval = Duration::ZERO;
    let logic = LogicConfig {
        http_listen: SocketAddr::new(args.host, args.port_base),
        data_dir: absolute(&args.data_dir),
        ..LogicConfig::default()
    };
    let mut config = Config { gateway, logic, ..Config::default() };
    config.trace.sample = args.trace_sample;
    config.trace.otlp_endpoint = args.otlp_endpoint.clone().unwrap_or_default();
    config.trace.check().map_err(|error| anyhow!("trace.{error}"))?;
    Ok(config)
}

pub(crate) fn verification_keys(keys: &[VerificationKey]) -> Result<VerificationKeys> {
    let mut verification = VerificationKeys::new();
    for key in keys {
        let app = key.app.as_deref();
        match &key.material {
            KeyMaterial::Hs256(secret) => verification.add_hs256(&key.id, app, secret)?,
            KeyMaterial::Ed25519(public) => verification.add_ed25519(&key.id, app, public)?,
        }
    }
    Ok(verification)
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    pub(crate) fn listen() -> Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    pub(crate) async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
