//! The newest inbox entries of each user in Redis.
//!
//! ```text
//! PREFIXinbox:EPOCH:APP/USER   sorted set   inbox_seq as score → inbox_seq (8 bytes, big endian) and the message (postcard)
//! ```
//! A score is a double, so the position is read from the member. At most the newest [`CacheSettings::messages_max`] entries are kept, until
//! nothing came for [`CacheSettings::ttl`].

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use ::redis::{FromRedisValue, Pipeline, Script, Value};
use prometheus_client::metrics::counter::Counter;
use roost_config::{documented, milliseconds};
use roost_health::Breaker;
use roost_membership::RoutesConfig;
use roost_membership::redis::Link;

use super::Epoch;
use crate::store::{InboxMessage, InboxRow, Name, NewMessage, StoredMessage, Writes};

documented! {
    /// The newest messages of each user's inbox in the Redis of [routes], for clients that come back. Needs a database server: SQLite
    /// is in the very process.
    pub struct CacheSettings {
        /// Whether it is used. What it gains has to be measured on the hosts at hand: it costs two writes to Redis a message.
        enabled ("enabled"): bool = false;
        /// Messages of each user that are kept.
        messages_max ("messages_max"): u32 = 1_000;
        /// A user that got no message for this long is forgotten, in milliseconds.
        #[serde(with = "milliseconds")]
        ttl ("ttl_ms"): Duration = Duration::from_secs(3 * 24 * 3600);
    }
}

/// Batches that wait to be written; with one more, its entries are left out.
const WAITING_MAX: usize = 64;
/// Owners in one round trip.
const OWNERS_MAX: usize = 256;

/// Adds entries, each in the place of what stood at its position, and forgets the oldest.
const APPEND: &str = r"
for i = 3, #ARGV, 2 do
  redis.call('ZREMRANGEBYSCORE', KEYS[1], ARGV[i], ARGV[i])
  redis.call('ZADD', KEYS[1], ARGV[i], ARGV[i + 1])
end
redis.call('ZREMRANGEBYRANK', KEYS[1], 0, -1 - ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 1";

/// What the cache counts.
#[derive(Debug, Clone, Default)]
pub struct CacheCounters {
    /// Pages that the cache answered completely.
    pub hits: Counter,
    /// Pages that needed the database.
    pub misses: Counter,
    /// Batches whose entries are written.
    pub written: Counter,
    /// Batches whose entries were left out, because Redis is away or slow.
    pub left_out: Counter,
}

/// A batch that was committed, or will be at once.
#[derive(Debug)]
pub(super) struct Committed {
    messages: Vec<NewMessage>,
    inbox: Vec<InboxRow>,
}

/// The cache. Dropping it ends its thread.
#[derive(Debug)]
pub struct InboxCache {
    link: Link,
    keys: Keys,
    breaker: Arc<Breaker>,
    counters: CacheCounters,
    waiting: SyncSender<Committed>,
}

#[derive(Debug, Clone)]
struct Keys(String);

impl Keys {
    fn of(&self, app: &str, user: &str) -> String {
        format!("{}{app}/{user}", self.0)
    }
}

/// Why there is no cache.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// The address is none.
    #[error("Redis: {0}")]
    Address(#[from] ::redis::RedisError),
    /// The system refuses a thread.
    #[error("cannot start a thread: {0}")]
    Thread(#[from] std::io::Error),
}

impl InboxCache {
    /// In the Redis of `server`, for the database `epoch`. Connects at the first use; one that is away is no error.
    ///
    /// # Errors
    /// See [`CacheError`].
    pub fn open(
        server: &RoutesConfig,
        settings: &CacheSettings,
        epoch: Epoch,
        counters: CacheCounters,
    ) -> Result<Self, CacheError> {
        let keys = Keys(format!("{}inbox:{:x}:", server.key_prefix, epoch.0));
        let breaker = Arc::new(Breaker::new("redis_inboxes", 1, server.pause));
        let (waiting, batches) = sync_channel(WAITING_MAX);
        let writer = Writer {
            // Its own: the runtime that uses a connection first drives it.
            link: Link::open(server)?,
            keys: keys.clone(),
            breaker: Arc::clone(&breaker),
            counters: counters.clone(),
            messages_max: settings.messages_max,
            ttl_ms: u64::try_from(settings.ttl.as_millis()).unwrap_or(u64::MAX),
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::Builder::new()
            .name("roost-inboxes".to_owned())
            .spawn(move || writer.run(&runtime, &batches))?;
        Ok(Self { link: Link::open(server)?, keys, breaker, counters, waiting })
    }

    /// What stands before Redis.
    pub fn breaker(&self) -> &Arc<Breaker> {
        &self.breaker
    }

    /// What is to be written when the commit of `writes` is done.
    pub(super) fn entries_of(&self, writes: &Writes) -> Option<Committed> {
        let is_wanted = !writes.inbox.is_empty() && !self.breaker.is_open(Instant::now());
        is_wanted
            .then(|| Committed { messages: writes.messages.clone(), inbox: writes.inbox.clone() })
    }

    /// Takes what was committed. Never waits.
    pub(super) fn offer(&self, committed: Committed) {
        if self.waiting.try_send(committed).is_err() {
            self.counters.left_out.inc();
        }
    }

    /// Entries after `after` without a gap, up to `limit`; none when the first one is missing.
    pub(super) async fn page(
        &self,
        app: &str,
        owner: &str,
        after: u64,
        limit: usize,
    ) -> Vec<InboxMessage> {
        let mut found = Vec::new();
        if self.breaker.try_pass(Instant::now()) {
            let mut pipeline = Pipeline::new();
            pipeline.cmd("ZRANGEBYSCORE").arg(self.keys.of(app, owner));
            pipeline.arg(format!("({after}")).arg("+inf").arg("LIMIT").arg(0).arg(limit);
            let answer = self.link.ask(&pipeline).await;
            self.breaker.note(Instant::now(), answer.is_ok());
            match answer {
                Ok(values) => found = dense(after, values.into_iter().next()),
                Err(error) => tracing::debug!(%error, "an inbox is read from the database"),
            }
        }
        let counter =
            if found.len() == limit { &self.counters.hits } else { &self.counters.misses };
        counter.inc();
        found
    }
}

/// The entries that follow `after` one by one.
fn dense(after: u64, members: Option<Value>) -> Vec<InboxMessage> {
    let members = Vec::<Vec<u8>>::from_redis_value(members.unwrap_or(Value::Nil));
    let decoded = members.unwrap_or_default().into_iter().map_while(|member| decode(&member));
    (1..)
        .zip(decoded)
        .map_while(|(step, row)| (Some(row.inbox_seq) == after.checked_add(step)).then_some(row))
        .collect()
}

fn encode(inbox_seq: u64, message: &StoredMessage) -> Vec<u8> {
    let bytes = inbox_seq.to_be_bytes().to_vec();
    // Into memory, of plain fields: it does not fail; an entry without its message does not decode.
    postcard::to_extend(message, bytes).unwrap_or_default()
}

fn decode(member: &[u8]) -> Option<InboxMessage> {
    let (inbox_seq, message) = member.split_first_chunk::<8>()?;
    let message = postcard::from_bytes(message).ok()?;
    Some(InboxMessage { inbox_seq: u64::from_be_bytes(*inbox_seq), message })
}

struct Writer {
    link: Link,
    keys: Keys,
    breaker: Arc<Breaker>,
    counters: CacheCounters,
    messages_max: u32,
    ttl_ms: u64,
}

impl Writer {
    fn run(&self, runtime: &tokio::runtime::Runtime, batches: &Receiver<Committed>) {
        while let Ok(batch) = batches.recv() {
            let is_written = runtime.block_on(self.write(batch));
            let counter = if is_written { &self.counters.written } else { &self.counters.left_out };
            counter.inc();
        }
    }

    async fn write(&self, batch: Committed) -> bool {
        let entries = by_owner(batch);
        let owners: Vec<_> = entries.iter().collect();
        for share in owners.chunks(OWNERS_MAX) {
            if !self.breaker.try_pass(Instant::now()) {
                return false;
            }
            let answer = self.link.ask(&self.append(share)).await;
            self.breaker.note(Instant::now(), answer.is_ok());
            if let Err(error) = answer {
                tracing::debug!(%error, "inbox entries are not in Redis");
                return false;
            }
        }
        true
    }

    fn append(&self, owners: &[(&Owner, &Entries)]) -> Pipeline {
        let script = Script::new(APPEND);
        let mut pipeline = Pipeline::with_capacity(owners.len() + 1);
        // Redis forgets scripts when it restarts.
        pipeline.cmd("SCRIPT").arg("LOAD").arg(APPEND);
        for ((app, owner), entries) in owners {
            let command = pipeline.cmd("EVALSHA").arg(script.get_hash()).arg(1);
            command.arg(self.keys.of(app, owner)).arg(self.messages_max).arg(self.ttl_ms);
            for (inbox_seq, member) in *entries {
                command.arg(*inbox_seq).arg(member);
            }
        }
        pipeline
    }
}

/// App and user.
type Owner = (Name, Name);
/// Positions and members.
type Entries = Vec<(u64, Vec<u8>)>;
type ByOwner = BTreeMap<Owner, Entries>;

fn by_owner(batch: Committed) -> ByOwner {
    let key = |app: &Name, conversation: &Name, seq| (app.clone(), conversation.clone(), seq);
    let messages: HashMap<(Name, Name, u64), StoredMessage> = batch
        .messages
        .into_iter()
        .map(|row| (key(&row.app, &row.conversation, row.placed.seq), row.into()))
        .collect();
    let mut entries = ByOwner::new();
    for row in batch.inbox {
        // An entry of a message that another batch stored: left out, and so not dense.
        let Some(message) = messages.get(&key(&row.app, &row.conversation, row.seq)) else {
            continue;
        };
        let entry = (row.inbox_seq, encode(row.inbox_seq, message));
        entries.entry((row.app, row.owner)).or_default().push(entry);
    }
    entries
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(inbox_seq: u64) -> InboxMessage {
        let message = StoredMessage {
            conversation: "s:alice:bob".to_owned(),
            seq: inbox_seq + 7,
            message_id: u64::MAX,
            sender: "alice".to_owned(),
            client_msg_id: [3; 16],
            kind: 1,
            server_time_ms: 5,
            body: vec![0, 255],
        };
        InboxMessage { inbox_seq, message }
    }

    #[track_caller]
    fn check(after: u64, held: &[u64], expected: &[u64]) {
        let member = |seq: &u64| Value::BulkString(encode(*seq, &entry(*seq).message));
        let found = dense(after, Some(Value::Array(held.iter().map(member).collect())));
        let expected: Vec<InboxMessage> = expected.iter().map(|seq| entry(*seq)).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn only_what_follows_without_a_gap_counts() {
        check(0, &[1, 2, 3], &[1, 2, 3]);
        check(4, &[5, 6, 8, 9], &[5, 6]);
        check(4, &[6, 7], &[]);
        check(4, &[5, 5, 6], &[5]);
        check(u64::MAX, &[1], &[]);
        check(1 << 60, &[(1 << 60) + 1, (1 << 60) + 2], &[(1 << 60) + 1, (1 << 60) + 2]);
        check(0, &[], &[]);
        let damaged = vec![Value::BulkString(b"garbage".to_vec())];
        assert_eq!(dense(0, Some(Value::Array(damaged))), []);
        assert_eq!(dense(0, None), []);
    }
}
