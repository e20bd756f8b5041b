//! Proves that a store keeps what it was given, all or nothing, and finds it again. Every adapter runs every behaviour: SQLite each in a
//! test of its own, a database server all of them in one, because its start takes seconds, over one database and divided among three.

mod store;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use roost_logic::store::databases::Databases;
use roost_logic::store::server::{ServerStore, StoreConfig};
use roost_logic::store::sqlite::SqliteStore;
use roost_logic::store::*;
use roost_testing::{MariaDb, PostgreSql};
use store::{app, batch, name};

type Behaviour = fn(SharedStore) -> Pin<Box<dyn Future<Output = ()>>>;

async fn on_sqlite(behaviour: Behaviour) {
    let dir = tempfile::tempdir().unwrap();
    let sqlite = SqliteStore::open(&dir.path().join("roost.db")).await.unwrap();
    behaviour(Arc::new(sqlite)).await;
}

/// Every behaviour against databases of its own, each of which `create` makes; returns its URL.
async fn on_server(create: impl Fn(&str) -> String) {
    for (behaviour, run) in BEHAVIOURS {
        eprintln!("{behaviour}");
        let config = StoreConfig { url: create(behaviour), ..StoreConfig::default() };
        let store = Arc::new(ServerStore::open(&config, "logic-1", 0).await.unwrap());
        run(Arc::<ServerStore>::clone(&store)).await;
        store.close().await;
        let urls = (0..3).map(|index| create(&format!("{behaviour}{index}"))).collect();
        let config = StoreConfig { urls, ..StoreConfig::default() };
        let store = Arc::new(Databases::open(&config, "logic-1", 0).await.unwrap());
        run(Arc::<Databases>::clone(&store)).await;
        store.close().await;
    }
}

#[tokio::test]
async fn every_behaviour_on_mariadb() {
    let server = MariaDb::start();
    on_server(|database| {
        server.sql(&format!("CREATE DATABASE {database}"));
        server.url(database)
    })
    .await;
}

#[tokio::test]
async fn every_behaviour_on_postgresql() {
    let server = PostgreSql::start();
    on_server(|database| {
        server.sql(&format!("CREATE DATABASE {database}"));
        server.url(database)
    })
    .await;
}

macro_rules! behaviours {
    ($($(#[$doc:meta])* async fn $name:ident($store:ident) $body:block)*) => {
        const BEHAVIOURS: &[(&str, Behaviour)] =
            &[$((stringify!($name), |$store| Box::pin(async move { $body }))),*];
        $(
            $(#[$doc])*
            #[tokio::test]
            async fn $name() {
                on_sqlite(|$store| Box::pin(async move { $body })).await;
            }
        )*
    };
}

fn keys() -> LoadKeys {
    LoadKeys {
        conversations: vec![(app(), name("s:a:b")), (app(), name("s:a:z"))],
        users: vec![(app(), name("a")), (app(), name("nobody"))],
        cursors: vec![(app(), name("s:a:b"), name("a"), name("d"))],
        watermarks: vec![(app(), name("s:a:b"), name("b"))],
        identities: [1, 9]
            .map(|id| IdentityKey {
                app: app(),
                conversation: name("s:a:b"),
                sender: name("a"),
                client_msg_id: [id; 16],
            })
            .into(),
        ..LoadKeys::default()
    }
}

behaviours! {
    /// What a batch wrote is loaded again; what does not exist is left out.
    async fn a_batch_is_kept(store) {
        store.add_users("demo", &[name("a"), name("b")], 1).await.unwrap();
        store.commit(batch(1..=3)).await.unwrap();
        let loaded = store.load(&keys()).await.unwrap();
        assert_eq!(loaded.conversations.len(), 1);
        assert_eq!(loaded.conversations[0].last_seq, 3);
        assert_eq!((loaded.users.len(), loaded.users[0].last_inbox_seq), (1, 3));
        assert_eq!((loaded.cursors[0].session_epoch, loaded.cursors[0].client_seq), (7, 3));
        assert_eq!((loaded.watermarks[0].delivered_seq, loaded.watermarks[0].read_seq), (3, 1));
        assert_eq!(loaded.identities.len(), 1);
        assert_eq!(loaded.identities[0].1, batch(1..=1).messages[0].placed);
        assert_eq!(store.worker_mark(1).await.unwrap(), 500);
        assert_eq!(store.worker_mark(2).await.unwrap(), 0);
    }

    /// Small and large batches are written in different ways, to the same effect.
    async fn batches_of_every_size_are_kept(store) {
        let mut first = 1;
        for size in (1..=70).chain([200]) {
            let mut writes = batch(first..=first + size - 1);
            writes.worker_marks.clear();
            store.commit(writes).await.unwrap();
            let mut again = batch(first..=first);
            again.worker_marks.clear();
            assert!(matches!(store.commit(again).await, Err(StoreError::Duplicate(_))));
            first += size;
        }
        let range = HistoryRange { limit: 10_000, ..all() };
        let (latest, rows) = store.history("demo", "s:a:b", range).await.unwrap().unwrap();
        assert_eq!((latest, rows.len() as u64), (first - 1, first - 1));
        assert!(rows.iter().zip(1..).all(|(row, seq)| row.seq == seq && row.message_id == seq * 10));
        let owners = [(app(), name("a")), (app(), name("b"))];
        assert_eq!(store.inbox_positions(&owners).await.unwrap(), [first - 1, first - 1]);
        let inbox = store.inbox_page("demo", "b", 0, 10_000).await.unwrap();
        assert!(inbox.iter().zip(1..).all(|(row, seq)| row.inbox_seq == seq && row.message.seq == seq));
        let loaded = store.load(&keys()).await.unwrap();
        assert_eq!(u64::from(loaded.cursors[0].client_seq), first - 1);
        assert_eq!(loaded.watermarks[0].delivered_seq, first - 1);
    }

    /// An identity that is stored already refuses its whole batch, and the next batch is not disturbed.
    async fn a_duplicate_refuses_the_whole_batch(store) {
        store.commit(batch(1..=2)).await.unwrap();
        let mut repeated = batch(3..=4);
        repeated.messages[1].client_msg_id = [1; 16];
        assert!(matches!(store.commit(repeated).await, Err(StoreError::Duplicate(_))));
        let (latest, rows) = store.history("demo", "s:a:b", all()).await.unwrap().unwrap();
        assert_eq!((latest, rows.len()), (2, 2));
        let mut taken = batch(2..=2);
        taken.messages[0].client_msg_id = [99; 16];
        assert!(matches!(store.commit(taken).await, Err(StoreError::Duplicate(_))), "the place is taken");
        store.commit(batch(3..=4)).await.unwrap();
    }

    /// The same identity in another conversation, app, or of another sender is another message.
    async fn identities_are_scoped(store) {
        store.commit(batch(1..=1)).await.unwrap();
        let mut other = batch(1..=1);
        other.messages[0].app = name("other");
        other.inbox.clear();
        store.commit(other).await.unwrap();
        let mut other = batch(1..=1);
        other.messages[0].conversation = name("s:a:c");
        other.inbox.clear();
        store.commit(other).await.unwrap();
        let mut other = batch(2..=2);
        other.messages[0].sender = name("b");
        other.messages[0].client_msg_id = [1; 16];
        store.commit(other).await.unwrap();
    }

    /// Case and length matter; nothing is folded together.
    async fn names_compare_exactly(store) {
        let users = ["bob", "Bob", "BOB", "bob.", "bob-"].map(name);
        assert_eq!(store.add_users("demo", &users, 1).await.unwrap(), 5);
        assert_eq!(store.add_users("Demo", &users, 1).await.unwrap(), 5);
        assert_eq!(store.account("demo", "boB").await.unwrap(), None);
        store.commit(batch(1..=1)).await.unwrap();
        assert_eq!(store.history("demo", "s:A:b", all()).await.unwrap(), None);
        let asked = LoadKeys { users: vec![(app(), name("BOB"))], ..LoadKeys::default() };
        let loaded = store.load(&asked).await.unwrap();
        assert_eq!(loaded.users.iter().map(|row| &*row.user).collect::<Vec<_>>(), ["BOB"]);
    }

    /// The largest bodies, and more keys than one look-up takes.
    async fn large_batches_are_kept(store) {
        store.commit(store::batch_of(1..=1_000, |seq| vec![seq as u8; 16 * 1024])).await.unwrap();
        let identities = batch(1..=1_000).messages.into_iter().map(|message| IdentityKey {
            app: message.app,
            conversation: message.conversation,
            sender: message.sender,
            client_msg_id: message.client_msg_id,
        });
        let asked = LoadKeys { identities: identities.collect(), ..LoadKeys::default() };
        assert_eq!(store.load(&asked).await.unwrap().identities.len(), 1_000);
        let page = store.inbox_page("demo", "b", 900, 1_000).await.unwrap();
        assert_eq!(page.len(), 100);
        assert!(page.iter().all(|row| row.message.body == vec![row.message.seq as u8; 16 * 1024]));
    }

    /// What made a handler fail is kept, whatever its bytes are.
    async fn poison_is_kept(store) {
        let entry = Quarantined {
            app: "demo".to_owned(),
            user: "a".to_owned(),
            device: "d".to_owned(),
            frame_kind: "send",
            payload: vec![0, 0xff, b'\''],
            reason: "it panicked: \u{1f426}".to_owned(),
            server_time_ms: 7,
        };
        store.quarantine(&entry).await.unwrap();
    }

    /// Many callers at once; each account is made once.
    async fn accounts_are_made_at_the_same_time(store) {
        let rounds = (0..100).map(|round| {
            let store = Arc::clone(&store);
            async move {
                let account = Account {
                    user: format!("u{}", round % 50),
                    password_hash: None,
                    display_name: "\u{c9}ric \u{1f426}".to_owned(),
                    created_ms: round,
                };
                match store.register("demo", &account).await {
                    Ok(()) => 1,
                    Err(StoreError::Duplicate(_)) => 0,
                    Err(error) => panic!("{error}"),
                }
            }
        });
        let made: Vec<u64> = futures_util::future::join_all(rounds).await;
        assert_eq!(made.iter().sum::<u64>(), 50);
        let account = store.account("demo", "u7").await.unwrap().unwrap();
        assert_eq!((account.display_name.as_str(), account.password_hash), ("\u{c9}ric \u{1f426}", None));
    }

    /// Pages are cut at both ends, in both orders.
    async fn history_is_paged(store) {
        store.commit(batch(1..=10)).await.unwrap();
        let seqs = |range| {
            let store = Arc::clone(&store);
            async move {
                let (latest, rows) = store.history("demo", "s:a:b", range).await.unwrap().unwrap();
                assert_eq!(latest, 10);
                rows.iter().map(|row| row.seq).collect::<Vec<_>>()
            }
        };
        assert_eq!(seqs(HistoryRange { limit: 3, ..all() }).await, [1, 2, 3]);
        assert_eq!(seqs(HistoryRange { after: 3, before: 6, ..all() }).await, [4, 5]);
        assert_eq!(seqs(HistoryRange { newest_first: true, limit: 2, ..all() }).await, [10, 9]);
        assert_eq!(seqs(HistoryRange { newest_first: true, before: 3, ..all() }).await, [2, 1]);
        assert_eq!(seqs(HistoryRange { after: u64::MAX, ..all() }).await, [0; 0]);
        assert_eq!(store.history("demo", "s:a:z", all()).await.unwrap(), None);
        assert_eq!(store.history("other", "s:a:b", all()).await.unwrap(), None);
    }

    /// Inboxes are dense, ascending, and carry the message as it was accepted.
    async fn inboxes_are_paged(store) {
        store.commit(batch(1..=5)).await.unwrap();
        let owners = [(app(), name("b")), (app(), name("nobody")), (app(), name("a"))];
        assert_eq!(store.inbox_positions(&owners).await.unwrap(), [5, 0, 5]);
        let page = store.inbox_page("demo", "b", 2, 2).await.unwrap();
        assert_eq!(page.iter().map(|row| row.inbox_seq).collect::<Vec<_>>(), [3, 4]);
        assert_eq!((page[0].message.body.as_slice(), page[0].message.sender.as_str()), (&b"body 3"[..], "a"));
        assert_eq!(page[0].message.client_msg_id, [3; 16]);
    }

    /// Watermarks never go back.
    async fn watermarks_merge_by_maximum(store) {
        store.commit(batch(1..=5)).await.unwrap();
        let mut lower = batch(6..=6);
        lower.watermarks[0].delivered_seq = 2;
        lower.watermarks[0].read_seq = 3;
        store.commit(lower).await.unwrap();
        let rows = store.watermarks("demo", "s:a:b").await.unwrap();
        assert_eq!((rows[0].delivered_seq, rows[0].read_seq), (5, 3));
    }

    /// Users are made once, with or without a password, and keep what they have.
    async fn users_are_made_once(store) {
        let account = Account {
            user: "carol".to_owned(),
            password_hash: Some("hash".to_owned()),
            display_name: "Carol".to_owned(),
            created_ms: 5,
        };
        store.register("demo", &account).await.unwrap();
        assert!(matches!(store.register("demo", &account).await, Err(StoreError::Duplicate(_))));
        let users: Vec<Name> = (0..1_000).map(|i| name(&format!("u{i}"))).chain([name("carol")]).collect();
        assert_eq!(store.add_users("demo", &users, 9).await.unwrap(), 1_000);
        assert_eq!(store.add_users("demo", &users, 9).await.unwrap(), 0);
        assert_eq!(store.account("demo", "carol").await.unwrap(), Some(account));
        assert_eq!(store.account("other", "carol").await.unwrap(), None);
        assert!(store.set_display_name("demo", "carol", "C").await.unwrap());
        assert!(!store.set_display_name("demo", "nobody", "N").await.unwrap());
    }

    /// A token is used once, its successor is there, and a revoked family is revoked for all of it.
    async fn refresh_tokens_rotate(store) {
        let family = RefreshFamily {
            family: [1; 16],
            app: "demo".to_owned(),
            user: "carol".to_owned(),
            created_ms: 1,
            token_hash: [2; 32],
            expires_ms: 100,
        };
        store.open_family(&family).await.unwrap();
        let rotation = |used_ms| Rotation {
            family: [1; 16],
            token_hash: [2; 32],
            used_ms,
            successor_hash: [3; 32],
            successor_expires_ms: 200,
        };
        store.rotate(&rotation(50)).await.unwrap();
        store.rotate(&rotation(60)).await.unwrap();
        let first = store.refresh_token([2; 32]).await.unwrap().unwrap();
        assert_eq!((first.used_ms, first.revoked, first.user.as_str()), (Some(50), false, "carol"));
        let second = store.refresh_token([3; 32]).await.unwrap().unwrap();
        assert_eq!((second.used_ms, second.expires_ms), (None, 200));
        store.revoke_family([1; 16], 70).await.unwrap();
        assert!(store.refresh_token([3; 32]).await.unwrap().unwrap().revoked);
        assert_eq!(store.refresh_token([9; 32]).await.unwrap(), None);
    }
}

fn all() -> HistoryRange {
    HistoryRange { after: 0, before: 0, limit: 100, newest_first: false }
}
