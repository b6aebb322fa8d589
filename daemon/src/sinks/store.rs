//! The store: incidents in SQLite, one row each, replaced as they change. A row holds the incident's JSON and
//! that of the host that was traced, so that a later version can still read it.

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use rusqlite::{Connection, OpenFlags, OptionalExtension, params};

use crate::{host::Host, incident::model::Incident};

/// Version of the layout (`PRAGMA user_version`).
const LAYOUT: i64 = 1;
/// Name of the database in the state directory.
pub const FILE: &str = "incidents.db";
/// How long a reader waits for a writer, and the other way round.
const BUSY: Duration = Duration::from_secs(5);
/// Changed incidents that wait while the disk cannot be written to; beyond, the oldest id goes.
const MAX_WAITING: usize = 16_384;

/// Why the store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error(
        "no incidents are stored in {0} (no {FILE}): has `poisontrace run` been started with this --state-dir?"
    )]
    Absent(PathBuf),
    #[error("cannot create {0}: {1}")]
    Directory(PathBuf, io::Error),
    #[error("{0}: not readable: {1}; reading the store needs root or its owner")]
    Unreadable(PathBuf, io::Error),
    #[error("{path}: {source}; if it is damaged, move it away and start the daemon again")]
    Sqlite { path: PathBuf, source: rusqlite::Error },
    #[error(
        "{path}: layout version {found}; this poisontrace knows {LAYOUT}: use the poisontrace that wrote it"
    )]
    Layout { path: PathBuf, found: i64 },
    #[error("{path}: incident {id} cannot be read: {source}")]
    Row {
        path: PathBuf,
        id: String,
        source: serde_json::Error,
    },
}

/// The daemon's end: writes.
pub struct Store {
    connection: Connection,
    path: PathBuf,
    host: String,
    waiting: BTreeMap<String, Incident>,
}

impl Store {
    /// Opens or creates the store in `dir`, which is created too.
    ///
    /// # Errors
    /// A directory that cannot be made, a file that is no such store.
    pub fn create(dir: &Path, host: &Host) -> Result<Self, StoreError> {
        fs::create_dir_all(dir).map_err(|err| StoreError::Directory(dir.to_owned(), err))?;
        let path = dir.join(FILE);
        let wrap = |source| StoreError::Sqlite {
            path: path.clone(),
            source,
        };
        let connection = Connection::open(&path).map_err(wrap)?;
        // Guest addresses break the guest's KASLR: not for everybody to read.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640))
            .map_err(|err| StoreError::Directory(path.clone(), err))?;
        connection.busy_timeout(BUSY).map_err(wrap)?;
        match version(&connection).map_err(wrap)? {
            0 => connection
                .execute_batch(
                    "PRAGMA journal_mode = WAL;
                     PRAGMA synchronous = FULL;
                     BEGIN;
                     CREATE TABLE IF NOT EXISTS incident (
                         id TEXT PRIMARY KEY,
                         vm TEXT,
                         started_at TEXT,
                         first_stored INTEGER NOT NULL,
                         host TEXT NOT NULL,
                         incident TEXT NOT NULL
                     );
                     PRAGMA user_version = 1;
                     COMMIT;",
                )
                .map_err(wrap)?,
            LAYOUT => connection
                .execute_batch("PRAGMA synchronous = FULL;")
                .map_err(wrap)?,
            found => return Err(StoreError::Layout { path, found }),
        }
        let host = serde_json::to_string(host).unwrap_or_default();
        Ok(Self {
            connection,
            path,
            host,
            waiting: BTreeMap::new(),
        })
    }

    /// Stores incidents as they stand now. Where that fails they are kept and tried again with the next.
    ///
    /// # Errors
    /// Those of the database; nothing is lost by them.
    pub fn put(&mut self, incidents: Vec<Incident>) -> Result<(), StoreError> {
        for incident in incidents {
            if self.waiting.len() >= MAX_WAITING {
                self.waiting.pop_first();
            }
            self.waiting.insert(incident.id.clone(), incident);
        }
        if self.waiting.is_empty() {
            return Ok(());
        }
        self.write().map_err(|source| StoreError::Sqlite {
            path: self.path.clone(),
            source,
        })?;
        self.waiting.clear();
        Ok(())
    }

    fn write(&mut self) -> rusqlite::Result<()> {
        let transaction = self.connection.transaction()?;
        {
            let mut statement = transaction.prepare_cached(
                "INSERT INTO incident (id, vm, started_at, first_stored, host, incident)
                 VALUES (?1, ?2, ?3, (SELECT coalesce(max(first_stored), 0) + 1 FROM incident), ?4, ?5)
                 ON CONFLICT (id) DO UPDATE SET
                     vm = excluded.vm, started_at = excluded.started_at, incident = excluded.incident",
            )?;
            for incident in self.waiting.values() {
                let json = serde_json::to_string(incident)
                    .map_err(|err| rusqlite::Error::ToSqlConversionFailure(Box::new(err)))?;
                statement.execute(params![
                    incident.id,
                    incident.vm.name,
                    incident.started_at,
                    self.host,
                    json
                ])?;
            }
        }
        transaction.commit()
    }
}

fn version(connection: &Connection) -> rusqlite::Result<i64> {
    connection.query_row("PRAGMA user_version", [], |row| row.get(0))
}

/// A reader's end: never writes.
pub struct Stored {
    connection: Connection,
    path: PathBuf,
}

/// Which incidents are asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    All,
    Last,
    Id(String),
    /// The last one of the VM of this name.
    Vm(String),
}

impl Stored {
    /// Opens the store in `dir` for reading.
    ///
    /// # Errors
    /// No store there, or not one that can be read.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        let path = dir.join(FILE);
        match fs::File::open(&path) {
            Ok(_) => {}
            Err(err) if err.kind() == io::ErrorKind::NotFound => {
                return Err(StoreError::Absent(dir.to_owned()));
            }
            Err(err) => return Err(StoreError::Unreadable(path, err)),
        }
        let wrap = |source| StoreError::Sqlite {
            path: path.clone(),
            source,
        };
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&path, flags).map_err(wrap)?;
        connection.busy_timeout(BUSY).map_err(wrap)?;
        match version(&connection).map_err(wrap)? {
            LAYOUT => Ok(Self { connection, path }),
            found => Err(StoreError::Layout { path, found }),
        }
    }

    /// The incidents that are wanted, oldest first, each with the host on which it was traced.
    ///
    /// # Errors
    /// Those of the database, and a row that cannot be read.
    pub fn get(&self, wanted: &Wanted) -> Result<Vec<(Host, Incident)>, StoreError> {
        let wrap = |source| StoreError::Sqlite {
            path: self.path.clone(),
            source,
        };
        let columns = "SELECT id, host, incident FROM incident";
        let rows: Vec<(String, String, String)> = match wanted {
            Wanted::All => self
                .connection
                .prepare(&format!("{columns} ORDER BY first_stored"))
                .and_then(|mut statement| statement.query_map([], row)?.collect())
                .map_err(wrap)?,
            Wanted::Last => self.one(&format!("{columns} ORDER BY first_stored DESC LIMIT 1"), &[])?,
            Wanted::Id(id) => self.one(&format!("{columns} WHERE id = ?1"), &[id])?,
            Wanted::Vm(name) => self.one(
                &format!("{columns} WHERE vm = ?1 ORDER BY first_stored DESC LIMIT 1"),
                &[name],
            )?,
        };
        rows.into_iter()
            .map(|(id, host, incident)| {
                let damaged = |source| StoreError::Row {
                    path: self.path.clone(),
                    id: id.clone(),
                    source,
                };
                Ok((
                    serde_json::from_str(&host).map_err(damaged)?,
                    serde_json::from_str(&incident).map_err(damaged)?,
                ))
            })
            .collect()
    }

    fn one(&self, sql: &str, parameters: &[&String]) -> Result<Vec<(String, String, String)>, StoreError> {
        self.connection
            .query_row(sql, rusqlite::params_from_iter(parameters), row)
            .optional()
            .map(|row| row.into_iter().collect())
            .map_err(|source| StoreError::Sqlite {
                path: self.path.clone(),
                source,
            })
    }
}

fn row(row: &rusqlite::Row<'_>) -> rusqlite::Result<(String, String, String)> {
    Ok((row.get(0)?, row.get(1)?, row.get(2)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{event::session::Session, incident::evidence::Evidence};

    fn incident(pid: u32, name: &str) -> Incident {
        let mut e = Evidence::new(1, pid, Default::default());
        e.vmm.name = Some(name.to_owned());
        crate::correlate::report::incident(&e, &Session::default())
    }

    #[test]
    fn an_incident_that_changes_stays_one_row_in_its_place() {
        let dir = tempfile::tempdir().unwrap();
        let host = Host {
            poisontrace: "test".into(),
            ..Host::default()
        };
        let mut store = Store::create(dir.path(), &host).unwrap();
        store.put(vec![incident(1, "web"), incident(2, "db")]).unwrap();
        let mut changed = incident(1, "web");
        changed.sentence = "changed".into();
        store.put(vec![changed]).unwrap();

        let stored = Stored::open(dir.path()).unwrap();
        let all = stored.get(&Wanted::All).unwrap();
        assert_eq!(all.len(), 2);
        assert_eq!(
            (all[0].0.poisontrace.as_str(), all[0].1.sentence.as_str()),
            ("test", "changed")
        );
        assert_eq!(
            stored.get(&Wanted::Last).unwrap()[0].1.vm.name.as_deref(),
            Some("db")
        );
        assert_eq!(stored.get(&Wanted::Vm("web".into())).unwrap().len(), 1);
        assert_eq!(stored.get(&Wanted::Id(all[1].1.id.clone())).unwrap().len(), 1);
        assert!(stored.get(&Wanted::Id("nothing".into())).unwrap().is_empty());
    }

    #[test]
    fn a_foreign_or_absent_store_is_named_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(Stored::open(dir.path()), Err(StoreError::Absent(_))));
        let path = dir.path().join(FILE);
        fs::write(
            &path,
            "no database, but somebody's notes, which are longer than a header of SQLite is",
        )
        .unwrap();
        let before = fs::read(&path).unwrap();
        assert!(matches!(Stored::open(dir.path()), Err(StoreError::Sqlite { .. })));
        assert!(Store::create(dir.path(), &Host::default()).is_err());
        assert_eq!(fs::read(&path).unwrap(), before);
    }
}
