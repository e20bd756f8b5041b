//! The shard threads: each pins itself, makes its own driver, and runs until it was told to end.

use std::io;
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};

use roost_trace::{TraceWriter, Traces};

use super::{GatewayContext, StartError, system};
use crate::io::address_table::AddressTable;
use crate::io::epoll::EpollIo;
use crate::io::intake::Intake;
use crate::io::probe::Driver;
use crate::io::uring::UringIo;
use crate::io::{Io, IoConfig, Waker, affinity};
use crate::metrics::ShardCounters;
use crate::router::ShardMailboxes;
use crate::shard::inbound::{Gate, InboundQueue, InboundSource, inbound};
use crate::shard::mailbox::{Mailbox, mailbox};
use crate::shard::message::ShardMessage;
use crate::shard::{Shard, ShardParts};

/// The shard threads.
#[derive(Debug)]
pub(super) struct Shards {
    pub(super) threads: Vec<JoinHandle<()>>,
    pub(super) mailboxes: ShardMailboxes,
    pub(super) intakes: Vec<Arc<Intake>>,
    /// Hears of each thread that ends.
    pub(super) ended: mpsc::Receiver<()>,
}

/// Starts shard after shard.
pub(super) struct ShardBuilder<'a> {
    context: &'a Arc<GatewayContext>,
    gate: &'a Arc<Gate>,
    traces: &'a Traces,
    partitions: u16,
    driver: Driver,
    cores: Vec<usize>,
    end: mpsc::Sender<()>,
    pub(super) shards: Shards,
    pub(super) sources: Vec<InboundSource>,
    pub(super) counters: Vec<Arc<ShardCounters>>,
}

/// What moves into a shard's thread; its driver is made there, because only that thread may use its ring.
struct Seed {
    index: u16,
    core: usize,
    io: IoConfig,
    waker: Arc<Waker>,
    peers: Arc<AddressTable>,
    context: Arc<GatewayContext>,
    mailbox: Mailbox<ShardMessage>,
    inbound: InboundQueue,
    counters: Arc<ShardCounters>,
    trace: TraceWriter,
}

impl<'a> ShardBuilder<'a> {
    pub(super) fn new(
        context: &'a Arc<GatewayContext>,
        gate: &'a Arc<Gate>,
        traces: &'a Traces,
        partitions: u16,
        driver: Driver,
    ) -> Self {
        let (end, ended) = mpsc::channel();
        let shards =
            Shards { threads: Vec::new(), mailboxes: Vec::new(), intakes: Vec::new(), ended };
        Self {
            context,
            gate,
            traces,
            partitions,
            driver,
            cores: affinity::allowed_cores(),
            end,
            shards,
            sources: Vec::new(),
            counters: Vec::new(),
        }
    }

    pub(super) fn start_shard(
        &mut self,
        index: u16,
        peers: &Arc<AddressTable>,
    ) -> Result<(), StartError> {
        let what = "a shard cannot start";
        let waker = Arc::new(Waker::new().map_err(system(what))?);
        let settings = &self.context.config.io;
        let capacity = usize::try_from(settings.mailbox_capacity).unwrap_or(usize::MAX);
        let (sender, mailbox) = mailbox(capacity, Arc::clone(&waker));
        let (queue, source) = inbound(self.gate, self.partitions, Arc::clone(&waker));
        let counters = Arc::new(ShardCounters::default());
        let seed = Seed {
            index,
            core: self.cores[usize::from(index) % self.cores.len()],
            io: IoConfig {
                connections_max: self.context.config.connections_per_shard_max(),
                submission_entries: settings.submission_entries,
                completion_entries: settings.completion_entries,
                buffer_count: settings.receive_buffers,
                buffer_bytes: settings.receive_buffer_bytes,
                ..IoConfig::default()
            },
            waker,
            peers: Arc::clone(peers),
            context: Arc::clone(self.context),
            mailbox,
            inbound: queue,
            counters: Arc::clone(&counters),
            trace: self.traces.writer(),
        };
        let (ready, started) = mpsc::channel();
        let (driver, end) = (self.driver, self.end.clone());
        let run = move || {
            seed.run(driver, &ready);
            _ = end.send(());
        };
        let thread = thread::Builder::new().name(format!("shard-{index}")).spawn(run);
        self.shards.threads.push(thread.map_err(system(what))?);
        let intake =
            started.recv().unwrap_or_else(|_| Err(io::Error::other("it ended at its start")));
        self.shards.intakes.push(intake.map_err(system(what))?);
        self.shards.mailboxes.push(sender);
        self.sources.push(source);
        self.counters.push(counters);
        Ok(())
    }
}

impl Seed {
    fn run(self, driver: Driver, ready: &mpsc::Sender<io::Result<Arc<Intake>>>) {
        if let Err(error) = affinity::pin_current_thread(self.core) {
            tracing::warn!(shard = self.index, core = self.core, %error, "the shard is not pinned");
        }
        let (waker, peers) = (Arc::clone(&self.waker), Arc::clone(&self.peers));
        match driver {
            Driver::IoUring => {
                let io = UringIo::new(&self.io, waker, peers);
                self.run_shard(io.map(|io| (io.intake(), io)), ready);
            }
            Driver::Epoll => {
                let io = EpollIo::new(&self.io, waker, peers);
                self.run_shard(io.map(|io| (io.intake(), io)), ready);
            }
        }
    }

    fn run_shard<I: Io>(
        self,
        io: io::Result<(Arc<Intake>, I)>,
        ready: &mpsc::Sender<io::Result<Arc<Intake>>>,
    ) {
        let (intake, io) = match io {
            Ok(made) => made,
            Err(error) => {
                _ = ready.send(Err(error));
                return;
            }
        };
        let shard = Shard::new(ShardParts {
            index: self.index,
            io,
            connections_max: intake.capacity(),
            gateway: self.context,
            mailbox: self.mailbox,
            inbound: self.inbound,
            counters: self.counters,
        })
        .tracing(self.trace);
        _ = ready.send(Ok(intake));
        shard.run();
    }
}
