//! Proves against a model that nothing shows where a row is: in the journal, half way, or in its table. Also that a store that is
//! dropped at any of these points, as by a crash, comes back with all of it.

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;
use sqlx::ConnectOptions;

use super::*;
use crate::store::{
    ConversationRow, CursorRow, IdentityKey, InboxRow, NewMessage, Placed, UserRow, WatermarkRow,
};

/// Conversations are `s:u0:uN`: everybody's with `u0`, so that inboxes mix conversations.
const PEERS: u64 = 3;

#[derive(Debug, Clone)]
enum Step {
    /// This many messages to each of these peers, in one batch.
    Commit(Vec<(u64, u64)>),
    /// A watermark without a message.
    Read(u64),
    Apply(usize),
    Crash,
}

#[derive(Default)]
struct Model {
    messages: BTreeMap<(u64, u64), [u8; 16]>,
    inboxes: BTreeMap<u64, Vec<(u64, u64)>>,
    read: BTreeMap<u64, u64>,
    next_id: u64,
}

fn app() -> Name {
    "demo".into()
}
fn conversation(peer: u64) -> Name {
    format!("s:u0:u{peer}").into()
}
fn user(number: u64) -> Name {
    format!("u{number}").into()
}

impl Model {
    fn last_seq(&self, peer: u64) -> u64 {
        self.messages.range((peer, 0)..=(peer, u64::MAX)).count() as u64
    }

    fn message(&mut self, peer: u64) -> NewMessage {
        self.next_id += 1;
        let id = u128::from(self.next_id).to_be_bytes();
        let seq = self.last_seq(peer) + 1;
        self.messages.insert((peer, seq), id);
        let mut place = |owner: u64| {
            let inbox = self.inboxes.entry(owner).or_default();
            inbox.push((peer, seq));
            inbox.len() as u64
        };
        NewMessage {
            app: app(),
            conversation: conversation(peer),
            sender: user(0),
            client_msg_id: id,
            kind: 1,
            body: self.next_id.to_string().into_bytes().into(),
            placed: Placed {
                seq,
                message_id: self.next_id,
                server_time_ms: 7,
                payload_hash: 9,
                sender_inbox_seq: place(0),
                peer_inbox_seq: place(peer),
            },
        }
    }

    fn batch(&mut self, counts: &[(u64, u64)]) -> Writes {
        let mut writes = Writes::default();
        for &(peer, count) in counts {
            for _ in 0..count {
                let message = self.message(peer);
                let Placed { seq, sender_inbox_seq, peer_inbox_seq, .. } = message.placed;
                for (owner, inbox_seq) in [(0, sender_inbox_seq), (peer, peer_inbox_seq)] {
                    writes.inbox.push(InboxRow {
                        app: app(),
                        owner: user(owner),
                        inbox_seq,
                        conversation: conversation(peer),
                        seq,
                    });
                }
                writes.messages.push(message);
            }
            let last_seq = self.last_seq(peer);
            writes.conversations.push(ConversationRow {
                app: app(),
                conversation: conversation(peer),
                last_seq,
            });
            writes.cursors.push(CursorRow {
                app: app(),
                conversation: conversation(peer),
                sender: user(0),
                device: "d".into(),
                session_epoch: 1,
                client_seq: last_seq as u32,
            });
        }
        for owner in 0..=PEERS {
            let last_inbox_seq = self.inboxes.get(&owner).map_or(0, |i| i.len() as u64);
            writes.inboxes.push(UserRow { app: app(), user: user(owner), last_inbox_seq });
        }
        writes.sort();
        writes
    }

    fn read(&mut self, peer: u64) -> Writes {
        let row = WatermarkRow {
            app: app(),
            conversation: conversation(peer),
            user: user(peer),
            delivered_seq: self.last_seq(peer),
            read_seq: self.last_seq(peer),
        };
        self.read.insert(peer, row.read_seq);
        Writes { watermarks: vec![row], ..Writes::default() }
    }

    async fn check(&self, store: &SqliteStore, after: u64, limit: usize) -> TestCaseResult {
        for owner in 0..=PEERS {
            let expected = self.inboxes.get(&owner).map_or(&[][..], |i| i);
            let position = store.inbox_positions(&[(app(), user(owner))]).await.unwrap();
            prop_assert_eq!(&position, &[expected.len() as u64]);
            let page = store.inbox_page("demo", &user(owner), after, limit).await.unwrap();
            let expected = (1..).zip(expected).filter(|(place, _)| *place > after).take(limit);
            let expected: Vec<_> =
                expected.map(|(place, &(peer, seq))| (place, conversation(peer), seq)).collect();
            let found: Vec<_> = page
                .iter()
                .map(|e| (e.inbox_seq, Name::from(&*e.message.conversation), e.message.seq))
                .collect();
            prop_assert_eq!(found, expected);
        }
        for peer in 1..=PEERS {
            let last = self.last_seq(peer);
            for newest_first in [false, true] {
                let before = last.saturating_sub(1);
                let range = HistoryRange { after, before, limit, newest_first };
                let found = store.history("demo", &conversation(peer), range).await.unwrap();
                prop_assert_eq!(found.is_some(), last > 0);
                let Some((last_seq, rows)) = found else { continue };
                prop_assert_eq!(last_seq, last);
                let end = if before == 0 { last + 1 } else { before };
                let mut expected: Vec<u64> = (after + 1..end).collect();
                if newest_first {
                    expected.reverse();
                }
                expected.truncate(limit);
                let ids = rows.iter().all(|r| self.messages[&(peer, r.seq)] == r.client_msg_id);
                prop_assert!(ids);
                prop_assert_eq!(rows.iter().map(|r| r.seq).collect::<Vec<_>>(), expected);
            }
            let read = self.read.get(&peer).copied();
            let watermarks = store.watermarks("demo", &conversation(peer)).await.unwrap();
            prop_assert_eq!(watermarks.first().map(|w| w.read_seq), read);
            let keys = LoadKeys {
                conversations: vec![(app(), conversation(peer))],
                users: vec![(app(), user(peer))],
                cursors: vec![(app(), conversation(peer), user(0), "d".into())],
                watermarks: vec![(app(), conversation(peer), user(peer))],
                identities: (1..=last)
                    .map(|seq| IdentityKey {
                        app: app(),
                        conversation: conversation(peer),
                        sender: user(0),
                        client_msg_id: self.messages[&(peer, seq)],
                    })
                    .collect(),
                ..LoadKeys::default()
            };
            let loaded = store.load(&keys).await.unwrap();
            let counters: Vec<_> = loaded.conversations.iter().map(|c| c.last_seq).collect();
            prop_assert_eq!(counters, if last > 0 { vec![last] } else { vec![] });
            let inbox = self.inboxes.get(&peer).map_or(0, |i| i.len() as u64);
            prop_assert_eq!(loaded.users[0].last_inbox_seq, inbox);
            prop_assert_eq!(
                loaded.cursors.first().map(|c| u64::from(c.client_seq)),
                (last > 0).then_some(last)
            );
            prop_assert_eq!(loaded.watermarks.first().map(|w| w.read_seq), read);
            let mut seqs: Vec<_> = loaded.identities.iter().map(|(_, placed)| placed.seq).collect();
            seqs.sort_unstable();
            prop_assert_eq!(seqs, (1..=last).collect::<Vec<_>>());
        }
        Ok(())
    }

    /// Neither an identity nor a place is taken twice, wherever the first one is.
    async fn check_refusals(&self, store: &SqliteStore) -> TestCaseResult {
        for (&(peer, seq), &id) in &self.messages {
            let row = |client_msg_id, seq| NewMessage {
                app: app(),
                conversation: conversation(peer),
                sender: user(0),
                client_msg_id,
                kind: 1,
                body: "again".into(),
                placed: Placed {
                    seq,
                    message_id: 1,
                    server_time_ms: 7,
                    payload_hash: 9,
                    sender_inbox_seq: 1,
                    peer_inbox_seq: 1,
                },
            };
            for again in [row(id, 1_000_000), row([0xff; 16], seq)] {
                let writes = Writes { messages: vec![again], ..Writes::default() };
                let refused = store.commit(writes).await;
                prop_assert!(matches!(refused, Err(StoreError::Duplicate(_))), "{refused:?}");
            }
        }
        let entry = |inbox_seq| InboxRow {
            app: app(),
            owner: user(0),
            inbox_seq,
            conversation: conversation(1),
            seq: 1,
        };
        for inbox_seq in 1..=self.inboxes.get(&0).map_or(0, |i| i.len() as u64) {
            let writes = Writes { inbox: vec![entry(inbox_seq)], ..Writes::default() };
            let refused = store.commit(writes).await;
            prop_assert!(matches!(refused, Err(StoreError::Duplicate(_))), "{refused:?}");
        }
        Ok(())
    }
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => vec((1..=PEERS, 1..4_u64), 1..4).prop_map(|mut counts| {
            counts.sort_unstable();
            counts.dedup_by_key(|(peer, _)| *peer);
            Step::Commit(counts)
        }),
        1 => (1..=PEERS).prop_map(Step::Read),
        3 => (1..20_usize).prop_map(Step::Apply),
        1 => Just(Step::Crash),
    ]
}

async fn open(file: &Path) -> SqliteStore {
    SqliteStore::open(file).await.unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]
    #[test]
    fn nobody_sees_where_a_row_is(steps in vec((step(), 0..6_u64, 1..8_usize), 1..25)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let dir = tempfile::tempdir().unwrap();
            let file = dir.path().join("roost.db");
            let mut store = open(&file).await;
            let names: Vec<Name> = (0..=PEERS).map(user).collect();
            store.add_users("demo", &names, 1).await.unwrap();
            let mut model = Model::default();
            for (step, after, limit) in steps {
                match step {
                    Step::Commit(counts) => store.commit(model.batch(&counts)).await.unwrap(),
                    Step::Read(peer) if model.last_seq(peer) == 0 => {}
                    Step::Read(peer) => store.commit(model.read(peer)).await.unwrap(),
                    Step::Apply(rows) => drop(store.apply(rows).await.unwrap()),
                    Step::Crash => {
                        // Without closing: what is not in a file is gone.
                        drop(store);
                        store = open(&file).await;
                    }
                }
                model.check(&store, after, limit).await?;
            }
            model.check_refusals(&store).await?;
            store.close().await;
            let mut connection = sqlx::sqlite::SqliteConnectOptions::new()
                .filename(dir.path().join("roost-journal.db"))
                .connect()
                .await
                .unwrap();
            let (left,): (i64,) =
                sqlx::query_as("SELECT count(*) FROM journal").fetch_one(&mut connection).await.unwrap();
            prop_assert_eq!(left, 0, "an orderly stop leaves no journal");
            Ok(())
        })?;
    }
}
