//! A worker's side of the partitions: a connection, what is heard of other workers, and the subscriptions of its share.
//!
//! One connection at a time. When it is lost everything on it is over, and the next one starts from nothing: the broker redelivers.
//! Nothing is published on it, because the broker stops reading from publishers when memory is short, and acknowledgements must pass.

use std::collections::HashMap;
use std::pin::{Pin, pin};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt;
use lapin::options::BasicConsumeOptions;
use lapin::types::FieldTable;
use lapin::{Connection, Consumer, Event};
use roost_protocol::topology::Partition;
use tokio::sync::{Notify, Semaphore, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Duration, Instant};

use super::connection::{self, Backoff, Failure};
use super::hand::Hand;
use super::subscription::Subscription;
use super::topology::{self, WORKERS_EXCHANGE};
use super::workers::{HELLO_INTERVAL, Word, Workers};
use super::{End, Inner};

/// How long the last acknowledgements may take.
const FINISH_WITHIN: Duration = Duration::from_secs(2);

/// Hears once whether the first connection stands.
pub(super) type Started = oneshot::Sender<Result<(), Failure>>;

/// Consumes until the worker has left or the bus ends.
pub(super) async fn run(inner: Arc<Inner>, hand: Arc<Hand>, started: Started, mut end: End) {
    let id = format!("{:016x}", fastrand::u64(..));
    let mut worker = Worker { inner: &inner, hand: &hand, id, started: Some(started) };
    let mut backoff = Backoff::new(&inner.config);
    let stopped = async {
        tokio::select! {
            () = end.reached() => {}
            () = hand.left.notified() => {}
        }
    };
    let mut stopped = pin!(stopped);
    loop {
        let name = format!("{} consume", inner.name);
        let opened = tokio::select! {
            biased;
            () = &mut stopped => break,
            opened = connection::open_declared(&inner.config, &name) => opened,
        };
        let failure = match opened {
            Err(failure) => failure,
            Ok((connection, channel)) => {
                let connection = Arc::new(connection);
                let ended = worker.consume(&connection, &channel, &mut backoff, &mut stopped).await;
                inner.counters.partitions_held.set(0);
                connection::close(&connection).await;
                match ended {
                    Ok(()) => break,
                    Err(failure) => failure,
                }
            }
        };
        if let Some(started) = worker.started.take() {
            _ = started.send(Err(failure));
            break;
        }
        inner.counters.connections_lost.add(1);
        tracing::warn!(%failure, "the consuming connection was lost; connecting again");
        tokio::select! {
            biased;
            () = &mut stopped => break,
            () = backoff.pause(&inner.config) => {}
        }
    }
    hand.close();
    worker.say(Word::Goodbye(worker.id.clone()));
}

struct Worker<'a> {
    inner: &'a Arc<Inner>,
    hand: &'a Arc<Hand>,
    id: String,
    started: Option<Started>,
}

impl Worker<'_> {
    /// Ends with the failure of the connection, or without one when stopped.
    async fn consume(
        &mut self,
        connection: &Arc<Connection>,
        channel: &lapin::Channel,
        backoff: &mut Backoff,
        stopped: &mut Pin<&mut impl Future<Output = ()>>,
    ) -> Result<(), Failure> {
        let listening = async {
            let queue = topology::declare_worker_queue(channel, &self.id).await?;
            let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
            let (queue, tag) = (queue.as_str().into(), "words".into());
            channel.basic_consume(queue, tag, options, FieldTable::default()).await
        };
        let words = listening.await?;
        *backoff = Backoff::new(&self.inner.config);
        if let Some(started) = self.started.take() {
            _ = started.send(Ok(()));
        }
        self.serve(connection, words, stopped).await
    }

    async fn serve(
        &self,
        connection: &Arc<Connection>,
        mut words: Consumer,
        stopped: &mut Pin<&mut impl Future<Output = ()>>,
    ) -> Result<(), Failure> {
        let mut workers = Workers::new(&self.id);
        let mut subscriptions = Subscriptions::new(self, connection);
        let mut hellos = tokio::time::interval(HELLO_INTERVAL);
        let mut events = pin!(connection.events_listener());
        subscriptions.adjust(&workers);
        loop {
            let is_changed = tokio::select! {
                () = &mut *stopped => {
                    subscriptions.finish().await;
                    return Ok(());
                }
                _ = hellos.tick() => {
                    self.say(Word::Hello(self.id.clone()));
                    workers.expire(Instant::now())
                }
                word = words.next() => match word {
                    Some(Ok(word)) => self.hear(&word.data, &mut workers),
                    Some(Err(error)) => return Err(error.into()),
                    None => return Err(Failure::Lost("the broker cancelled a consumer".to_owned())),
                },
                Some(ended) = subscriptions.tasks.join_next(), if !subscriptions.tasks.is_empty() => {
                    let partition = ended.map_err(|panic| Failure::Lost(panic.to_string()))??;
                    subscriptions.leave.remove(&partition);
                    true
                }
                event = events.next() => match event {
                    Some(Event::Error(error)) => return Err(error.into()),
                    None => return Err(Failure::Lost("the connection ended".to_owned())),
                    Some(_) => false,
                },
            };
            if is_changed {
                subscriptions.adjust(&workers);
            }
        }
    }

    /// A newcomer is greeted at once, so that it need not wait for the next turn.
    fn hear(&self, bytes: &[u8], workers: &mut Workers) -> bool {
        let Some(word) = Word::decode(bytes) else { return false };
        let is_hello = matches!(word, Word::Hello(_));
        let is_changed = workers.handle(word, Instant::now());
        if is_changed && is_hello {
            self.say(Word::Hello(self.id.clone()));
        }
        is_changed
    }

    /// Goes over the publishing connection. When that is blocked or lost, workers seem silent to each other: harmless.
    fn say(&self, word: Word) {
        self.inner.publish_unanswered(WORKERS_EXCHANGE, Bytes::from(word.encode()));
    }
}

/// The subscriptions of one connection; dropped with it.
struct Subscriptions<'a> {
    worker: &'a Worker<'a>,
    connection: &'a Arc<Connection>,
    /// Each ends with its partition when it has left.
    tasks: JoinSet<Result<u16, Failure>>,
    leave: HashMap<u16, Arc<Notify>>,
    /// One place for a body that may have taken a worker down.
    alone: Arc<Semaphore>,
    end: watch::Sender<bool>,
}

impl<'a> Subscriptions<'a> {
    fn new(worker: &'a Worker<'a>, connection: &'a Arc<Connection>) -> Self {
        let alone = Arc::new(Semaphore::new(1));
        let (end, _) = watch::channel(false);
        Self { worker, connection, tasks: JoinSet::new(), leave: HashMap::new(), alone, end }
    }

    /// Ends all of them, when the broker knows what was acknowledged.
    async fn finish(&mut self) {
        self.end.send_replace(true);
        let all = async { while self.tasks.join_next().await.is_some() {} };
        _ = tokio::time::timeout(FINISH_WITHIN, all).await;
    }

    /// Subscribes to this worker's share and leaves the rest. What is being left and comes back is subscribed to when it was left.
    fn adjust(&mut self, workers: &Workers) {
        let share = workers.share(self.worker.inner.config.partitions);
        for (partition, leave) in &self.leave {
            if !share.contains(partition) {
                leave.notify_one();
            }
        }
        for partition in share {
            if self.leave.contains_key(&partition) {
                continue;
            }
            let leave = Arc::new(Notify::new());
            let subscription = Subscription {
                inner: Arc::clone(self.worker.inner),
                hand: Arc::clone(self.worker.hand),
                connection: Arc::clone(self.connection),
                partition: Partition(partition),
                alone: Arc::clone(&self.alone),
                leave: Arc::clone(&leave),
                end: End(self.end.subscribe()),
            };
            self.tasks.spawn(subscription.run());
            self.leave.insert(partition, leave);
        }
        self.worker.inner.counters.partitions_held.set(self.leave.len() as u64);
    }
}
