//! The command line.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use roost_protocol::dev;

use crate::arrival::Arrivals;
use crate::user::STAMP_BYTES;

/// Load tester of Roost: open loop, judged by a history checker.
///
/// Exit codes: 0 good, 1 threshold missed or promise broken, 2 void run, 3 error.
#[derive(Debug, Parser)]
#[command(name = "roost-load", version, arg_required_else_help = true)]
pub struct Options {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The scenarios.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Hold many connections that do nothing but stay.
    Idle(Idle),
    /// Users write to each other at a fixed rate.
    Chat(Chat),
    /// Judge histories that earlier runs wrote with --history, as one.
    Judge(Judge),
}

/// `roost-load idle`.
#[derive(Debug, Args)]
pub struct Idle {
    /// Connections to hold.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    pub connections: u64,
    /// Seconds to hold them.
    #[arg(long, default_value_t = 10)]
    pub hold: u64,
    /// Stop at so many equal levels on the way, to measure the server's memory by the slope over
    /// them; 4 at least, with --settle 60.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=100))]
    pub steps: u64,
    /// Quiet seconds at each level before the server's memory is read.
    #[arg(long, default_value_t = 0)]
    pub settle: u64,
    #[command(flatten)]
    #[expect(missing_docs, reason = "documented on the type")]
    pub common: Common,
}

/// `roost-load chat`.
#[derive(Debug, Args)]
pub struct Chat {
    /// Users who write; each has one connection. They stand in a ring and write to their
    /// neighbours.
    #[arg(long, value_parser = clap::value_parser!(u32).range(2..=18_000))]
    pub users: u32,
    /// Messages a second, of all users together.
    #[arg(long)]
    pub rate: f64,
    /// Seconds of the schedule.
    #[arg(long, default_value_t = 10)]
    pub duration: u64,
    /// Idle connections beside the users.
    #[arg(long, default_value_t = 0)]
    pub idle: u64,
    /// Bytes of each message body; its first 32 carry time stamps.
    #[arg(long, default_value_t = 64,
        value_parser = clap::value_parser!(u64).range(STAMP_BYTES as u64..=16_384))]
    pub payload: u64,
    /// How sending times are spaced.
    #[arg(long, value_enum, default_value_t = Arrivals::Poisson)]
    pub arrivals: Arrivals,
    /// Seed of the schedule: the same seed offers the same load.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Threads for the users.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub threads: u32,
    /// Seconds to wait after the schedule until everything is acknowledged and delivered. A lost
    /// push is repaired by the heartbeat's digest, so less than a minute may see a late message as
    /// lost.
    #[arg(long, default_value_t = 75)]
    pub drain: u64,
    /// Generator lag at p99, in milliseconds, above which a run is void.
    #[arg(long, default_value_t = 10)]
    pub lag_limit_ms: u64,
    /// Write the recorded history to this file, for `roost-load judge`.
    #[arg(long, value_name = "FILE")]
    pub history: Option<PathBuf>,
    #[command(flatten)]
    #[expect(missing_docs, reason = "documented on the type")]
    pub common: Common,
}

/// `roost-load judge`.
#[derive(Debug, Args)]
pub struct Judge {
    /// Files in the order in which they were recorded.
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
}

/// What all scenarios need.
#[derive(Debug, Clone, Args)]
pub struct Common {
    /// TCP frames of the server; of a cluster all gateways, with commas. Users go where a gateway
    /// sends them. Default: the gateways of --config, else 127.0.0.1:7401.
    #[arg(long, value_delimiter = ',', value_name = "HOST:PORT")]
    pub server: Vec<String>,
    /// HTTP API of the server. Default: that of --config, else 127.0.0.1:7400.
    #[arg(long, value_name = "HOST:PORT")]
    pub http: Option<String>,
    /// Configuration file of the server: its gateways, its HTTP address, and the keys of its first
    /// app that has an HS256 key and an API key.
    #[arg(long, value_name = "FILE",
        conflicts_with_all = ["app", "key_id", "key_secret", "api_key"])]
    pub config: Option<PathBuf>,
    /// Connections started a second.
    #[arg(long, default_value_t = 5000.0, value_name = "RATE")]
    pub ramp: f64,
    /// Idle connections that are lost after they were logged in come back as clients do: at the next
    /// gateway, after a random pause that grows with each failure. Users always do.
    #[arg(long)]
    pub reconnect: bool,
    /// Write a self-contained page with plots to this file.
    #[arg(long, value_name = "FILE.html")]
    pub report: Option<PathBuf>,
    /// Write the figures to this file.
    #[arg(long, value_name = "FILE.json")]
    pub json: Option<PathBuf>,
    /// Thresholds, such as `ack_us.p99 = 10000`.
    #[arg(long, value_name = "FILE.toml")]
    pub slo: Option<PathBuf>,
    /// Others use this machine: stolen CPU and overflowing listen queues, which are counted for the
    /// whole machine, become notes of the report instead of making the run void.
    #[arg(long)]
    pub shared_machine: bool,
    /// Source addresses of ballast connections to a server on another machine; each gives
    /// 8,000.
    #[arg(long, value_delimiter = ',', value_name = "ADDRESS")]
    pub source: Vec<Ipv4Addr>,
    /// App of the users.
    #[arg(long, default_value = dev::APP)]
    pub app: String,
    /// Id of the HS256 key that signs the users' tokens.
    #[arg(long, default_value = dev::KEY_ID)]
    pub key_id: String,
    /// Its secret.
    #[arg(long, default_value = dev::SECRET, env = "ROOST_KEY_SECRET", hide_env_values = true,
        hide_default_value = true)]
    pub key_secret: String,
    /// API key for creating users and reading back what is stored.
    #[arg(long, default_value = dev::API_KEY, env = "ROOST_API_KEY", hide_env_values = true,
        hide_default_value = true)]
    pub api_key: String,
}
