//! `recovery`: takes each part of a cluster away under load, and measures for how long its users feel it.
//!
//! * A message is felt to wait when its answer takes longer than it would in calm times. A part has recovered when the last such answer has
//!   arrived: so the backlog counts, and every user does. When there was none, the longest wait stands for it.
//! * Ratios compare the time of a fault with the calm just before it, in the same run.
//! * Whatever is measured, the history checker judges the whole run, and a broken promise fails it.
//!
//! Three parts may be away at any time without anybody noticing: Redis, and the registry. What takes a moment is named with its limit.

mod gateway;
mod load;
mod parts;

use std::path::Path;

use anyhow::{Result, bail, ensure};
use roost_loadtest::run::Run;

use crate::goals::{self, Figure, Unit};
use crate::plan::{self, Membership, Shape};

/// What is taken away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Part {
    /// Redis is away for a while.
    Redis,
    /// One of several logic processes is killed.
    Logic,
    /// RabbitMQ is killed and started again.
    Rabbitmq,
    /// The database is killed and started again.
    Store,
    /// etcd or ZooKeeper is away for a while.
    Registry,
    /// One of two gateways is killed, with many connections.
    Gateway,
}

impl Part {
    const ALL: [Self; 6] =
        [Self::Redis, Self::Logic, Self::Rabbitmq, Self::Store, Self::Registry, Self::Gateway];
}

/// `recovery`.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Only these parts
    #[arg(long, value_enum, value_delimiter = ',', value_name = "PART")]
    pub only: Vec<Part>,
    /// Users of the load
    #[arg(long, value_name = "N", default_value_t = 400)]
    pub users: u32,
    /// Messages a second
    #[arg(long, value_name = "N", default_value_t = 1_000)]
    pub rate: u32,
    /// Seconds of calm before each fault, that what follows is compared with; a p99 needs 10,000 messages
    #[arg(long, value_name = "SECONDS", default_value_t = 25)]
    pub calm: u64,
    /// For so many seconds Redis is away, and a killed gateway is watched twice as long
    #[arg(long, value_name = "SECONDS", default_value_t = 20)]
    pub away: u64,
    /// For so many seconds the registry is away
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    pub registry_away: u64,
    /// Idle connections of each gateway, when one of them is killed
    #[arg(long, value_name = "N", default_value_t = 50_000)]
    pub connections: u64,
    /// Judge only what holds on a machine of any speed: nothing refused, dropped or lost. Times stay in the table
    #[arg(long)]
    pub untimed: bool,
    /// What is broken. At least two gateways and two logic processes, and etcd unless another registry is chosen
    #[command(flatten)]
    pub cluster: plan::Shape,
}

impl Options {
    fn wants(&self, part: Part) -> bool {
        self.only.is_empty() || self.only.contains(&part)
    }

    fn shape(&self) -> Shape {
        let mut shape = self.cluster.clone();
        shape.gateways = shape.gateways.max(2);
        shape.logic = shape.logic.max(2);
        if shape.membership == Membership::Static {
            shape.membership = Membership::Etcd;
        }
        shape
    }
}

/// Measures everything with the program `roost` and prints a table; fails when a goal was missed or a promise broken.
///
/// # Errors
/// What was missed.
pub fn run(options: &Options, roost: &Path) -> Result<()> {
    let wanted: Vec<Part> = Part::ALL.into_iter().filter(|part| options.wants(*part)).collect();
    let folder = tempfile::Builder::new()
        .prefix("roost-recovery-")
        // Services have users of their own, who must be able to enter.
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .tempdir()?;
    match measure(options, &wanted, folder.path(), roost).and_then(|figures| {
        let judged = |figure: Figure| match options.untimed && figure.unit != Unit::Count {
            true => figure.unjudged(),
            false => figure,
        };
        goals::conclude(&figures.into_iter().map(judged).collect::<Vec<_>>())
    }) {
        Ok(()) => Ok(()),
        Err(error) => {
            let kept = folder.keep();
            Err(error.context(format!("logs and data are kept in {}", kept.display())))
        }
    }
}

fn measure(options: &Options, wanted: &[Part], folder: &Path, roost: &Path) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    if wanted.iter().any(|part| *part != Part::Gateway) {
        let place = folder.join("parts");
        std::fs::create_dir(&place)?;
        figures.extend(parts::measure(options, wanted, &place, roost)?);
    }
    if wanted.contains(&Part::Gateway) {
        let place = folder.join("gateway");
        std::fs::create_dir(&place)?;
        figures.extend(gateway::measure(options, &place, roost)?);
    }
    Ok(figures)
}

/// What the checker says of a run.
fn check_promises(run: &Run) -> Result<()> {
    let Some(verdict) = &run.verdict else { bail!("nothing was judged") };
    ensure!(verdict.is_pass(), "{verdict}");
    Ok(())
}

/// A latency in milliseconds.
fn ms(us: u64) -> f64 {
    us as f64 / 1e3
}

/// A duration in seconds.
fn seconds(us: u64) -> f64 {
    us as f64 / 1e6
}
