//! `roost gateway` and `roost logic`: the two tiers as separate processes, with RabbitMQ between them.
//!
//! Everything that can be wrong with the configuration, the broker, the registry of members or a name that is taken is an error before the
//! first client is accepted. A gateway is a member before it accepts clients, and gets users of its own when it does; it loses them first
//! when it leaves. Logic processes divide the partitions of the bus.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};

use anyhow::{Context as _, Result, bail};
use roost_bus::RabbitBus;
use roost_bus::rabbitmq::DeadLetterWatch;
use roost_gateway::gateway::{self, AppendMetrics, Gateway};
use roost_logic::auth::{self, Keys};
use roost_logic::clock::Clock;
use roost_logic::{Logic, Neighbours};
use roost_membership::static_list::EveryGateway;
use roost_membership::{RedisRoutes, SharedRoutes};
use roost_trace::TraceConfig;
use tokio::runtime::Runtime;

use super::dev::{EXIT_INTERRUPTED, Signals, verification_keys};
use super::members::Members;
use super::traces::{Process, Tracing, database};
use crate::config::Config;

/// Which tier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tier {
    Gateway,
    Logic,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Configuration file; `roost config print` writes a complete one.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

/// `roost logic`, or a verb below it.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct LogicArgs {
    #[command(flatten)]
    start: Option<Args>,
    #[command(subcommand)]
    verb: Option<LogicVerb>,
}

#[derive(Debug, clap::Subcommand)]
enum LogicVerb {
    /// Bring the schema of each database up to date, say what was done to it, and end. `roost logic` does so at its start, too.
    Migrate(Args),
}

pub(crate) fn run_logic(args: &LogicArgs) -> Result<ExitCode> {
    match (&args.verb, &args.start) {
        (Some(LogicVerb::Migrate(args)), _) => migrate(args),
        (None, Some(args)) => run(Tier::Logic, args),
        (None, None) => {
            bail!("--config FILE is missing; `roost config print` writes a complete one")
        }
    }
}

fn migrate(args: &Args) -> Result<ExitCode> {
    let config = Config::load(&args.config)?;
    for line in Logic::migrate(&config.logic)? {
        println!("{line}");
    }
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn run(tier: Tier, args: &Args) -> Result<ExitCode> {
    let config = Config::load(&args.config)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut signals = runtime.block_on(async { Signals::listen() })?;
    let name = match tier {
        Tier::Gateway => format!("roost gateway {}", config.gateway.name),
        Tier::Logic => format!("roost logic {}", config.logic.name),
    };
    if config.routes.is_used() {
        runtime
            .block_on(roost_membership::redis::probe(&config.routes))
            .context("the route table cannot be used")?;
    }
    let bus = runtime
        .block_on(RabbitBus::connect(config.bus.clone(), &name))
        .context("the bus cannot be used")?;
    let stop: Box<dyn FnOnce() + Send> = match tier {
        Tier::Gateway => start_gateway(config, &bus)?,
        Tier::Logic => start_logic(config, &bus, &runtime)?,
    };
    runtime.block_on(async {
        signals.next().await;
        eprintln!("stopping; once more to stop at once");
        let stopped = tokio::task::spawn_blocking(stop);
        tokio::select! {
            stopped = stopped => stopped?,
            () = signals.next() => std::process::exit(EXIT_INTERRUPTED),
        }
        bus.close().await;
        Ok(ExitCode::SUCCESS)
    })
}

type Stop = Box<dyn FnOnce() + Send>;

fn start_gateway(config: Config, bus: &RabbitBus) -> Result<Stop> {
    let keys = auth::app_keys(&config.logic)?;
    let logic = config.cluster.logic_addresses().map_err(anyhow::Error::msg)?;
    if keys.is_empty() && logic.is_empty() {
        bail!(
            "cluster.logic names no logic process and logic.apps no key, so no token could be verified: add one of them"
        );
    }
    let verification = verification_keys(&keys)?;
    let members = Members::join(&config)?;
    let routes = config.routes.is_used().then_some(config.routes);
    let ring = config.cluster.redirect.then(|| members.ring().clone());
    let shed = config.cluster.shed();
    let name = config.gateway.name.clone();
    let tracing = start_tracing("gateway", name, &config.trace, "")?;
    let traces = Arc::clone(&tracing.traces);
    let neighbours = gateway::Neighbours {
        bus: bus.shared(),
        routes,
        ring,
        shed,
        logic,
        traces: Arc::clone(&traces),
    };
    let gateway = match Gateway::start(config.gateway, verification, neighbours) {
        Ok(gateway) => gateway,
        Err(error) => {
            members.leave();
            return Err(error.into());
        }
    };
    gateway.status().show_membership(members.report());
    let (counters, registry) = (Arc::clone(bus.counters()), members.status());
    gateway.status().show_metrics(AppendMetrics(Box::new(move |out| {
        counters.encode(out);
        traces.encode(out);
        if let Some(registry) = &registry {
            registry.encode(out);
        }
    })));
    members.open();
    let mut out = std::io::stdout().lock();
    writeln!(out, "driver   {}", gateway.status().driver_reason)?;
    for frames in gateway.addresses() {
        writeln!(out, "frames   {frames}  (TCP)")?;
    }
    writeln!(out, "admin    http://{}  (/readyz?verbose, /metrics)", gateway.admin_address())?;
    for notice in gateway.notices() {
        writeln!(out, "note     {notice}")?;
    }
    writeln!(out, "ready")?;
    out.flush()?;
    Ok(Box::new(move || {
        members.close();
        gateway.drain();
        members.leave();
        tracing.stop();
    }))
}

fn start_logic(config: Config, bus: &RabbitBus, runtime: &Runtime) -> Result<Stop> {
    let keys = Keys::open(&config.logic, false)?;
    let members = Members::follow(&config)?;
    let ring = Arc::clone(members.ring().shared());
    let redis = config.routes.is_used().then_some(config.routes);
    let mut breakers = Vec::new();
    let routes: SharedRoutes = match &redis {
        Some(redis) => {
            let routes = RedisRoutes::open(redis, Arc::clone(&ring))?;
            breakers.push(Arc::clone(routes.breaker()));
            Arc::new(routes)
        }
        None => Arc::new(EveryGateway::of(Arc::clone(&ring))),
    };
    let admin = config.logic.admin_listen;
    let admin = runtime.block_on(tokio::net::TcpListener::bind(admin)).with_context(|| {
        format!("cannot listen on {admin}: stop what uses it, or change logic.admin_listen")
    })?;
    let admin_address = admin.local_addr()?;
    let neighbours = Neighbours { bus: bus.shared(), routes, ring, clock: Clock::System, redis };
    let (name, url) = (config.logic.name.clone(), config.logic.store.url.clone());
    let tracing = start_tracing("logic", name, &config.trace, &url)?;
    let traces = Arc::clone(&tracing.traces);
    let writer = Mutex::new(traces.writer());
    bus.watch_dead_letters(DeadLetterWatch(Box::new(move |partition, body| {
        if let Ok(mut writer) = writer.lock() {
            roost_trace::record_dead_letter(&mut writer, partition, body);
        }
    })));
    let logic = Logic::start_traced(config.logic, keys, neighbours, false, &traces)?;
    let report = logic.report().with(Arc::clone(bus.counters()), breakers);
    let report = report.following(members.status()).tracing(&traces);
    runtime.spawn(roost_health::admin::serve(admin, report, roost_trace::http::routes(traces)));
    let mut out = std::io::stdout().lock();
    writeln!(out, "http     http://{}  (OpenAPI: /v1/openapi.json)", logic.http_address)?;
    writeln!(out, "admin    http://{admin_address}  (/readyz?verbose, /metrics)")?;
    writeln!(out, "ready")?;
    out.flush()?;
    Ok(Box::new(move || {
        logic.join();
        members.leave();
        tracing.stop();
    }))
}

fn start_tracing(
    tier: &'static str,
    name: String,
    config: &TraceConfig,
    url: &str,
) -> Result<Tracing> {
    let process = Process { tier, name, bus: "rabbitmq", database: database(url) };
    Tracing::start(config, process)
}
