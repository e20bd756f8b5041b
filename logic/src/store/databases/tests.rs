//! Kills at every step of a batch over several databases, and what the next process makes of it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use roost_testing::{MariaDb, PostgreSql};
use tokio::sync::Notify;

use super::*;

/// Longer than a server leaves a transaction alone.
const DEADLINE: Duration = Duration::from_secs(30);

/// A place in a batch where a process can be killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    ConversationsOf(usize),
    Conversations,
    OwnersOf(usize),
    Owners,
    Settle,
}

/// Where it stands still, to be dropped there.
#[derive(Debug, Default)]
pub(crate) struct StopAt {
    step: Mutex<Option<Step>>,
    reached: Notify,
}

impl StopAt {
    pub(super) async fn reach(&self, step: Step) {
        if *self.step.lock() == Some(step) {
            self.reached.notify_one();
            std::future::pending::<()>().await;
        }
    }
}

impl Databases {
    /// Every message that this process commits from now on stays without its inbox entries.
    pub(crate) fn stop_between_commits(&self) {
        *self.stop_at.step.lock() = Some(Step::Conversations);
    }

    /// It stands where it was told to stop.
    pub(crate) async fn stopped(&self) {
        let reached = tokio::time::timeout(DEADLINE, self.stop_at.reached.notified());
        reached.await.expect("a step that is reached");
    }
}

enum Server {
    MariaDb(MariaDb),
    PostgreSql(PostgreSql),
}

impl Server {
    /// With `count` empty databases.
    fn with_databases(self, count: usize) -> Installation {
        let urls = (0..count).map(|index| {
            let database = format!("roost{index}");
            match &self {
                Self::MariaDb(server) => {
                    server.sql(&format!("CREATE DATABASE {database}"));
                    server.url(&database)
                }
                Self::PostgreSql(server) => {
                    server.sql(&format!("CREATE DATABASE {database}"));
                    server.url(&database)
                }
            }
        });
        let urls = urls.collect();
        Installation { config: StoreConfig { urls, ..StoreConfig::default() }, _server: self }
    }
}

pub(crate) struct Installation {
    config: StoreConfig,
    _server: Server,
}

impl Installation {
    pub(crate) fn mariadb(count: usize) -> Self {
        Server::MariaDb(MariaDb::start()).with_databases(count)
    }

    pub(crate) fn postgresql(count: usize) -> Self {
        Server::PostgreSql(PostgreSql::start()).with_databases(count)
    }

    /// As another process.
    pub(crate) async fn open(&self) -> Arc<Databases> {
        Arc::new(Databases::open(&self.config, "logic-1", 0).await.expect("the databases"))
    }
}

fn name(text: &str) -> Name {
    Name::from(text)
}

/// A message of `from` to `to`, whose identity is `id`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Message {
    from: &'static str,
    to: &'static str,
    id: u8,
}

impl Message {
    fn conversation(self) -> String {
        let (a, b) = (self.from.min(self.to), self.from.max(self.to));
        format!("s:{a}:{b}")
    }

    /// The same for all messages of a conversation, and of few others.
    fn partition(self) -> u16 {
        let partitions = Placement { databases: 1_000 };
        u16::try_from(partitions.of_conversation("demo", &self.conversation())).unwrap()
    }

    fn keys(self) -> LoadKeys {
        let members = || [self.from, self.to].map(|user| (name("demo"), name(user))).into();
        LoadKeys {
            conversations: vec![(name("demo"), name(&self.conversation()))],
            users: members(),
            identities: vec![IdentityKey {
                app: name("demo"),
                conversation: name(&self.conversation()),
                sender: name(self.from),
                client_msg_id: [self.id; 16],
            }],
            locks_inboxes: true,
            inboxes: members(),
            ..LoadKeys::default()
        }
    }
}

/// What a worker does with messages of one partition, each in another conversation or not: places all, or finds them placed.
async fn place(store: &Databases, messages: &[Message]) -> Result<Vec<Placed>> {
    let mut partitions: Vec<u16> = messages.iter().map(|message| message.partition()).collect();
    partitions.sort_unstable();
    partitions.dedup();
    store.begin(&partitions).await?;
    let mut keys = LoadKeys { locks_inboxes: true, ..LoadKeys::default() };
    for message in messages {
        let asked = message.keys();
        keys.conversations.extend(asked.conversations);
        keys.users.extend(asked.users);
        keys.identities.extend(asked.identities);
        keys.inboxes.extend(asked.inboxes);
    }
    let loaded = store.load(&keys).await?;
    let mut seqs: BTreeMap<Name, u64> =
        loaded.conversations.into_iter().map(|row| (row.conversation, row.last_seq)).collect();
    let mut counters: BTreeMap<Name, u64> =
        loaded.inboxes.into_iter().map(|row| (row.user, row.last_inbox_seq)).collect();
    let mut writes = Writes::default();
    let mut placed = Vec::new();
    for message in messages {
        let conversation = name(&message.conversation());
        let known = loaded.identities.iter().find(|(key, _)| {
            key.conversation == conversation
                && *key.sender == *message.from
                && key.client_msg_id == [message.id; 16]
        });
        if let Some((_, known)) = known {
            placed.push(*known);
            continue;
        }
        let seq = seqs.entry(conversation.clone()).or_default();
        *seq += 1;
        let mut next = |user: &str| {
            let counter = counters.get_mut(user).expect("a locked counter");
            *counter += 1;
            let entry = InboxRow {
                app: name("demo"),
                owner: name(user),
                inbox_seq: *counter,
                conversation: conversation.clone(),
                seq: *seq,
            };
            writes.inbox.push(entry);
            *counter
        };
        let sender_inbox_seq = next(message.from);
        let is_note = message.from == message.to;
        let peer_inbox_seq = if is_note { sender_inbox_seq } else { next(message.to) };
        let place = Placed {
            seq: *seq,
            message_id: *seq,
            server_time_ms: 1,
            payload_hash: 0,
            sender_inbox_seq,
            peer_inbox_seq,
        };
        writes.messages.push(NewMessage {
            app: name("demo"),
            conversation,
            sender: name(message.from),
            client_msg_id: [message.id; 16],
            kind: 1,
            body: vec![message.id].into(),
            placed: place,
        });
        placed.push(place);
    }
    if writes.messages.is_empty() {
        store.end().await;
        return Ok(placed);
    }
    let touched: HashSet<&Name> = writes.messages.iter().map(|m| &m.conversation).collect();
    for (conversation, last_seq) in seqs.into_iter().filter(|(c, _)| touched.contains(c)) {
        writes.conversations.push(ConversationRow { app: name("demo"), conversation, last_seq });
    }
    for (user, last_inbox_seq) in counters {
        writes.inboxes.push(UserRow { app: name("demo"), user, last_inbox_seq });
    }
    store.commit(writes).await?;
    Ok(placed)
}

/// Again while other processes come in between.
async fn place_in_time(store: &Databases, messages: &[Message]) -> Vec<Placed> {
    let end = Instant::now() + DEADLINE;
    loop {
        match place(store, messages).await {
            Ok(placed) => return placed,
            Err(StoreError::Again(_) | StoreError::Fenced(_)) if Instant::now() < end => {}
            Err(error) => panic!("{error}"),
        }
    }
}

/// The message is where its acknowledgement says, in the inboxes of both.
async fn check_placed(store: &Databases, message: Message, placed: &Placed) {
    for (owner, at) in
        [(message.from, placed.sender_inbox_seq), (message.to, placed.peer_inbox_seq)]
    {
        let page = store.inbox_page("demo", owner, at - 1, 1).await.unwrap();
        let found = page.first().map(|entry| (entry.inbox_seq, &entry.message));
        let (found, stored) =
            found.unwrap_or_else(|| panic!("{message:?} is not in the inbox of {owner}"));
        assert_eq!((found, stored.seq), (at, placed.seq), "{message:?} {owner}");
        assert_eq!(
            (&*stored.conversation, &stored.body[..]),
            (&*message.conversation(), &[message.id][..])
        );
    }
}

/// Everything is dense, and every message is in each inbox once.
async fn check_all(store: &Databases, acknowledged: &BTreeMap<Message, Placed>, users: &[&str]) {
    let mut conversations: BTreeMap<String, usize> = BTreeMap::new();
    let mut inboxes: BTreeMap<&str, usize> = BTreeMap::new();
    for (message, placed) in acknowledged {
        check_placed(store, *message, placed).await;
        *conversations.entry(message.conversation()).or_default() += 1;
        *inboxes.entry(message.from).or_default() += 1;
        if message.to != message.from {
            *inboxes.entry(message.to).or_default() += 1;
        }
    }
    let range = HistoryRange { after: 0, before: 0, limit: 10_000, newest_first: false };
    for (conversation, count) in conversations {
        let (latest, rows) = store.history("demo", &conversation, range).await.unwrap().unwrap();
        assert_eq!((latest, rows.len()), (count as u64, count), "{conversation}");
        assert!(rows.iter().zip(1..).all(|(row, seq)| row.seq == seq), "{conversation}");
    }
    for user in users {
        let page = store.inbox_page("demo", user, 0, 10_000).await.unwrap();
        let count = inboxes.get(user).copied().unwrap_or_default();
        let positions = store.inbox_positions(&[(name("demo"), name(user))]).await.unwrap();
        assert_eq!((page.len(), &positions[..]), (count, &[count as u64][..]), "{user}");
        assert!(page.iter().zip(1..).all(|(row, at)| row.inbox_seq == at), "{user}");
        let places: HashSet<_> =
            page.iter().map(|e| (&e.message.conversation, e.message.seq)).collect();
        assert_eq!(places.len(), count, "each once: {user}");
    }
}

async fn pending_rows(store: &Databases) -> usize {
    let mut rows = 0;
    for member in &store.members {
        rows += member.pending().await.unwrap().len();
    }
    rows
}

const USERS: [&str; 6] = ["alice", "bob", "carol", "dave", "erin", "frank"];

async fn add_users(store: &Databases) {
    assert_eq!(store.add_users("demo", &USERS.map(name), 1).await.unwrap(), 6);
}

/// Killed between the commits: the entry's place is taken by another process meanwhile, so it gets the next one, and the message is told.
/// Nobody hears of the message before that.
async fn check_a_moved_entry(installation: &Installation) {
    let (first, other) = (installation.open().await, installation.open().await);
    add_users(&first).await;
    let before = Message { from: "carol", to: "bob", id: 1 };
    place_in_time(&other, &[before]).await;
    let message = Message { from: "alice", to: "bob", id: 2 };
    place_in_time(&first, &[Message { id: 3, ..message }]).await;

    first.stop_between_commits();
    let killed = tokio::spawn({
        let first = Arc::clone(&first);
        async move { place(&first, &[message]).await }
    });
    first.stopped().await;
    let range = HistoryRange { after: 0, before: 0, limit: 10, newest_first: false };
    let (latest, _) = other.history("demo", "s:alice:bob", range).await.unwrap().unwrap();
    assert_eq!(latest, 2, "it is committed");
    let bob = [(name("demo"), name("bob"))];
    assert_eq!(other.inbox_positions(&bob).await.unwrap(), [2], "and in no inbox");
    killed.abort();
    _ = killed.await;
    drop(first);

    // Does not own the partition, so it completes nothing: it takes the place.
    place_in_time(&other, &[Message { id: 4, ..before }]).await;
    assert_eq!(other.inbox_positions(&bob).await.unwrap(), [3]);

    let next = installation.open().await;
    let placed = place_in_time(&next, &[message]).await[0];
    assert_eq!((placed.seq, placed.sender_inbox_seq, placed.peer_inbox_seq), (2, 2, 4));
    check_placed(&next, message, &placed).await;
    // From the database, by another process, and for ever.
    assert_eq!(place_in_time(&other, &[message]).await, [placed]);
    for store in [other, next] {
        store.close().await;
    }
}

/// Processes come, are killed anywhere, and partitions move; whatever is acknowledged is there at that moment, and in the end everything
/// is there once.
async fn check_kills(installation: &Installation, seed: u64, rounds: usize) {
    eprintln!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut processes = [installation.open().await, installation.open().await];
    add_users(&processes[0]).await;
    let mut owners = [0; 5];
    let mut acknowledged: BTreeMap<Message, Placed> = BTreeMap::new();
    let mut waiting: Vec<Message> = Vec::new();
    let (mut next_id, mut kills) = (0_u8, 0);
    for _ in 0..rounds {
        if random.u8(..) < 40 {
            owners[random.usize(..5)] = random.usize(..2);
        }
        let process = random.usize(..2);
        while waiting.len() < 4 && next_id < u8::MAX {
            next_id += 1;
            let (from, to) = (USERS[random.usize(..6)], USERS[random.usize(..6)]);
            waiting.push(Message { from, to, id: next_id });
        }
        // Some that were acknowledged come again, too.
        let known: Vec<Message> = acknowledged.keys().copied().collect();
        let again = random.choice(&known).copied();
        let mut batch: Vec<Message> = waiting.iter().copied().chain(again).collect();
        batch.retain(|message| owners[usize::from(message.partition() % 5)] == process);
        if batch.is_empty() {
            continue;
        }
        let steps = [
            Step::ConversationsOf(random.usize(..3)),
            Step::Conversations,
            Step::OwnersOf(random.usize(..3)),
            Step::Owners,
            Step::Settle,
        ];
        let step = steps.get(random.usize(..12)).copied();
        let store = Arc::clone(&processes[process]);
        *store.stop_at.step.lock() = step;
        let placed = tokio::select! {
            placed = place_in_time(&store, &batch) => Some(placed),
            () = store.stop_at.reached.notified() => None,
        };
        let Some(placed) = placed else {
            kills += 1;
            drop(store);
            processes[process] = installation.open().await;
            continue;
        };
        for (message, placed) in batch.into_iter().zip(placed) {
            check_placed(&processes[process], message, &placed).await;
            waiting.retain(|waiting| *waiting != message);
            let first = acknowledged.entry(message).or_insert(placed);
            assert_eq!(*first, placed, "the same for ever");
        }
    }
    assert!(kills >= rounds / 10 && acknowledged.len() >= rounds / 4, "proves little: {kills}");
    let last = installation.open().await;
    let placed = place_in_time(&last, &waiting).await;
    acknowledged.extend(waiting.into_iter().zip(placed));
    check_all(&last, &acknowledged, &USERS).await;
    eprintln!("{kills} kills, {} messages", acknowledged.len());
    for store in processes {
        store.close().await;
    }
    last.close().await;
    let reader = installation.open().await;
    reader.begin(&[0]).await.unwrap();
    assert_eq!(pending_rows(&reader).await, 0, "nothing is left over");
    reader.close().await;
}

/// Three processes add to the same inboxes in all databases: dense, and nobody waits in a circle.
async fn check_shared_inboxes(installation: &Installation) {
    const ROUNDS: u8 = 40;
    let store = installation.open().await;
    add_users(&store).await;
    let mut writers = Vec::new();
    for senders in [["alice", "bob"], ["carol", "dave"], ["erin", "frank"]] {
        let store = installation.open().await;
        writers.push(tokio::spawn(async move {
            let mut placed = Vec::new();
            for id in 1..=ROUNDS {
                let to = |from: &'static str| USERS.into_iter().filter(move |to| *to > from);
                let batch: Vec<Message> = senders
                    .into_iter()
                    .flat_map(|from| to(from).map(move |to| Message { from, to, id }))
                    .collect();
                let places = place_in_time(&store, &batch).await;
                placed.extend(batch.into_iter().zip(places));
            }
            store.close().await;
            placed
        }));
    }
    let mut acknowledged = BTreeMap::new();
    for writer in writers {
        acknowledged.extend(writer.await.unwrap());
    }
    assert_eq!(acknowledged.len(), 15 * usize::from(ROUNDS));
    check_all(&store, &acknowledged, &USERS).await;
    store.close().await;
}

/// A message that waits for the inbox of a database that is away is acknowledged by nobody, holds nobody else up, and leaves the fence as it
/// is; when the database is back it is completed.
#[tokio::test]
async fn an_entry_waits_for_its_database() {
    let (here, mut gone) = (MariaDb::start(), MariaDb::start());
    for server in [&here, &gone] {
        server.sql("CREATE DATABASE roost");
    }
    let urls = vec![here.url("roost"), gone.url("roost")];
    let config = StoreConfig { urls, ..StoreConfig::default() };
    let open = async || Databases::open(&config, "logic-1", 0).await.unwrap();
    let (first, second, third) = (Arc::new(open().await), open().await, open().await);
    let of = Placement { databases: 2 };
    let user = |letter: char, is_wanted: &dyn Fn(&str) -> bool| -> &'static str {
        let found = (0..).map(|n| format!("{letter}{n}")).find(|name| is_wanted(name)).unwrap();
        found.leak()
    };
    let a = user('a', &|name| of.of_user("demo", name) == 0);
    let with_a = |name: &str| of.of_conversation("demo", &format!("s:{a}:{name}")) == 0;
    let b = user('b', &|name| of.of_user("demo", name) == 0 && with_a(name));
    let c = user('c', &|name| of.of_user("demo", name) == 1 && with_a(name));
    first.add_users("demo", &[a, b, c].map(name), 1).await.unwrap();
    let (near, far) = (Message { from: a, to: b, id: 1 }, Message { from: a, to: c, id: 2 });

    first.stop_between_commits();
    let killed = tokio::spawn({
        let first = Arc::clone(&first);
        async move { place(&first, &[far]).await }
    });
    first.stopped().await;
    killed.abort();
    _ = killed.await;
    drop(first);
    gone.kill();

    // A lost connection is noticed once.
    while let Err(error) = second.begin(&[far.partition()]).await {
        assert!(matches!(error, StoreError::Again(_)), "{error}");
    }
    let asked = LoadKeys { identities: far.keys().identities, ..LoadKeys::default() };
    let refused = second.load(&asked).await;
    assert!(matches!(refused, Err(StoreError::Unavailable(_))), "{refused:?}");
    let placed = place_in_time(&second, &[near]).await[0];
    check_placed(&second, near, &placed).await;

    let again = Message { id: 3, ..near };
    let partitions = [near.partition().min(far.partition()), near.partition().max(far.partition())];
    second.begin(&partitions).await.unwrap();
    let mut writes = Writes::default();
    let conversation = name(&again.conversation());
    writes.conversations.push(ConversationRow { app: name("demo"), conversation, last_seq: 9 });
    place_in_time(&third, &[again]).await;
    let late = second.commit(writes).await;
    assert!(
        matches!(&late, Err(StoreError::Fenced(found)) if *found == [near.partition()]),
        "{late:?}"
    );

    gone.restart();
    let end = Instant::now() + DEADLINE;
    let placed = loop {
        match place(&second, &[far]).await {
            Ok(placed) => break placed[0],
            Err(error) => assert!(Instant::now() < end, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    check_placed(&second, far, &placed).await;
    assert_eq!((placed.seq, placed.peer_inbox_seq), (1, 1));
    for store in [second, third] {
        store.close().await;
    }
}

/// Worker ids, and with them message ids, are of one database each.
#[test]
fn worker_ids_are_divided() {
    assert_eq!(worker_ids(0, 1), 0..=1023);
    assert_eq!([0, 1, 2].map(|index| worker_ids(index, 3)), [0..=340, 341..=681, 682..=1022]);
    assert_eq!(worker_ids(63, 64), 1008..=1023);
}

#[test]
fn the_worst_error_decides() {
    let errors = [
        StoreError::Refused(String::new()),
        StoreError::Duplicate(String::new()),
        StoreError::Again(String::new()),
        StoreError::Unavailable(String::new()),
        StoreError::Fenced(vec![1]),
    ];
    for pair in errors.windows(2) {
        assert_eq!(worse(Some(pair[0].clone()), pair[1].clone()), pair[1]);
        assert_eq!(worse(Some(pair[1].clone()), pair[0].clone()), pair[1]);
    }
}

#[tokio::test]
async fn a_moved_entry_on_mariadb() {
    check_a_moved_entry(&Installation::mariadb(2)).await;
}

#[tokio::test]
async fn a_moved_entry_on_postgresql() {
    check_a_moved_entry(&Installation::postgresql(2)).await;
}

#[tokio::test]
async fn kills_at_every_step_on_mariadb() {
    check_kills(&Installation::mariadb(3), 7, 200).await;
}

#[tokio::test]
async fn kills_at_every_step_on_postgresql() {
    check_kills(&Installation::postgresql(3), 8, 200).await;
}

#[tokio::test]
async fn shared_inboxes_on_mariadb() {
    check_shared_inboxes(&Installation::mariadb(3)).await;
}

#[tokio::test]
async fn shared_inboxes_on_postgresql() {
    check_shared_inboxes(&Installation::postgresql(3)).await;
}
