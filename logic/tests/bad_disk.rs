//! Proves that a damaged, foreign, locked or full database is a clear error, and that a full one recovers by itself.

mod store;

use std::path::Path;
use std::process::Command;

use roost_logic::store::sqlite::SqliteStore;
use roost_logic::store::*;
use store::batch_of;

async fn filled(file: &Path) {
    let store = SqliteStore::open(file).await.unwrap();
    for first in (1..=200).step_by(50) {
        store.commit(batch_of(first..=first + 49, |_| vec![b'x'; 2_000])).await.unwrap();
    }
    store.close().await;
}

#[tokio::test]
async fn a_damaged_file_is_named_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("roost.db");
    filled(&file).await;
    let mut bytes = std::fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle..middle + 20_000].fill(0xa5);
    std::fs::write(&file, &bytes).unwrap();
    let Err(StoreError::Damaged(text)) = SqliteStore::open(&file).await else {
        panic!("a damaged file opens")
    };
    assert!(
        text.contains("roost.db") && text.contains("backup") && text.contains(".recover"),
        "{text}"
    );
}

#[tokio::test]
async fn a_file_of_something_else_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("roost.db");
    std::fs::write(&file, "this is no database, but somebody's notes\n".repeat(100)).unwrap();
    let Err(StoreError::Damaged(text)) = SqliteStore::open(&file).await else {
        panic!("a text file opens")
    };
    assert!(text.contains("roost.db"), "{text}");
}

#[tokio::test]
async fn a_newer_schema_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("roost.db");
    let store = SqliteStore::open(&file).await.unwrap();
    store.close().await;
    let mut connection = <sqlx::SqliteConnection as sqlx::Connection>::connect(&format!(
        "sqlite://{}",
        file.display()
    ))
    .await
    .unwrap();
    sqlx::query(
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
         VALUES (9999, 'of the future', 1, x'00', 0)",
    )
    .execute(&mut connection)
    .await
    .unwrap();
    sqlx::Connection::close(connection).await.unwrap();
    let Err(StoreError::Damaged(text)) = SqliteStore::open(&file).await else {
        panic!("a newer schema opens")
    };
    assert!(text.contains("newer Roost"), "{text}");
}

#[tokio::test]
async fn a_missing_folder_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let Err(StoreError::Unavailable(text)) =
        SqliteStore::open(&dir.path().join("no/roost.db")).await
    else {
        panic!("a file in no folder opens")
    };
    assert!(text.contains("no/roost.db"), "{text}");
}

/// A file system of 8 MiB, unmounted at the end. `None` where this user may not mount.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=8m", "tmpfs"])
            .arg(dir.path())
            .output()
            .is_ok_and(|output| output.status.success());
        mounted.then_some(Self(dir))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).output();
    }
}

#[tokio::test]
async fn a_full_disk_is_unavailable_until_there_is_room() {
    let Some(disk) = SmallDisk::mount() else {
        eprintln!("skipped: this user may not mount a file system");
        return;
    };
    let filler = disk.0.path().join("filler");
    std::fs::write(&filler, vec![0; 3 << 20]).unwrap();
    let store = SqliteStore::open(&disk.0.path().join("roost.db")).await.unwrap();
    let large = |first: u64| batch_of(first..=first + 9, |_| vec![b'x'; 16_000]);
    let mut first = 1;
    loop {
        match store.commit(large(first)).await {
            Ok(()) => first += 10,
            Err(StoreError::Unavailable(text)) => {
                assert!(text.contains("roost-journal.db"), "{text}");
                break;
            }
            Err(error) => panic!("{error}"),
        }
        assert!(first < 10_000, "the disk is never full");
    }
    assert!(
        matches!(store.commit(large(first)).await, Err(StoreError::Unavailable(_))),
        "still full"
    );
    let range = HistoryRange { after: 0, before: 0, limit: 10_000, newest_first: false };
    let (latest, rows) = store.history("demo", "s:a:b", range).await.unwrap().unwrap();
    assert_eq!((latest, rows.len() as u64), (first - 1, first - 1), "all or nothing, and readable");
    std::fs::remove_file(&filler).unwrap();
    store.commit(large(first)).await.unwrap();
    store.close().await;
    let again = SqliteStore::open(&disk.0.path().join("roost.db")).await.unwrap();
    assert_eq!(again.inbox_positions(&[("demo".into(), "b".into())]).await.unwrap(), [first + 9]);
}

/// Most commits carry no mark of the worker and are one statement, whose commit fails after it has done its work.
#[tokio::test]
async fn a_commit_of_one_statement_fails_on_a_full_disk() {
    let Some(disk) = SmallDisk::mount() else {
        eprintln!("skipped: this user may not mount a file system");
        return;
    };
    let file = disk.0.path().join("roost.db");
    let store = SqliteStore::open(&file).await.unwrap();
    let batch = |seq: u64| {
        let mut writes = batch_of(seq..=seq, |_| vec![b'x'; 16_000]);
        writes.worker_marks.clear();
        writes
    };
    let mut stored = 0;
    while store.commit(batch(stored + 1)).await.is_ok() {
        stored += 1;
        assert!(stored < 1_000, "16 MB do not fit on a disk of 8 MiB");
    }
    assert!(stored > 100, "{stored}");
    drop(store);
    let again = SqliteStore::open(&file).await.unwrap();
    assert_eq!(again.inbox_positions(&[("demo".into(), "b".into())]).await.unwrap(), [stored]);
}
