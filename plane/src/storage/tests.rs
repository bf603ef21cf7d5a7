#![allow(clippy::unwrap_used, clippy::panic)]
use super::*;

fn doc(text: &str) -> Document {
    Document {
        bytes: format!("[,{text}]").into_bytes(),
        version_at: 1,
    }
}

fn put(key: &str, text: &str, expect: Expect) -> Write {
    Write::Put {
        key: Arc::from(key),
        document: doc(text),
        expect,
    }
}

fn text(entry: &Entry) -> String {
    String::from_utf8(entry.bytes.to_vec()).unwrap()
}

fn open(folder: &Path) -> Store {
    Store::open(&folder.join("s/plane.db"), "1.0.0", Retention::default()).unwrap()
}

#[tokio::test]
async fn a_value_holds_the_version_that_wrote_it_and_survives_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    store.commit(vec![put("a/1", "x", Expect::Absent)]).await.unwrap();
    let changes = store.commit(vec![put("a/1", "y", Expect::Version(1))]).await.unwrap();
    assert_eq!(changes[0].version, 2);
    assert_eq!(text(changes[0].before.as_ref().unwrap()), "[1,x]");
    store.commit(vec![put("a/2", "z", Expect::Absent)]).await.unwrap();
    store
        .commit(vec![Write::Delete {
            key: Arc::from("a/2"),
            expect: 3,
        }])
        .await
        .unwrap();
    store.close().await;
    assert!(matches!(store.commit(vec![]).await, Err(CommitError::Closed)));
    let store = open(folder.path());
    assert_eq!(store.version(), 4);
    assert_eq!(text(&store.get("a/1").unwrap()), "[2,y]");
    assert!(store.get("a/2").is_none());
    let (changes, version) = store.changes_since("a/", 2).unwrap();
    assert_eq!(version, 4);
    assert_eq!(changes.len(), 2);
    assert_eq!(text(changes[1].before.as_ref().unwrap()), "[3,z]");
    assert_eq!(&changes[1].before.as_ref().unwrap().bytes_at(12)[..], b"[12,z]");
}

#[tokio::test]
async fn a_list_of_writes_takes_effect_whole_or_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    store.commit(vec![put("a", "1", Expect::Absent)]).await.unwrap();
    let refused = store
        .commit(vec![
            put("b", "1", Expect::Absent),
            put("b", "2", Expect::Absent),
            put("a", "2", Expect::Version(9)),
        ])
        .await;
    let Err(CommitError::Precondition { key, found }) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!((&*key, found.unwrap().version), ("a", 1));
    assert!(store.get("b").is_none());
    assert_eq!(store.version(), 1);
    let require = |expect| Write::Require {
        key: Arc::from("a"),
        expect,
    };
    assert!(
        store
            .commit(vec![put("c", "1", Expect::Absent), require(7)])
            .await
            .is_err()
    );
    store
        .commit(vec![put("c", "1", Expect::Absent), require(1)])
        .await
        .unwrap();
    assert_eq!(store.version(), 2);
}

#[tokio::test]
async fn one_commit_may_write_a_value_and_remove_it() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    store.commit(vec![put("a", "1", Expect::Absent)]).await.unwrap();
    let key: Arc<str> = Arc::from("a");
    let changes = store
        .commit(vec![
            put("a", "2", Expect::Version(1)),
            Write::Delete { key, expect: 1 },
        ])
        .await
        .unwrap();
    let shown: Vec<_> = changes
        .iter()
        .map(|change| {
            (
                change.version,
                change.before.as_deref().map(text),
                change.after.as_deref().map(text),
            )
        })
        .collect();
    let said = |words: &str| Some(words.to_owned());
    assert_eq!(shown, [(2, said("[1,1]"), said("[2,2]")), (3, said("[2,2]"), None)]);
    assert!(store.get("a").is_none());
    store.close().await;
    let again = open(folder.path());
    assert_eq!((again.version(), again.get("a").is_none()), (3, true));
}

#[tokio::test]
async fn waiting_writers_share_transactions_and_none_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let mut tasks = tokio::task::JoinSet::new();
    for client in 0..64 {
        let store = store.clone();
        tasks.spawn(async move {
            for n in 0..10 {
                store
                    .commit(vec![put(&format!("k/{client}/{n}"), "v", Expect::Absent)])
                    .await
                    .unwrap();
            }
        });
    }
    tasks.join_all().await;
    assert_eq!(store.version(), 640);
    let (changes, _) = store.changes_since("k/", 0).unwrap();
    let versions: Vec<Version> = changes.iter().map(|change| change.version).collect();
    assert_eq!(versions, (1..=640).collect::<Vec<_>>());
}

#[tokio::test]
async fn of_two_writers_on_one_version_one_wins() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    store.commit(vec![put("a", "0", Expect::Absent)]).await.unwrap();
    let (one, two) = tokio::join!(
        store.commit(vec![put("a", "1", Expect::Version(1))]),
        store.commit(vec![put("a", "2", Expect::Version(1))]),
    );
    assert!(one.is_ok() ^ two.is_ok());
}

#[tokio::test]
async fn the_past_can_be_listed_until_the_log_forgets_it() {
    let folder = tempfile::tempdir().unwrap();
    let retention = Retention {
        changes: 4,
        bytes: 1 << 20,
    };
    let path = folder.path().join("plane.db");
    let store = Store::open(&path, "1", retention).unwrap();
    for name in ["b", "d", "a"] {
        store
            .commit(vec![put(&format!("k/{name}"), "v", Expect::Absent)])
            .await
            .unwrap();
    }
    store
        .commit(vec![Write::Delete {
            key: Arc::from("k/b"),
            expect: 1,
        }])
        .await
        .unwrap();
    store.commit(vec![put("k/d", "w", Expect::Version(2))]).await.unwrap();
    let keys = |listing: Listing| -> Vec<String> { listing.entries.iter().map(|entry| text(entry)).collect() };
    assert_eq!(keys(store.list("k/", None, Some(2)).unwrap()), ["[1,v]", "[2,v]"]);
    assert_eq!(keys(store.list("k/", None, None).unwrap()), ["[3,v]", "[5,w]"]);
    assert_eq!(keys(store.list("k/", Some("k/b"), Some(3)).unwrap()), ["[2,v]"]);
    let expired = Expired { asked: 0, oldest: 1 };
    assert_eq!(store.list("k/", None, Some(0)).unwrap_err(), expired);
    assert_eq!(store.changes_since("k/", 0).unwrap_err(), expired);
}

#[tokio::test]
async fn a_second_process_and_a_newer_state_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("plane.db");
    let store = Store::open(&path, "2.0.0", Retention::default()).unwrap();
    assert!(matches!(
        Store::open(&path, "2.0.0", Retention::default()),
        Err(OpenError::InUse { .. })
    ));
    store.close().await;
    let raw = rusqlite::Connection::open(&path).unwrap();
    raw.execute_batch("PRAGMA user_version=99").unwrap();
    drop(raw);
    let Err(error) = Store::open(&path, "1.0.0", Retention::default()) else {
        panic!("a newer state was opened");
    };
    let words = error.to_string();
    assert!(words.contains("written by Foreman 2.0.0"), "{words}");
    assert!(words.contains("this is Foreman 1.0.0"), "{words}");
}

#[tokio::test]
async fn the_state_is_private() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    store.commit(vec![put("a", "secret", Expect::Absent)]).await.unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&folder.path().join("s")), 0o700);
    for file in std::fs::read_dir(folder.path().join("s")).unwrap() {
        let path = file.unwrap().path();
        assert_eq!(mode(&path), 0o600, "{}", path.display());
    }
}

#[tokio::test]
async fn a_full_disk_is_told_loses_nothing_and_is_forgotten_when_there_is_room() {
    use std::sync::atomic::Ordering;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("plane.db");
    let database = database::Database::open(&path, "1").unwrap();
    let pages = Arc::clone(&database.pages);
    let store = Store::start(database, &path, Retention::default()).unwrap();
    store.commit(vec![put("a", "1", Expect::Absent)]).await.unwrap();
    // SQLite does not let the limit fall below what the file has.
    pages.store(1, Ordering::SeqCst);
    let large = "x".repeat(1 << 20);
    let small_and_large = tokio::join!(
        store.commit(vec![put("b", &large, Expect::Absent)]),
        store.commit(vec![put("c", &large, Expect::Absent)]),
    );
    for refused in [small_and_large.0, small_and_large.1] {
        let Err(error @ CommitError::Full { .. }) = refused else {
            panic!("{refused:?}");
        };
        assert!(error.to_string().contains("no space is left"), "{error}");
    }
    assert_eq!(store.version(), 1);
    assert!(store.get("b").is_none());
    pages.store(1 << 30, Ordering::SeqCst);
    let changes = store.commit(vec![put("b", &large, Expect::Absent)]).await.unwrap();
    assert_eq!(changes[0].version, 2, "no number was lost");
    store.close().await;
    let store = Store::open(&path, "1", Retention::default()).unwrap();
    assert_eq!(
        (store.version(), text(&store.get("a").unwrap())),
        (2, "[1,1]".to_owned())
    );
}

#[tokio::test]
async fn what_was_removed_counts_as_what_the_log_holds() {
    let folder = tempfile::tempdir().unwrap();
    let retention = Retention {
        changes: 1000,
        bytes: 100_000,
    };
    let store = Store::open(&folder.path().join("plane.db"), "1", retention).unwrap();
    let large = "x".repeat(30_000);
    for n in 0..10 {
        let key = format!("k/{n}");
        store.commit(vec![put(&key, &large, Expect::Absent)]).await.unwrap();
    }
    // Small changes push the makers out of the log, not what follows.
    for n in 0..600 {
        let key = format!("s/{n}");
        store.commit(vec![put(&key, "", Expect::Absent)]).await.unwrap();
    }
    let before = store.version();
    for n in 0..10 {
        let key = Arc::from(format!("k/{n}"));
        let removed = Write::Delete { key, expect: n + 1 };
        store.commit(vec![removed]).await.unwrap();
    }
    assert!(store.changes_since("", before).is_err(), "the log holds 300 kB");
    let (changes, _) = store.changes_since("", store.version() - 3).unwrap();
    assert_eq!(changes.len(), 3, "what fits stays");
}
