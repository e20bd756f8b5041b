//! The publishing side of one process: one connection, its confirms, and its successor when it is lost.
//!
//! ```text
//! publish ─► waiting (bounded) ─► unconfirmed (bounded) ─► confirmed | returned | full
//!                                      │ the connection is lost
//!                                      └─► all: outcome unknown; publishers repeat them in order
//! ```
//! One task publishes, in the order in which bodies were handed over; this is what keeps the order of a partition, also through
//! failures: everything unconfirmed fails together, and the publisher goes back to the first. A body that reached the broker over
//! the former connection may then be there twice, never before an earlier one.
//!
//! Bodies on this connection may be blocked by the broker (memory, disk). Nothing that must not wait is sent here, so consumers have
//! connections of their own.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Channel, Confirmation, Connection, Event};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::confirms::{Answers, Verdict};
use super::connection::{self, Backoff, Failure};
use super::{End, Inner, topology};
use crate::PublishError;

/// How often an unconfirmed body's age is looked at.
const AGE_CHECK: Duration = Duration::from_millis(500);
/// A message that need not survive the broker.
const TRANSIENT: u8 = 1;

/// One body to publish.
#[derive(Debug)]
pub(super) struct Publication {
    pub(super) exchange: &'static str,
    /// The queue, with the default exchange.
    pub(super) key: String,
    pub(super) body: Bytes,
    /// Nobody at the address is an error.
    pub(super) mandatory: bool,
    pub(super) answer: oneshot::Sender<Result<(), PublishError>>,
}

type Resolving = Pin<Box<dyn Future<Output = lapin::Result<Confirmation>> + Send>>;

struct Unconfirmed {
    /// `None` when lapin has answered.
    resolving: Option<Resolving>,
    publication: Publication,
    since: Instant,
}

/// Publishes until told to end, over as many connections as it takes. `first` was opened by whoever started this.
pub(super) async fn run(
    inner: Arc<Inner>,
    first: (Connection, Channel),
    mut waiting: mpsc::Receiver<Publication>,
    mut end: End,
) {
    let mut backoff = Backoff::new(&inner.config);
    let mut open = Some(first);
    let mut next_number = 0;
    loop {
        let (connection, channel) = match open.take() {
            Some(open) => open,
            None => tokio::select! {
                () = refuse_while_away(&mut waiting) => return,
                () = end.reached() => return,
                open = reopen(&inner, &mut backoff) => open,
            },
        };
        let mut session = Session {
            inner: &inner,
            channel,
            unconfirmed: BTreeMap::new(),
            answers: Answers::default(),
            next_number,
            is_blocked: false,
        };
        inner.counters.connected.set(1);
        let ended = session.run(&connection, &mut waiting, &mut end).await;
        next_number = session.next_number;
        let failure = session.fail_all(ended.err());
        inner.counters.blocked.set(0);
        inner.counters.connected.set(0);
        connection::close(&connection).await;
        let Some(failure) = failure else { return };
        inner.counters.connections_lost.add(1);
        tracing::warn!(%failure, "the publishing connection was lost; connecting again");
        backoff = Backoff::new(&inner.config);
    }
}

async fn reopen(inner: &Inner, backoff: &mut Backoff) -> (Connection, Channel) {
    loop {
        match open(inner).await {
            Ok(open) => return open,
            Err(failure) => tracing::warn!(%failure, "the broker cannot be used; trying again"),
        }
        backoff.pause(&inner.config).await;
    }
}

/// A connection to publish on, everything declared.
pub(super) async fn open(inner: &Inner) -> Result<(Connection, Channel), Failure> {
    let name = format!("{} publish", inner.name);
    let (connection, channel) = connection::open_declared(&inner.config, &name).await?;
    match channel.confirm_select(ConfirmSelectOptions::default()).await {
        Ok(()) => Ok((connection, channel)),
        Err(error) => {
            connection::close(&connection).await;
            Err(error.into())
        }
    }
}

/// Without a connection nothing waits: publishers have queues of their own. Ends when nobody publishes any more.
async fn refuse_while_away(waiting: &mut mpsc::Receiver<Publication>) {
    while let Some(publication) = waiting.recv().await {
        let error = PublishError::Unavailable("there is no connection to the broker".to_owned());
        _ = publication.answer.send(Err(error));
    }
}

/// One connection's time.
struct Session<'a> {
    inner: &'a Inner,
    channel: Channel,
    unconfirmed: BTreeMap<u64, Unconfirmed>,
    answers: Answers,
    next_number: u64,
    is_blocked: bool,
}

enum Step {
    Publish(usize),
    Answered(Result<(), Failure>),
    Event(Option<Event>),
    CheckAge,
    End,
}

impl Session<'_> {
    /// Ends with the error of the connection, or without one when told to.
    async fn run(
        &mut self,
        connection: &Connection,
        waiting: &mut mpsc::Receiver<Publication>,
        end: &mut End,
    ) -> Result<(), Failure> {
        let mut events = pin!(connection.events_listener());
        let mut ages = tokio::time::interval(AGE_CHECK);
        let mut publications = Vec::new();
        loop {
            let window = usize::from(self.inner.config.unconfirmed_max);
            let room = window.saturating_sub(self.unconfirmed.len());
            let step = tokio::select! {
                biased;
                () = end.reached() => Step::End,
                answered = std::future::poll_fn(|cx| self.poll_answers(cx)) => Step::Answered(answered),
                event = events.next() => Step::Event(event),
                count = waiting.recv_many(&mut publications, room), if room > 0 => Step::Publish(count),
                _ = ages.tick() => Step::CheckAge,
            };
            match step {
                Step::End => {
                    // Words that were said last: they leave before the connection is closed.
                    while let Ok(publication) = waiting.try_recv() {
                        self.publish(publication);
                    }
                    return Ok(());
                }
                Step::Publish(0) => return Ok(()),
                Step::Publish(_) => publications.drain(..).for_each(|p| self.publish(p)),
                Step::Answered(answered) => {
                    answered?;
                    self.settle().await?;
                }
                Step::Event(event) => self.handle_event(event)?,
                Step::CheckAge => self.check_age()?,
            }
        }
    }

    /// The frames are on their way when this returns: bodies leave in the order of these calls.
    fn publish(&mut self, publication: Publication) {
        let number = self.next_number;
        self.next_number += 1;
        let message_id = format!("{}.{number}", self.inner.instance);
        let properties = BasicProperties::default()
            .with_delivery_mode(TRANSIENT)
            .with_message_id(message_id.into());
        let channel = self.channel.clone();
        let (exchange, key) = (publication.exchange, publication.key.clone());
        let options = BasicPublishOptions { mandatory: publication.mandatory, immediate: false };
        let body = publication.body.clone();
        self.inner.counters.body_bytes.observe(body.len() as u64);
        let mut resolving: Resolving = Box::pin(async move {
            let (exchange, key) = (exchange.into(), key.into());
            channel.basic_publish(exchange, key, options, &body, properties).await?.await
        });
        // lapin numbers and queues the frames at the first poll. An answer now is seen again by `poll_answers`.
        let polled = resolving.as_mut().poll(&mut Context::from_waker(std::task::Waker::noop()));
        if let Poll::Ready(result) = polled {
            resolving = Box::pin(std::future::ready(result));
        }
        let entry = Unconfirmed { resolving: Some(resolving), publication, since: Instant::now() };
        self.unconfirmed.insert(number, entry);
    }

    /// Ready when something was answered, and then everything that was answered before it is handled too: passes go on until one
    /// finds nothing new.
    fn poll_answers(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        let mut found_any = false;
        loop {
            let mut found = false;
            for (number, entry) in &mut self.unconfirmed {
                let Some(resolving) = &mut entry.resolving else { continue };
                let Poll::Ready(result) = resolving.as_mut().poll(cx) else { continue };
                entry.resolving = None;
                found = true;
                match result {
                    Ok(confirmation) => {
                        let is_ack = confirmation.is_ack();
                        let returned = confirmation.take_message().and_then(|message| {
                            number_of(message.delivery.properties.message_id().as_ref()?.as_str())
                        });
                        self.answers.handle(*number, is_ack, returned);
                    }
                    Err(error) => return Poll::Ready(Err(error.into())),
                }
            }
            match found {
                true => found_any = true,
                false if found_any => return Poll::Ready(Ok(())),
                false => return Poll::Pending,
            }
        }
    }

    /// Answers publishers.
    async fn settle(&mut self) -> Result<(), Failure> {
        let mut is_partition_missing = false;
        for (number, verdict) in self.answers.poll_certain() {
            let Some(entry) = self.unconfirmed.remove(&number) else { continue };
            let Publication { key, exchange, answer, .. } = entry.publication;
            let counters = &self.inner.counters;
            let result = match verdict {
                Verdict::Confirmed => {
                    counters.confirmed.add(1);
                    let micros = u64::try_from(entry.since.elapsed().as_micros());
                    counters.confirm_micros.observe(micros.unwrap_or(u64::MAX));
                    Ok(())
                }
                Verdict::Returned => {
                    counters.returned.add(1);
                    is_partition_missing |= exchange.is_empty() && topology::is_shared(&key);
                    Err(PublishError::Returned(self.inner.address_of(&key)))
                }
                Verdict::Full => {
                    counters.refused_full.add(1);
                    Err(PublishError::Full(self.inner.address_of(&key)))
                }
            };
            _ = answer.send(result);
        }
        if is_partition_missing {
            tracing::error!("a shared queue was deleted; it is declared again");
            topology::declare(&self.channel, self.inner.config.partitions).await?;
        }
        Ok(())
    }

    fn handle_event(&mut self, event: Option<Event>) -> Result<(), Failure> {
        match event {
            Some(Event::ConnectionBlocked(reason)) => {
                tracing::warn!(reason, "the broker takes nothing for now; publishers wait");
                self.set_blocked(true);
            }
            Some(Event::ConnectionUnblocked) => {
                tracing::info!("the broker takes bodies again");
                self.set_blocked(false);
            }
            Some(Event::Error(error)) => return Err(error.into()),
            None => return Err(Failure::Lost("the connection ended".to_owned())),
            Some(_) => {}
        }
        Ok(())
    }

    fn set_blocked(&mut self, is_blocked: bool) {
        self.is_blocked = is_blocked;
        self.inner.counters.blocked.set(u64::from(is_blocked));
        // The time the broker was blocked does not count.
        self.unconfirmed.values_mut().for_each(|entry| entry.since = Instant::now());
    }

    fn check_age(&self) -> Result<(), Failure> {
        let timeout = self.inner.config.confirm_timeout;
        let oldest = self.unconfirmed.values().next().map(|entry| entry.since.elapsed());
        match oldest {
            Some(age) if age > timeout && !self.is_blocked => {
                Err(Failure::Lost(format!("the broker confirmed nothing for {timeout:?}")))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Everything unconfirmed has an unknown outcome.
    fn fail_all(&mut self, failure: Option<Failure>) -> Option<Failure> {
        let why = failure.as_ref().map_or("the bus was closed".to_owned(), ToString::to_string);
        self.inner.counters.unknown.add(self.unconfirmed.len() as u64);
        for (_, entry) in std::mem::take(&mut self.unconfirmed) {
            let error = PublishError::Unavailable(why.clone());
            _ = entry.publication.answer.send(Err(error));
        }
        failure
    }
}

fn number_of(message_id: &str) -> Option<u64> {
    message_id.rsplit('.').next()?.parse().ok()
}
