//! What a cluster consists of, where each part listens, and the configuration files that say so. Pure: nothing is started here.

use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow, bail};
use serde::{Deserialize, Serialize};
use toml::{Table, Value};

/// What an operator copies is what runs here.
const GATEWAY: &str = include_str!("../../deploy/gateway.toml");
const LOGIC: &str = include_str!("../../deploy/logic.toml");
/// Users, virtual host and policy of the broker.
pub(crate) const DEFINITIONS: &str = include_str!("../../deploy/rabbitmq/definitions.json");

/// Virtual host of the definitions.
pub(crate) const VHOST: &str = "roost";
/// User of the definitions.
pub(crate) const BROKER_USER: &str = "roost";
/// Each gateway and each logic process has a block of ports, as `roost dev` has one.
const BLOCK: u16 = 10;
const PORT_HTTP: u16 = 0;
const PORT_FRAMES: u16 = 1;
const PORT_LOGIC_ADMIN: u16 = 8;
const PORT_ADMIN: u16 = 9;
const APP: &str = "demo";
const KEY_ID: &str = "demo-1";

/// The database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StoreKind {
    /// MariaDB.
    Mariadb,
    /// PostgreSQL.
    Postgres,
    /// A file of the one logic process.
    Sqlite,
}

/// How gateways know each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Membership {
    /// A list in the configuration.
    Static,
    /// etcd.
    Etcd,
    /// ZooKeeper.
    Zookeeper,
}

/// The shape of a cluster.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args, Serialize, Deserialize)]
pub struct Shape {
    /// Gateways
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub gateways: u16,
    /// Logic processes
    #[arg(long, value_name = "M", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub logic: u16,
    /// Database
    #[arg(long, value_enum, default_value = "mariadb")]
    pub store: StoreKind,
    /// Databases of its server that divide users and conversations among them
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub databases: u16,
    /// How gateways know each other
    #[arg(long, value_enum, default_value = "static")]
    pub membership: Membership,
    /// First of the ports of Roost: HTTP of the first logic process; frames on the next one and admin nine above. Each further process
    /// has them ten higher. Services take free ports between 20000 and 32000
    #[arg(long, value_name = "PORT", default_value_t = 7400, value_parser = clap::value_parser!(u16).range(1024..=60_000))]
    pub port_base: u16,
    /// Threads of each gateway with connections of their own
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub shards: u16,
    /// Ordered shares of the conversations
    #[arg(long, value_name = "N", default_value_t = 8)]
    pub partitions: u16,
}

impl Shape {
    /// Says what of this cannot be, before anything is started.
    pub(crate) fn check(&self) -> Result<()> {
        if self.store == StoreKind::Sqlite && self.logic > 1 {
            bail!(
                "--store sqlite is a file of one logic process: use --logic 1, or --store mariadb"
            );
        }
        if self.store == StoreKind::Sqlite && self.databases > 1 {
            bail!("--store sqlite is one file: use --databases 1, or --store mariadb");
        }
        let blocks = self.gateways.max(self.logic);
        if u32::from(self.port_base) + u32::from(blocks) * u32::from(BLOCK) > 65_535 {
            bail!(
                "--port-base {}: there are not {blocks} times {BLOCK} ports above it",
                self.port_base
            );
        }
        Ok(())
    }

    fn port(&self, index: u16, offset: u16) -> u16 {
        self.port_base + index * BLOCK + offset
    }

    /// Names of the gateways.
    pub(crate) fn gateway_names(&self) -> Vec<String> {
        (1..=self.gateways).map(|number| format!("gw-{number}")).collect()
    }

    /// Names of the logic processes.
    pub(crate) fn logic_names(&self) -> Vec<String> {
        (1..=self.logic).map(|number| format!("logic-{number}")).collect()
    }

    /// Names of the databases.
    pub(crate) fn database_names(&self) -> Vec<String> {
        (1..=self.databases)
            .map(|number| match number {
                1 => "roost".to_owned(),
                _ => format!("roost_{number}"),
            })
            .collect()
    }

    /// Where clients reach the gateway `index`.
    pub(crate) fn frames(&self, index: u16) -> u16 {
        self.port(index, PORT_FRAMES)
    }

    /// Its admin port.
    pub(crate) fn admin(&self, index: u16) -> u16 {
        self.port(index, PORT_ADMIN)
    }

    /// The admin port of the logic process `index`.
    pub(crate) fn logic_admin(&self, index: u16) -> u16 {
        self.port(index, PORT_LOGIC_ADMIN)
    }

    /// The HTTP API of the logic process `index`.
    pub(crate) fn http(&self, index: u16) -> u16 {
        self.port(index, PORT_HTTP)
    }
}

/// Ports by which processes of Roost and their clients reach what they need: its own, or that of a link in between.
#[derive(Debug)]
pub(crate) struct Ways {
    /// Of the broker, for each gateway.
    pub(crate) gateway_to_broker: Vec<u16>,
    /// Of the broker, for each logic process.
    pub(crate) logic_to_broker: Vec<u16>,
    /// Of each gateway, for clients.
    pub(crate) clients: Vec<u16>,
}

impl Ways {
    /// Nothing in between.
    pub(crate) fn direct(options: &Shape, broker: u16) -> Self {
        Self {
            gateway_to_broker: vec![broker; usize::from(options.gateways)],
            logic_to_broker: vec![broker; usize::from(options.logic)],
            clients: (0..options.gateways).map(|index| options.frames(index)).collect(),
        }
    }
}

/// Where the services are.
#[derive(Debug)]
pub(crate) struct Services {
    pub(crate) ways: Ways,
    /// The database of a process that has it in a file, if not in its own folder.
    pub(crate) data_folder: Option<PathBuf>,
    pub(crate) broker_password: String,
    pub(crate) redis_url: String,
    /// One for each database; empty: SQLite.
    pub(crate) store_urls: Vec<String>,
    /// Empty: a static list.
    pub(crate) registry: String,
}

/// Secrets of one cluster, made for it.
#[derive(Debug)]
pub(crate) struct Secrets {
    pub(crate) app_key: String,
    pub(crate) api_key: String,
    resume: String,
}

impl Secrets {
    pub(crate) fn make() -> Result<Self> {
        Ok(Self { app_key: secret()?, api_key: secret()?, resume: secret()? })
    }
}

/// 256 random bits in hexadecimal digits.
pub(crate) fn secret() -> Result<String> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|error| anyhow!("no random bytes: {error}"))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The file of the gateway `index`.
pub(crate) fn gateway_file(
    options: &Shape,
    services: &Services,
    secrets: &Secrets,
    index: u16,
) -> Result<String> {
    let at = usize::from(index);
    let mut table =
        common(GATEWAY, options, (services, services.ways.gateway_to_broker[at]), secrets)?;
    set(&mut table, "gateway.name", format!("gw-{}", index + 1))?;
    let listen = format!("127.0.0.1:{}", options.frames(index));
    if options.membership != Membership::Static {
        let address = format!("127.0.0.1:{}", services.ways.clients[at]);
        set(&mut table, "membership.address", address)?;
    }
    set(&mut table, "gateway.listen", vec![listen])?;
    set(&mut table, "gateway.admin_listen", format!("127.0.0.1:{}", options.admin(index)))?;
    set(&mut table, "gateway.shards", i64::from(options.shards))?;
    set(&mut table, "gateway.resume_secret", secrets.resume.clone())?;
    // A load test comes from one address, and whoever restarts a gateway here waits for it.
    set(&mut table, "gateway.limits.connections_per_ip_max", 0)?;
    set(&mut table, "gateway.drain.go_away_window_ms", 1_000)?;
    set(&mut table, "gateway.drain.reconnect_after_max_ms", 1_000)?;
    set(&mut table, "gateway.drain.close_after_ms", 2_000)?;
    Ok(toml::to_string(&table)?)
}

/// The file of the logic process `index`; `folder` has its data.
pub(crate) fn logic_file(
    options: &Shape,
    services: &Services,
    secrets: &Secrets,
    (index, folder): (u16, &Path),
) -> Result<String> {
    let broker = services.ways.logic_to_broker[usize::from(index)];
    let mut table = common(LOGIC, options, (services, broker), secrets)?;
    let name = format!("logic-{}", index + 1);
    let data = services.data_folder.as_deref().unwrap_or(folder).join(format!("{name}-data"));
    set(&mut table, "logic.name", name)?;
    set(&mut table, "logic.worker_id", i64::from(index))?;
    set(&mut table, "logic.http_listen", format!("127.0.0.1:{}", options.http(index)))?;
    let admin = format!("127.0.0.1:{}", options.logic_admin(index));
    set(&mut table, "logic.admin_listen", admin)?;
    set(&mut table, "logic.data_dir", data.display().to_string())?;
    let (url, urls) = match services.store_urls.as_slice() {
        [url] => (url.clone(), Vec::new()),
        urls => (String::new(), urls.to_vec()),
    };
    set(&mut table, "logic.store.url", url)?;
    set(&mut table, "logic.store.urls", urls)?;
    Ok(toml::to_string(&table)?)
}

fn common(
    text: &str,
    options: &Shape,
    (services, broker): (&Services, u16),
    secrets: &Secrets,
) -> Result<Table> {
    let mut table: Table = text.parse()?;
    set(&mut table, "bus.url", format!("amqp://127.0.0.1:{broker}/{VHOST}"))?;
    set(&mut table, "bus.user", BROKER_USER.to_owned())?;
    set(&mut table, "bus.password", services.broker_password.clone())?;
    set(&mut table, "bus.partitions", i64::from(options.partitions))?;
    let gateways = options.gateway_names().into_iter().zip(&services.ways.clients);
    let gateways = gateways.map(|(name, port)| format!("{name}=127.0.0.1:{port}"));
    set(&mut table, "cluster.gateways", gateways.collect::<Vec<_>>())?;
    let logic = (0..options.logic).map(|i| format!("http://127.0.0.1:{}", options.http(i)));
    set(&mut table, "cluster.logic", logic.collect::<Vec<_>>())?;
    let kind = match options.membership {
        Membership::Static => "static",
        Membership::Etcd => "etcd",
        Membership::Zookeeper => "zookeeper",
    };
    if options.membership != Membership::Static {
        set(&mut table, "membership.kind", kind.to_owned())?;
        set(&mut table, "membership.endpoints", vec![services.registry.clone()])?;
        // Whoever kills a gateway here waits until its name is free again.
        set(&mut table, "membership.lease_ms", 4_000)?;
        set(&mut table, "membership.response_timeout_ms", 1_500)?;
    }
    set(&mut table, "routes.url", services.redis_url.clone())?;
    let app = format!(
        "id = {APP:?}\napi_keys = [{:?}]\n[[keys]]\nid = {KEY_ID:?}\nalgorithm = \"HS256\"\nsecret = {:?}\n",
        secrets.api_key, secrets.app_key
    );
    set(&mut table, "logic.apps", vec![Value::Table(app.parse()?)])?;
    Ok(table)
}

/// Puts a value at a dotted key, making tables on the way.
fn set(table: &mut Table, key: &str, value: impl Into<Value>) -> Result<()> {
    match key.split_once('.') {
        None => {
            table.insert(key.to_owned(), value.into());
            Ok(())
        }
        Some((first, rest)) => {
            let inner = table.entry(first).or_insert_with(|| Value::Table(Table::new()));
            let inner = inner.as_table_mut().ok_or_else(|| anyhow!("{first} is no table"))?;
            set(inner, rest, value)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: Shape,
    }

    fn options(arguments: &[&str]) -> Shape {
        Line::parse_from(["up"].iter().chain(arguments)).options
    }

    #[track_caller]
    fn check(arguments: &[&str], expected: Option<&str>) {
        let found = options(arguments).check().err().map(|error| error.to_string());
        match expected {
            None => assert_eq!(found, None),
            Some(part) => assert!(found.as_ref().is_some_and(|f| f.contains(part)), "{found:?}"),
        }
    }

    #[test]
    fn what_cannot_be_is_said_first() {
        check(&[], None);
        check(&["--gateways", "3", "--logic", "4"], None);
        check(&["--store", "sqlite", "--logic", "2"], Some("--logic 1"));
        check(&["--store", "sqlite", "--databases", "2"], Some("--databases 1"));
        check(&["--store", "postgres", "--databases", "2"], None);
        check(&["--port-base", "60000", "--gateways", "64"], None);
    }

    #[test]
    fn every_process_has_its_own_ports() {
        let options = options(&["--gateways", "3", "--logic", "2", "--port-base", "5000"]);
        let mut ports: Vec<u16> =
            (0..3).flat_map(|i| [options.frames(i), options.admin(i)]).collect();
        ports.extend([options.http(0), options.http(1)]);
        let all = ports.len();
        ports.sort_unstable();
        ports.dedup();
        assert_eq!((ports.len(), ports[0]), (all, 5000));
    }
}
