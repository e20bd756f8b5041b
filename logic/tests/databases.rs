//! Proves that a list of several databases is this installation's, in its order, or refused with what to do; and that the schema of each is
//! brought up to date, with a word on what was done.

mod store;

use roost_logic::store::databases::Databases;
use roost_logic::store::server::StoreConfig;
use roost_logic::store::*;
use roost_logic::{Logic, LogicConfig};
use roost_testing::MariaDb;
use store::{app, batch, name};

fn urls(server: &MariaDb, names: &[&str]) -> StoreConfig {
    let urls = names.iter().map(|name| server.url(name)).collect();
    StoreConfig { urls, ..StoreConfig::default() }
}

/// As `roost logic migrate`.
fn migrate(store: StoreConfig) -> std::result::Result<Vec<String>, String> {
    let folder = tempfile::tempdir().unwrap();
    let data_dir = folder.path().to_owned();
    let config = LogicConfig { store, data_dir, ..LogicConfig::default() };
    Logic::migrate(&config).map_err(|error| error.to_string())
}

#[track_caller]
fn refused(store: StoreConfig, parts: &[&str]) {
    let error = migrate(store).expect_err("it does not open");
    assert!(parts.iter().all(|part| error.contains(part)), "{error}");
    assert!(!error.contains("roost:"), "no credentials: {error}");
}

#[test]
fn another_list_is_refused() {
    let server = MariaDb::start();
    let create = |names: &[&str]| {
        for name in names {
            server.sql(&format!("CREATE DATABASE {name}"));
        }
    };
    create(&["a", "b", "c", "x", "y", "new", "old"]);
    let list = |names: &[&str]| urls(&server, names);
    let one = |name: &str| StoreConfig { url: server.url(name), ..StoreConfig::default() };

    let made = migrate(list(&["a", "b", "c"])).unwrap();
    assert_eq!(made.len(), 3);
    assert!(
        made.iter()
            .zip(["\"a\"", "\"b\"", "\"c\""])
            .all(|(line, name)| line.contains(name) && line.contains("made, schema 3")),
        "{made:?}"
    );
    let again = migrate(list(&["a", "b", "c"])).unwrap();
    assert!(again.iter().all(|line| line.contains("is up to date, schema 3")), "{again:?}");
    migrate(list(&["x", "y"])).unwrap();

    refused(
        list(&["a", "c", "b"]),
        &["\"c\"", "number 3 of 3", "stands at 2", "put the URLs back in their order"],
    );
    refused(list(&["a", "b"]), &["\"a\"", "one of 3 databases", "list all 3"]);
    refused(one("a"), &["\"a\"", "one of 3 databases, but 1 are configured"]);
    refused(list(&["x", "b"]), &["one of 3 databases"]);
    refused(list(&["a", "b", "new"]), &["\"new\"", "is empty", "correct entry 3"]);
    refused(list(&["a", "a", "b"]), &["lists the database a", "twice"]);
    create(&["p", "q"]);
    migrate(list(&["p", "q"])).unwrap();
    refused(list(&["x", "q"]), &["\"q\"", "belongs to another installation"]);
    let mixed = StoreConfig {
        urls: vec![server.url("a"), "postgres://roost@127.0.0.1/b".to_owned()],
        ..StoreConfig::default()
    };
    refused(mixed, &["different kinds"]);
    refused(StoreConfig { url: server.url("a"), ..list(&["a", "b"]) }, &["both set"]);

    // One that was used alone has everything, also when that was before databases were numbered.
    migrate(one("old")).unwrap();
    refused(list(&["old", "new"]), &["\"old\"", "cannot be divided", "logic.store.url"]);
    server.sql("DELETE FROM old.installation; INSERT INTO old.users (app_id, user_id, created_ms) VALUES ('demo', 'a', 1)");
    refused(list(&["old", "new"]), &["\"old\"", "cannot be divided"]);
    refused(list(&["new", "old"]), &["\"old\"", "cannot be divided"]);
    migrate(one("old")).unwrap();

    // A newer schema is refused, wherever it is in the list.
    server.sql("INSERT INTO b._sqlx_migrations (version, description, success, checksum, execution_time) VALUES (99, 'x', TRUE, 'x', 0)");
    refused(list(&["a", "b", "c"]), &["\"b\"", "newer Roost", "schema 99"]);
}

/// A database of an older schema is changed, and its neighbour is not.
#[test]
fn migrate_says_what_it_did_to_each() {
    let server = MariaDb::start();
    server.sql("CREATE DATABASE a; CREATE DATABASE b");
    migrate(urls(&server, &["a", "b"])).unwrap();
    server.sql("DROP TABLE a.pending_inbox; DELETE FROM a._sqlx_migrations WHERE version = 3");
    let lines = migrate(urls(&server, &["a", "b"])).unwrap();
    assert!(
        lines[0].contains("\"a\"") && lines[0].contains("changed from schema 2 to 3"),
        "{lines:?}"
    );
    assert!(
        lines[1].contains("\"b\"") && lines[1].contains("is up to date, schema 3"),
        "{lines:?}"
    );
}

/// An interrupted first start is completed by the next one, and several at the same time agree.
#[tokio::test]
async fn first_starts_agree() {
    let server = MariaDb::start();
    server.sql("CREATE DATABASE a; CREATE DATABASE b; CREATE DATABASE c");
    let config = urls(&server, &["a", "b", "c"]);
    let starts: Vec<_> = (0..4)
        .map(|number| {
            let config = config.clone();
            tokio::spawn(async move {
                Databases::open(&config, &format!("logic-{number}"), number).await
            })
        })
        .collect();
    for start in starts {
        start.await.unwrap().unwrap().close().await;
    }
    server.sql("DELETE FROM a.installation; DELETE FROM b.installation");
    let store = Databases::open(&config, "logic-1", 0).await.unwrap();
    store.add_users("demo", &["a", "b"].map(name), 1).await.unwrap();
    store.commit(batch(1..=3)).await.unwrap();
    let owners = ["a", "b"].map(|owner| (app(), name(owner)));
    assert_eq!(store.inbox_positions(&owners).await.unwrap(), [3, 3]);
    store.close().await;
}
