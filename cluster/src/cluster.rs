//! A running cluster: the one owner of its processes. Dropping it kills them, Roost before what Roost needs.

mod service;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use roost_testing::{Process, RabbitMq, Redis};

use crate::clock::Clocks;
use crate::link::Links;
use crate::node::{Node, Start, Tier};
use crate::plan::{self, Membership, Secrets, Services, Shape, Ways};
use crate::probe::Probe;
use crate::services::{Registry, Store};

pub use service::Service;

/// Exist from the start, for whoever tries the cluster by hand.
const SAMPLE_USERS: [&str; 2] = ["alice", "bob"];
const PATIENCE: Duration = Duration::from_secs(30);

/// What is built into a cluster so that it can be broken there.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seams {
    /// Links before each gateway, and from each process to the broker.
    pub(crate) links: bool,
    /// Clocks of the processes.
    pub(crate) clocks: bool,
    /// Where the database is, if it matters.
    pub(crate) data_folder: Option<PathBuf>,
}

/// A running cluster.
#[derive(Debug)]
pub struct Cluster {
    gateways: Vec<Node>,
    logics: Vec<Node>,
    links: Option<Links>,
    store: Store,
    redis: Redis,
    registry: Registry,
    broker: RabbitMq,
    clocks: Option<Clocks>,
    options: Shape,
    api_key: String,
}

/// What is the same for every process of Roost.
struct Setting<'a> {
    folder: &'a Path,
    program: &'a Path,
    services: Services,
    secrets: Secrets,
}

/// A process of a cluster, as a reader of its state needs to know it.
#[derive(Debug, Clone)]
pub(crate) struct Part {
    pub(crate) name: String,
    pub(crate) ports: Vec<u16>,
    pub(crate) id: u32,
    pub(crate) probe: Option<Probe>,
}

impl Cluster {
    /// Starts everything below `folder` with the program `roost`, and waits until it is ready. `say` hears of each step.
    ///
    /// # Errors
    /// When something cannot be started; what was started is gone then.
    pub fn start(
        options: &Shape,
        folder: &Path,
        roost: &Path,
        say: &mut dyn FnMut(&str),
    ) -> Result<Self> {
        Self::start_with(options, &Seams::default(), (folder, roost), say)
    }

    /// The same with seams.
    pub(crate) fn start_with(
        options: &Shape,
        seams: &Seams,
        (folder, roost): (&Path, &Path),
        say: &mut dyn FnMut(&str),
    ) -> Result<Self> {
        options.check()?;
        check_ports(options)?;
        roost_testing::host::make_scratch_folders_in(folder);
        say("starting RabbitMQ, Redis and the database (missing packages are installed first)");
        let definitions = folder.join("definitions.json");
        std::fs::write(&definitions, plan::DEFINITIONS)?;
        let (broker, redis, store) = std::thread::scope(|scope| {
            let broker = scope.spawn(RabbitMq::start);
            let redis = scope.spawn(Redis::start);
            let store = Store::start(options, seams.data_folder.as_deref());
            (broker.join(), redis.join(), store)
        });
        let registry = Registry::start(options.membership);
        // What went wrong was printed by the panic.
        let broker = broker.map_err(|_| anyhow::anyhow!("RabbitMQ could not be started"))?;
        let redis = redis.map_err(|_| anyhow::anyhow!("Redis could not be started"))?;
        // Once, as an operator does: imported at every start of the broker they would take the password away again.
        broker.ctl(&["import_definitions", &definitions.display().to_string()]);
        let broker_password = plan::secret()?;
        broker.ctl(&["change_password", plan::BROKER_USER, &broker_password]);
        let links = seams.links.then(|| Links::open(options, broker.port())).transpose()?;
        let direct = || Ways::direct(options, broker.port());
        let services = Services {
            ways: links.as_ref().map_or_else(direct, Links::ways),
            data_folder: seams.data_folder.clone(),
            broker_password,
            redis_url: redis.url(),
            store_urls: store.urls(options),
            registry: registry.endpoint(),
        };
        let secrets = Secrets::make()?;
        let mut cluster = Self {
            gateways: Vec::new(),
            logics: Vec::new(),
            links,
            store,
            redis,
            registry,
            broker,
            clocks: seams.clocks.then(|| Clocks::new(folder)).transpose()?,
            options: options.clone(),
            api_key: secrets.api_key.clone(),
        };
        let setting = Setting { folder, program: roost, services, secrets };
        say("starting roost logic");
        cluster.start_logics(&setting)?;
        say("starting roost gateway");
        cluster.start_gateways(&setting)?;
        cluster.create_users(&SAMPLE_USERS)?;
        Ok(cluster)
    }

    fn start_logics(&mut self, setting: &Setting<'_>) -> Result<()> {
        let Setting { folder, program, services, secrets } = setting;
        for (index, name) in (0..).zip(self.options.logic_names()) {
            let http = self.options.http(index);
            let text = plan::logic_file(&self.options, services, secrets, (index, folder))?;
            let probe = Probe::Logic { http, api_key: secrets.api_key.clone() };
            let ports = vec![http];
            let variables = self.variables(&name)?;
            let tier = Tier::Logic;
            let start = Start { name, tier, ports, probe, folder, program, text, variables };
            self.logics.push(Node::start(start)?);
        }
        self.logics.iter_mut().try_for_each(Node::wait_ready)
    }

    fn start_gateways(&mut self, setting: &Setting<'_>) -> Result<()> {
        let Setting { folder, program, services, secrets } = setting;
        for (index, name) in (0..).zip(self.options.gateway_names()) {
            let admin = self.options.admin(index);
            let text = plan::gateway_file(&self.options, services, secrets, index)?;
            let ports = vec![self.options.frames(index), admin];
            let probe = Probe::Gateway { admin };
            let variables = self.variables(&name)?;
            let tier = Tier::Gateway;
            let start = Start { name, tier, ports, probe, folder, program, text, variables };
            self.gateways.push(Node::start(start)?);
        }
        self.gateways.iter_mut().try_for_each(Node::wait_ready)
    }

    /// What a process gets into its environment.
    fn variables(&self, name: &str) -> Result<Vec<(String, String)>> {
        self.clocks.as_ref().map_or(Ok(Vec::new()), |clocks| clocks.variables(name))
    }

    fn create_users(&self, users: &[&str]) -> Result<()> {
        let url = format!("http://{}/v1/users", self.http());
        ureq::post(&url)
            .config()
            .timeout_global(Some(PATIENCE))
            .build()
            .header("authorization", format!("Bearer {}", self.api_key))
            .send_json(serde_json::json!({ "users": users }))
            .context("creating the users alice and bob")?;
        Ok(())
    }

    /// Its shape.
    pub fn options(&self) -> &Shape {
        &self.options
    }

    /// `host:port` of the HTTP API.
    pub fn http(&self) -> String {
        format!("127.0.0.1:{}", self.options.http(0))
    }

    /// A configuration file with everything that a client needs: gateways, HTTP address, the app and its keys.
    pub fn client_file(&self) -> PathBuf {
        self.logics[0].file().to_owned()
    }

    /// The broker.
    pub fn broker(&self) -> &RabbitMq {
        &self.broker
    }

    /// The route table.
    pub fn redis(&self) -> &Redis {
        &self.redis
    }

    pub(crate) fn has_store_server(&self) -> bool {
        !matches!(self.store, Store::Sqlite)
    }

    pub(crate) fn has_registry(&self) -> bool {
        self.options.membership != Membership::Static
    }

    /// If it was started with them.
    pub(crate) fn links(&self) -> Option<&Links> {
        self.links.as_ref()
    }

    /// If it was started with them.
    pub(crate) fn clocks(&self) -> Option<&Clocks> {
        self.clocks.as_ref()
    }

    /// Kills every process of Roost and starts it again as `program`, with `variables` over its file.
    pub(crate) fn restart_all_as(
        &mut self,
        program: &Path,
        variables: &[(String, String)],
    ) -> Result<()> {
        let mut nodes: Vec<&mut Node> = self.logics.iter_mut().chain(&mut self.gateways).collect();
        nodes.iter_mut().for_each(|node| node.launch_as(program, variables));
        nodes.into_iter().try_for_each(Node::wait_ready)
    }

    /// What statements of the database's administrator print.
    pub(crate) fn sql(&self, statements: &str) -> String {
        self.store.sql(statements)
    }

    /// Whether every process of Roost is ready now; what is missing otherwise.
    ///
    /// # Errors
    /// What is missing.
    pub fn check_ready(&self) -> Result<()> {
        for node in self.gateways.iter().chain(&self.logics) {
            let readiness = node.probe.ask();
            if readiness != crate::probe::Readiness::Ready {
                bail!("{}: {readiness}", node.name);
            }
        }
        Ok(())
    }

    /// Restarts every process of Roost, one at a time: asks it to end, starts it again, waits until it is ready. `say` hears of each.
    ///
    /// # Errors
    /// When one does not become ready; those after it are left as they are.
    pub fn rolling_restart(&mut self, say: &mut dyn FnMut(&str)) -> Result<()> {
        for node in self.gateways.iter_mut().chain(&mut self.logics) {
            let begin = std::time::Instant::now();
            let former = node.id();
            node.end();
            node.restart()?;
            say(&format!(
                "{} is ready again after {:.1} s (process {former}, now {})",
                node.name,
                begin.elapsed().as_secs_f64(),
                node.id()
            ));
        }
        Ok(())
    }

    /// Asks every process to end, gateways first, and kills what does not.
    pub(crate) fn end(&mut self, say: &mut dyn FnMut(&str)) {
        for (what, nodes) in [("gateways", &mut self.gateways), ("logic", &mut self.logics)] {
            say(&format!("stopping {what}"));
            std::thread::scope(|scope| {
                for node in nodes {
                    scope.spawn(|| node.end());
                }
            });
        }
        say("stopping services");
        for service in [Service::RabbitMq, Service::Redis, Service::Store, Service::Registry] {
            self.kill(service);
        }
    }

    /// Every process.
    pub(crate) fn parts(&self) -> Vec<Part> {
        let of_node = |node: &Node| Part {
            name: node.name.clone(),
            ports: node.ports.clone(),
            id: node.id(),
            probe: Some(node.probe.clone()),
        };
        let mut parts: Vec<Part> = self.gateways.iter().chain(&self.logics).map(of_node).collect();
        let of_process = |name: &str, port: u16, process: &Process, probe: Option<Probe>| Part {
            name: name.to_owned(),
            ports: vec![port],
            id: process.id(),
            probe,
        };
        let port = self.broker.port();
        let probe = Probe::RabbitMq { port };
        parts.push(of_process("RabbitMQ", port, self.broker.process(), Some(probe)));
        let names = self.broker.name_server();
        parts.push(Part { ports: Vec::new(), ..of_process("epmd", 0, names, None) });
        let port = self.redis.port();
        parts.push(of_process("Redis", port, self.redis.process(), Some(Probe::Redis { port })));
        parts.extend(self.store.part());
        parts.extend(self.registry.part());
        parts
    }
}

/// A port that is taken is named before anything is started.
fn check_ports(options: &Shape) -> Result<()> {
    let gateways = (0..options.gateways).flat_map(|i| [options.frames(i), options.admin(i)]);
    let logics = (0..options.logic).map(|i| options.http(i));
    for port in gateways.chain(logics) {
        if let Err(error) = std::net::TcpListener::bind(("127.0.0.1", port)) {
            bail!(
                "port {port} cannot be used ({error}): stop what listens there, or choose another --port-base"
            );
        }
    }
    Ok(())
}
