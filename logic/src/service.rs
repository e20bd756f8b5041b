//! Assembly: one thread for the worker, one for HTTP, the connections of the store.
//!
//! Start-up answers before the first request: a damaged database, a busy port or an unwritable folder is an error of
//! [`Logic::start`] that says what to do.

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;

use arc_swap::ArcSwap;
use roost_bus::{PublishError, SharedBus};
use roost_config::ConfigError;
use roost_membership::ring::Ring;
use roost_membership::{RoutesConfig, SharedRoutes};
use roost_trace::Traces;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;

use crate::api::{self, Api, BusSender};
use crate::auth::{Keys, KeysError, dev};
use crate::clock::Clock;
use crate::config::LogicConfig;
use crate::ids::MessageIds;
use crate::metrics::Metrics;
use crate::report::Report;
use crate::store::opened::Opened;
use crate::store::{Name, StoreError};
use crate::worker::{Parts, Worker};

/// Why logic did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A value cannot be used.
    #[error("logic.{0}")]
    Config(#[from] ConfigError),
    /// Keys cannot be prepared.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// The data folder cannot be made or written.
    #[error("cannot use the data folder {folder}: {cause}: choose another with --data-dir")]
    DataDir {
        /// Which.
        folder: std::path::PathBuf,
        /// What the system says.
        cause: std::io::Error,
    },
    /// Another process works on the same data.
    #[error(
        "the data folder {0} is in use by another Roost: stop that one, or choose another with --data-dir"
    )]
    DataDirInUse(std::path::PathBuf),
    /// The database cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The bus cannot be used.
    #[error(transparent)]
    Bus(#[from] PublishError),
    /// The HTTP address is taken or not ours.
    #[error(
        "cannot listen on {address} for HTTP: {cause}: stop what uses it, or choose another address or port base"
    )]
    Listen {
        /// Which.
        address: SocketAddr,
        /// What the system says.
        cause: std::io::Error,
    },
    /// No thread or runtime could be made.
    #[error("cannot start a thread: {0}")]
    Thread(std::io::Error),
}

/// What logic works with.
#[derive(Clone)]
pub struct Neighbours {
    /// The bus to gateways.
    pub bus: SharedBus,
    /// Where sessions are.
    pub routes: SharedRoutes,
    /// Which gateway a user belongs to, for `/v1/locate`.
    pub ring: Arc<ArcSwap<Ring>>,
    /// The time.
    pub clock: Clock,
    /// Redis, for soft state; none: without.
    pub redis: Option<RoutesConfig>,
}

/// The logic tier of one process.
#[derive(Debug)]
pub struct Logic;

/// The data folder is this process's until this is dropped.
#[derive(Debug)]
pub struct Claim {
    _lock: Option<std::fs::File>,
}

/// A running logic tier.
#[derive(Debug)]
pub struct LogicHandle {
    /// Where HTTP listens.
    pub http_address: SocketAddr,
    /// Its counters.
    pub metrics: Arc<Metrics>,
    report: Report,
    stop_http: watch::Sender<bool>,
    stop_worker: watch::Sender<bool>,
    worker: Option<JoinHandle<()>>,
    http: Option<JoinHandle<()>>,
    store: Opened,
    runtime: Option<Runtime>,
    /// Held as long as the database in the data folder may be written.
    _lock: Option<std::fs::File>,
}

impl Logic {
    /// Opens the store, takes bodies from the bus and serves HTTP. `is_dev`: the sample users exist.
    ///
    /// # Errors
    /// When something cannot be used; the error says what to do.
    pub fn start(
        config: LogicConfig,
        keys: Keys,
        neighbours: Neighbours,
        is_dev: bool,
    ) -> Result<LogicHandle, StartError> {
        Self::start_traced(config, keys, neighbours, is_dev, &Traces::off())
    }

    /// The same, recording what it sees of traced messages.
    ///
    /// # Errors
    /// See [`Logic::start`].
    pub fn start_traced(
        config: LogicConfig,
        mut keys: Keys,
        neighbours: Neighbours,
        is_dev: bool,
        traces: &Arc<Traces>,
    ) -> Result<LogicHandle, StartError> {
        config.check()?;
        std::fs::create_dir_all(&config.data_dir)
            .map_err(|cause| StartError::DataDir { folder: config.data_dir.clone(), cause })?;
        let lock = lock(&config)?;
        // Each runtime is driven by its own thread; this one only opens and closes.
        let opening = runtime(0)?;
        let now_ms = neighbours.clock.now_ms();
        let store =
            opening.block_on(open_store(&config, is_dev, now_ms, neighbours.bus.partitions()))?;
        keys.sign_with(opening.block_on(store.signing_seed(keys.signing_seed()))?);
        let (stop_http, http_stopped) = watch::channel(false);
        let (stop_worker, worker_stopped) = watch::channel(false);
        let metrics = Arc::new(Metrics::default());
        let redis = neighbours.redis.as_ref();
        let cached = store.cached(&config, redis, &metrics.cache);
        let (worker_store, cache_breaker) = opening.block_on(cached)?;
        let mark = opening.block_on(worker_store.worker_mark(config.worker_id))?;
        opening.block_on(store.settle());
        let parts = Parts {
            bus: Arc::clone(&neighbours.bus),
            routes: neighbours.routes,
            store: Arc::clone(&worker_store),
            metrics: Arc::clone(&metrics),
            clock: neighbours.clock.clone(),
            ids: MessageIds::new(config.worker_id, mark),
            batch_operations_max: config.batch_operations_max,
            traces: Arc::clone(traces),
            #[cfg(test)]
            before_handle: None,
        };
        let origin = format!("api-{}", config.name);
        let answers = opening.block_on(neighbours.bus.consume_outbound(&origin))?;
        let sender = BusSender::new(Arc::clone(&neighbours.bus), &origin, config.http.send_timeout)
            .tracing(traces.writer());
        let breakers = cache_breaker.into_iter().chain([Arc::clone(sender.breaker())]).collect();
        let report = Report {
            metrics: Arc::clone(&metrics),
            store: Arc::clone(&worker_store),
            breakers,
            bus: None,
            registry: None,
            traces: None,
        };
        let threads = config.passwords.threads;
        let address = config.http_listen;
        let api = Arc::new(Api::new(
            config,
            keys,
            worker_store,
            neighbours.clock,
            neighbours.ring,
            sender.clone(),
        ));
        let (listener, http_address) =
            listen(address).map_err(|cause| StartError::Listen { address, cause })?;
        let consumer = opening.block_on(neighbours.bus.consume_inbound())?;
        let worker = spawn("roost-logic", runtime(2)?, async move {
            Worker::run(parts, consumer, worker_stopped).await;
        })?;
        let http = spawn("roost-http", runtime(threads)?, async move {
            tokio::spawn(sender.receive(answers));
            match tokio::net::TcpListener::from_std(listener) {
                Ok(listener) => api::serve(listener, api, http_stopped).await,
                Err(error) => tracing::error!(%error, "the HTTP server cannot listen"),
            }
        })?;
        Ok(LogicHandle {
            http_address,
            metrics,
            report,
            stop_http,
            stop_worker,
            worker: Some(worker),
            http: Some(http),
            store,
            runtime: Some(opening),
            _lock: lock,
        })
    }
}

impl Logic {
    /// Makes the data folder and takes it, as [`Logic::start`] does: for who opens something else before, and wants to say first that
    /// the folder is in use. Dropped before the start, which takes it again.
    ///
    /// # Errors
    /// When it cannot be used or is in use; the error says what to do.
    pub fn claim(config: &LogicConfig) -> Result<Claim, StartError> {
        std::fs::create_dir_all(&config.data_dir)
            .map_err(|cause| StartError::DataDir { folder: config.data_dir.clone(), cause })?;
        Ok(Claim { _lock: lock(config)? })
    }

    /// Brings the schema of each database up to date, and does nothing else. Returns what it did, a line for each.
    ///
    /// # Errors
    /// When one cannot be used; the error says what to do. Those before it in the list are up to date.
    pub fn migrate(config: &LogicConfig) -> Result<Vec<String>, StartError> {
        config.check()?;
        std::fs::create_dir_all(&config.data_dir)
            .map_err(|cause| StartError::DataDir { folder: config.data_dir.clone(), cause })?;
        let _lock = lock(config)?;
        runtime(0)?.block_on(async {
            let opened = Opened::open(config, 0).await?;
            opened.close().await;
            Ok(opened.migrated())
        })
    }
}

impl LogicHandle {
    /// What the operator's endpoint tells.
    pub fn report(&self) -> Report {
        self.report.clone()
    }

    /// Takes no new HTTP request. What comes over the bus is still done, also for requests under way.
    pub fn drain(&self) {
        let _ = self.stop_http.send(true);
    }

    /// Drains, waits for requests under way, then for the worker to finish what it took, and closes the database.
    pub fn join(mut self) {
        self.drain();
        finish(self.http.take());
        let _ = self.stop_worker.send(true);
        finish(self.worker.take());
        if let Some(runtime) = self.runtime.take() {
            runtime.block_on(self.store.close());
        }
    }
}

async fn open_store(
    config: &LogicConfig,
    is_dev: bool,
    now_ms: u64,
    partitions: u16,
) -> Result<Opened, StartError> {
    let store = Opened::open(config, partitions).await?;
    if is_dev {
        store.shared().add_users(dev::APP, &dev::USERS.map(Name::from), now_ms).await?;
    }
    Ok(store)
}

fn listen(address: SocketAddr) -> std::io::Result<(std::net::TcpListener, SocketAddr)> {
    let listener = std::net::TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    Ok((listener, address))
}

fn finish(thread: Option<JoinHandle<()>>) {
    if thread.is_some_and(|thread| thread.join().is_err()) {
        tracing::error!("a thread of logic panicked");
    }
}

/// With SQLite the state of a worker is right only while nobody else writes: two processes on one folder are refused. The kernel gives
/// the lock back however the process ends.
fn lock(config: &LogicConfig) -> Result<Option<std::fs::File>, StartError> {
    if config.store.list().len() > 0 {
        return Ok(None);
    }
    let folder = || config.data_dir.clone();
    let file = std::fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(config.data_dir.join("roost.lock"))
        .map_err(|cause| StartError::DataDir { folder: folder(), cause })?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(std::fs::TryLockError::WouldBlock) => Err(StartError::DataDirInUse(folder())),
        Err(std::fs::TryLockError::Error(cause)) => {
            Err(StartError::DataDir { folder: folder(), cause })
        }
    }
}

fn runtime(blocking_threads: usize) -> Result<Runtime, StartError> {
    Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(blocking_threads.max(1))
        .build()
        .map_err(StartError::Thread)
}

fn spawn(
    name: &str,
    runtime: Runtime,
    work: impl Future<Output = ()> + Send + 'static,
) -> Result<JoinHandle<()>, StartError> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || runtime.block_on(work))
        .map_err(StartError::Thread)
}
