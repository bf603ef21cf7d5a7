//! The SQLite file: its format, loading it, and writing one transaction.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rusqlite::{Connection, ErrorCode, OptionalExtension, params};

use super::memory::Memory;
use super::{Change, CommitError, Entry, OpenError, Retention, Version};

/// The newest format that this program reads and the one that it writes.
const FORMAT: i64 = 1;

const TABLES: &str = "
    CREATE TABLE about (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
    CREATE TABLE objects (
        key TEXT PRIMARY KEY,
        version INTEGER NOT NULL,
        version_at INTEGER NOT NULL,
        value BLOB NOT NULL
    ) STRICT;
    CREATE TABLE log (
        version INTEGER PRIMARY KEY,
        key TEXT NOT NULL,
        before_version INTEGER,
        before_at INTEGER,
        before BLOB,
        after_at INTEGER,
        after BLOB
    ) STRICT;
";

pub(super) struct Database {
    connection: Connection,
    path: PathBuf,
    /// The most pages that the file may have, by which tests fill the disk.
    #[cfg(test)]
    pub(super) pages: Arc<std::sync::atomic::AtomicI64>,
}

pub(super) fn open_error(path: &Path, source: rusqlite::Error) -> OpenError {
    match source.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => OpenError::InUse {
            path: path.to_path_buf(),
        },
        _ => OpenError::Database {
            path: path.to_path_buf(),
            source,
        },
    }
}

impl Database {
    pub(super) fn open(path: &Path, program: &str) -> Result<Database, OpenError> {
        create_private(path)?;
        let fail = |source| open_error(path, source);
        let mut connection = Connection::open(path).map_err(fail)?;
        connection.busy_timeout(Duration::from_millis(1500)).map_err(fail)?;
        // One process owns the file: what is in memory must be what is on disk.
        connection
            .execute_batch(
                "PRAGMA locking_mode=EXCLUSIVE; PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;
                 PRAGMA cache_size=-1024; PRAGMA temp_store=MEMORY; PRAGMA journal_size_limit=8388608;",
            )
            .map_err(fail)?;
        connection.set_prepared_statement_cache_capacity(16);
        let format: i64 = connection
            .query_row("PRAGMA user_version", [], |row| row.get(0))
            .map_err(fail)?;
        if format > FORMAT {
            let writer = about(&connection, "program").map_err(fail)?;
            return Err(OpenError::Newer {
                path: path.to_path_buf(),
                writer: writer.unwrap_or_else(|| "of a later version".into()),
                found: format,
                ours: program.into(),
                known: FORMAT,
            });
        }
        let transaction = connection
            .transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)
            .map_err(fail)?;
        if format == 0 {
            transaction.execute_batch(TABLES).map_err(fail)?;
            transaction
                .execute_batch(&format!("PRAGMA user_version={FORMAT}"))
                .map_err(fail)?;
        }
        if about(&transaction, "program").map_err(fail)?.as_deref() != Some(program) {
            transaction
                .execute(
                    "INSERT INTO about VALUES ('program', ?1) ON CONFLICT(name) DO UPDATE SET value=?1",
                    [program],
                )
                .map_err(fail)?;
        }
        transaction.commit().map_err(fail)?;
        Ok(Database {
            connection,
            path: path.to_path_buf(),
            #[cfg(test)]
            pages: Arc::new(std::sync::atomic::AtomicI64::new(1 << 30)),
        })
    }

    /// Reads everything into memory.
    pub(super) fn load(&self, retention: Retention) -> Result<Memory, rusqlite::Error> {
        let mut objects = BTreeMap::new();
        let mut by_version: HashMap<Version, Arc<Entry>> = HashMap::new();
        let mut select = self
            .connection
            .prepare("SELECT key, version, version_at, value FROM objects")?;
        let mut rows = select.query([])?;
        while let Some(row) = rows.next()? {
            let entry = Arc::new(Entry {
                key: Arc::from(row.get_ref(0)?.as_str()?),
                version: read_version(row, 1)?.unwrap_or(0),
                version_at: row.get(2)?,
                bytes: Bytes::copy_from_slice(row.get_ref(3)?.as_blob()?),
            });
            by_version.insert(entry.version, Arc::clone(&entry));
            objects.insert(Arc::clone(&entry.key), entry);
        }
        let mut log = VecDeque::new();
        let mut select = self.connection.prepare(
            "SELECT version, key, before_version, before_at, before, after_at, after FROM log ORDER BY version",
        )?;
        let mut rows = select.query([])?;
        let mut version = 0;
        while let Some(row) = rows.next()? {
            version = read_version(row, 0)?.unwrap_or(0);
            let key: Arc<str> = Arc::from(row.get_ref(1)?.as_str()?);
            let mut side = |version: Option<Version>, at: usize, value: usize| {
                let (Some(version), Some(blob)) = (version, row.get_ref(value)?.as_blob_or_null()?) else {
                    return Ok::<_, rusqlite::Error>(None);
                };
                if let Some(known) = by_version.get(&version) {
                    return Ok(Some(Arc::clone(known)));
                }
                let entry = Arc::new(Entry {
                    key: Arc::clone(&key),
                    version,
                    version_at: row.get(at)?,
                    bytes: Bytes::copy_from_slice(blob),
                });
                by_version.insert(version, Arc::clone(&entry));
                Ok(Some(entry))
            };
            let before = side(read_version(row, 2)?, 3, 4)?;
            let after = side(Some(version), 5, 6)?;
            log.push_back(Arc::new(Change {
                version,
                key,
                before,
                after,
            }));
        }
        let noted = about(&self.connection, "version")?
            .and_then(|text| text.parse().ok())
            .unwrap_or(0);
        Ok(Memory::new(objects, log, version.max(noted), retention))
    }

    /// Writes `changes` in one transaction and forgets the log up to `floor`.
    pub(super) fn write(&mut self, changes: &[Arc<Change>], floor: Option<Version>) -> Result<(), CommitError> {
        let result = self.try_write(changes, floor);
        result.map_err(|source| match source.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => CommitError::Full {
                path: self.path.clone(),
            },
            _ => CommitError::Database {
                path: self.path.clone(),
                reason: source.to_string(),
            },
        })
    }

    fn try_write(&mut self, changes: &[Arc<Change>], floor: Option<Version>) -> Result<(), rusqlite::Error> {
        #[cfg(test)]
        self.connection.execute_batch(&format!(
            "PRAGMA max_page_count={}",
            self.pages.load(std::sync::atomic::Ordering::SeqCst)
        ))?;
        // Dropping the transaction on an error rolls it back.
        let transaction = self
            .connection
            .transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        {
            let mut log = transaction.prepare_cached("INSERT INTO log VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)")?;
            let mut put = transaction.prepare_cached(
                "INSERT INTO objects VALUES (?1, ?2, ?3, ?4)
                 ON CONFLICT(key) DO UPDATE SET version=?2, version_at=?3, value=?4",
            )?;
            let mut delete = transaction.prepare_cached("DELETE FROM objects WHERE key=?1")?;
            for change in changes {
                let key: &str = &change.key;
                let before = change.before.as_deref();
                let after = change.after.as_deref();
                log.execute(params![
                    sql_version(change.version),
                    key,
                    before.map(|entry| sql_version(entry.version)),
                    before.map(|entry| entry.version_at),
                    before.map(|entry| &entry.bytes[..]),
                    after.map(|entry| entry.version_at),
                    after.map(|entry| &entry.bytes[..]),
                ])?;
                match after {
                    Some(entry) => put.execute(params![
                        key,
                        sql_version(entry.version),
                        entry.version_at,
                        &entry.bytes[..]
                    ])?,
                    None => delete.execute([key])?,
                };
            }
            if let Some(last) = changes.last() {
                transaction
                    .prepare_cached(
                        "INSERT INTO about VALUES ('version', ?1) ON CONFLICT(name) DO UPDATE SET value=?1",
                    )?
                    .execute([last.version.to_string()])?;
            }
            if let Some(floor) = floor {
                transaction
                    .prepare_cached("DELETE FROM log WHERE version<=?1")?
                    .execute([sql_version(floor)])?;
            }
        }
        transaction.commit()
    }

    /// Folds the write-ahead log back into the file.
    pub(super) fn checkpoint(&self) {
        let folded = self
            .connection
            .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
        if let Err(error) = folded {
            tracing::warn!(%error, "failed to fold the write-ahead log into the state");
        }
    }
}

/// SQLite's integers are signed.
fn sql_version(version: Version) -> i64 {
    i64::try_from(version).unwrap_or(i64::MAX)
}

fn read_version(row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<Option<Version>> {
    let stored: Option<i64> = row.get(column)?;
    Ok(stored.and_then(|version| Version::try_from(version).ok()))
}

fn about(connection: &Connection, name: &str) -> Result<Option<String>, rusqlite::Error> {
    let tables: i64 = connection.query_row("SELECT count(*) FROM sqlite_schema WHERE name='about'", [], |row| {
        row.get(0)
    })?;
    if tables == 0 {
        return Ok(None);
    }
    connection
        .query_row("SELECT value FROM about WHERE name=?1", [name], |row| row.get(0))
        .optional()
}

/// Makes the folder (0700) and the file (0600), so that SQLite's side files, which take
/// the file's mode, are private as well.
fn create_private(path: &Path) -> Result<(), OpenError> {
    let fail = |path: &Path| {
        let path = path.to_path_buf();
        move |source| OpenError::Io { path, source }
    };
    if let Some(folder) = path.parent() {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(fail(folder))?;
    }
    std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)
        .map_err(fail(path))?;
    Ok(())
}
