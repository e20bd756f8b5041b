//! `roost-bench`: prints ours against the floors in one run; with a role as its first argument it
//! is one of the processes of such a run.

use std::net::SocketAddrV4;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};
use roost_benches::generator::{self, Framing, Load, Pace};
use roost_benches::measure::{self, Measurement, Settings};
use roost_benches::subject::{Placement, Subject};
use roost_benches::{ballast, floors, gateway, sys};
use roost_gateway::config::DriverChoice;

/// Exit code of a run that others on the machine disturbed.
const EXIT_VOID: u8 = 2;

#[derive(Parser)]
#[command(name = "roost-bench", about = "Roost's gateway against the floors, in one run")]
struct Arguments {
    #[command(subcommand)]
    role: Option<Role>,
    /// Fewer and shorter rounds: shows that everything works, proves little.
    #[arg(long)]
    quick: bool,
    /// Only this measurement (repeatable).
    #[arg(long, value_enum)]
    only: Vec<Measurement>,
    /// Only these subjects (repeatable); the io_uring floor is always measured.
    #[arg(long, value_enum)]
    subject: Vec<Subject>,
    /// Rounds of each comparison.
    #[arg(long)]
    rounds: Option<usize>,
    /// Counted seconds of each round.
    #[arg(long)]
    seconds: Option<f64>,
    /// Idle connections beside the latency measurement.
    #[arg(long, default_value_t = 100_000)]
    idle: usize,
    /// Quiet time before memory is read, in seconds.
    #[arg(long)]
    settle: Option<f64>,
    /// Core of the subject.
    #[arg(long, default_value_t = 0)]
    server_cpu: usize,
    /// Core of the generator.
    #[arg(long, default_value_t = 1)]
    generator_cpu: usize,
    /// Run subject and generator before everything else on the machine (SCHED_FIFO, root).
    #[arg(long)]
    realtime: bool,
    /// Where the JSON report goes.
    #[arg(long, default_value = "target/bench/report.json")]
    json: PathBuf,
}

#[derive(Subcommand)]
enum Role {
    /// Serve as a floor.
    #[command(hide = true)]
    Floor {
        #[command(subcommand)]
        floor: Floor,
    },
    /// Generate load.
    #[command(hide = true)]
    Load(LoadArguments),
    /// Hold idle connections.
    #[command(hide = true)]
    Ballast {
        #[arg(long, value_delimiter = ',')]
        targets: Vec<SocketAddrV4>,
        #[arg(long, value_enum)]
        framing: Framing,
        #[arg(long)]
        family: u8,
        #[command(flatten)]
        place: Place,
    },
}

#[derive(Subcommand)]
enum Floor {
    UringEcho(FloorArguments),
    Gateway(FloorArguments),
    GatewayEpoll(FloorArguments),
    EpollEcho(FloorArguments),
    MonoioEcho(FloorArguments),
    AcceptHold(FloorArguments),
    SendLoop(FloorArguments),
}

#[derive(Args)]
struct FloorArguments {
    /// Rings, each with a listener of its own.
    #[arg(long, default_value_t = 1)]
    rings: usize,
    /// Peers to wait for before the first round of the send loop.
    #[arg(long, default_value_t = 0)]
    connections: usize,
    /// Size of one message of the send loop.
    #[arg(long, default_value_t = 64)]
    payload: usize,
    #[command(flatten)]
    place: Place,
}

#[derive(Args)]
struct LoadArguments {
    #[arg(long, value_delimiter = ',')]
    targets: Vec<SocketAddrV4>,
    #[arg(long)]
    connections: usize,
    #[arg(long, value_enum)]
    framing: Framing,
    /// Messages a second; 0: one in flight per connection.
    #[arg(long)]
    rate: u32,
    #[arg(long)]
    warmup_ms: u64,
    #[arg(long)]
    duration_ms: u64,
    #[arg(long)]
    server_pid: Option<u32>,
    #[command(flatten)]
    place: Place,
}

#[derive(Args)]
struct Place {
    #[arg(long)]
    cpu: usize,
    #[arg(long)]
    realtime: bool,
}

impl Place {
    fn take(&self) -> Result<()> {
        sys::die_with_parent()?;
        sys::no_huge_pages()?;
        sys::pin_to_cpu(self.cpu).with_context(|| format!("pinning to core {}", self.cpu))?;
        if self.realtime {
            sys::become_realtime().context("SCHED_FIFO needs root or CAP_SYS_NICE")?;
        }
        Ok(())
    }
}

fn main() -> ExitCode {
    roost_memory::in_small_pages();
    match run(&Arguments::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<ExitCode> {
    match &arguments.role {
        Some(Role::Floor { floor }) => serve(floor)?,
        Some(Role::Load(load)) => generate(load)?,
        Some(Role::Ballast { targets, framing, family, place }) => {
            place.take()?;
            ballast::run(targets, *framing, *family)?;
        }
        None => {
            let report = measure::run(&settings(arguments))?;
            report.write(&arguments.json)?;
            if report.is_void() {
                return Ok(EXIT_VOID.into());
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn serve(floor: &Floor) -> Result<()> {
    let (Floor::UringEcho(arguments)
    | Floor::Gateway(arguments)
    | Floor::GatewayEpoll(arguments)
    | Floor::EpollEcho(arguments)
    | Floor::MonoioEcho(arguments)
    | Floor::AcceptHold(arguments)
    | Floor::SendLoop(arguments)) = floor;
    arguments.place.take()?;
    match floor {
        Floor::UringEcho(arguments) => floors::uring_echo::run(arguments.rings)?,
        Floor::Gateway(arguments) => {
            gateway::run(u16::try_from(arguments.rings)?, DriverChoice::IoUring)?;
        }
        Floor::GatewayEpoll(arguments) => {
            gateway::run(u16::try_from(arguments.rings)?, DriverChoice::Epoll)?;
        }
        Floor::EpollEcho(_) => floors::epoll_echo::run()?,
        Floor::MonoioEcho(_) => floors::monoio_echo::run()?,
        Floor::AcceptHold(_) => floors::accept_hold::run()?,
        Floor::SendLoop(arguments) => {
            floors::send_loop::run(arguments.connections, arguments.payload)?;
        }
    }
    Ok(())
}

fn generate(arguments: &LoadArguments) -> Result<()> {
    arguments.place.take()?;
    let pace = match arguments.rate {
        0 => Pace::OneInFlight,
        rate => Pace::PerSecond(rate),
    };
    let outcome = generator::run(&Load {
        targets: arguments.targets.clone(),
        connections: arguments.connections,
        framing: arguments.framing,
        pace,
        warmup: Duration::from_millis(arguments.warmup_ms),
        duration: Duration::from_millis(arguments.duration_ms),
        realtime: arguments.place.realtime,
        server_pid: arguments.server_pid,
    })?;
    generator::print(&outcome)
}

fn settings(arguments: &Arguments) -> Settings {
    let (rounds, seconds, settle) = if arguments.quick { (3, 1.0, 1.0) } else { (5, 5.0, 20.0) };
    Settings {
        only: arguments.only.clone(),
        subjects: arguments.subject.clone(),
        rounds: arguments.rounds.unwrap_or(rounds),
        duration: Duration::from_secs_f64(arguments.seconds.unwrap_or(seconds)),
        settle: Duration::from_secs_f64(arguments.settle.unwrap_or(settle)),
        idle: arguments.idle,
        placement: Placement {
            server_cpu: arguments.server_cpu,
            generator_cpu: arguments.generator_cpu,
            realtime: arguments.realtime,
        },
    }
}
