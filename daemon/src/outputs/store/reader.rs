//! A reader's end: never writes, and asks for nothing to be migrated.

use std::{
    cell::Cell,
    fs, io,
    path::{Path, PathBuf},
};

use rusqlite::{Connection, OpenFlags, OptionalExtension as _, params_from_iter};
use serde::Serialize;

use super::{
    FILE, LAYOUT, StoreError,
    database::read_verdict,
    error::is_damage,
    queue::Verdict,
    schema::{BUSY, tables, version},
};
use poisontrace_model::host::Host;
use poisontrace_report::document::{Incident, SCHEMA_VERSION};
use poisontrace_sqlite::open_immutable;

/// Damaged incidents that are named in the log.
const MAX_NAMED: u64 = 20;

/// See the module.
pub struct Stored {
    pub(super) connection: Connection,
    pub(super) path: PathBuf,
    layout: i64,
    skipped: Cell<u64>,
}

/// Which incidents are asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    All,
    Last,
    /// So many, those that began last.
    Newest(usize),
    Id(String),
    /// The last one of the VM of this name.
    Vm(String),
}

/// All that is stored of one incident; events as the recording's lines have them.
#[derive(Debug, Serialize)]
pub struct Dossier {
    pub schema_version: u32,
    pub host: Host,
    pub incident: Incident,
    /// Oldest first.
    pub verdicts: Vec<Verdict>,
    /// Events that belong to it; of these `events` is a sample.
    pub events_seen: u64,
    pub events: Vec<KeptEvent>,
}

/// An event and its number (from 0) within the incident.
#[derive(Debug, Serialize)]
pub struct KeptEvent {
    pub n: u64,
    #[serde(flatten)]
    pub event: serde_json::Map<String, serde_json::Value>,
}

impl Stored {
    /// Opens the store in `dir` for reading; layouts before [`LAYOUT`] can be read too.
    ///
    /// # Errors
    /// No store there, or not one that can be read.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        let path = dir.join(FILE);
        // Not opened beside SQLite: closing it would give up the locks that the daemon's own thread has on it (fcntl(2)).
        match fs::metadata(&path) {
            Ok(_) => {}
            Err(err) if err.kind() == io::ErrorKind::NotFound => {
                return Err(StoreError::Absent(dir.to_owned()));
            }
            Err(err) => return Err(StoreError::Unreadable(path, err)),
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        // Without a log beside it no daemon has it open, and reading it must not leave one there.
        let connection = match fs::exists(dir.join(format!("{FILE}-wal"))) {
            Ok(false) => open_immutable(&path),
            _ => Connection::open_with_flags(&path, flags),
        }
        .map_err(|err| match fs::File::open(&path) {
            Err(why) => StoreError::Unreadable(path.clone(), why),
            Ok(_) => failed(&path, err),
        })?;
        connection.busy_timeout(BUSY).map_err(|err| failed(&path, err))?;
        match version(&connection).map_err(|err| failed(&path, err))? {
            layout @ 1..=LAYOUT => Ok(Self {
                connection,
                path,
                layout,
                skipped: Cell::new(0),
            }),
            // A daemon was killed while it made it; the next one goes on.
            0 if tables(&connection).map_err(|err| failed(&path, err))? == 0 => {
                Err(StoreError::Absent(dir.to_owned()))
            }
            0 => Err(StoreError::Foreign(
                path,
                "nothing of poisontrace in it".to_owned(),
            )),
            found => Err(StoreError::Layout { path, found }),
        }
    }

    /// The incidents that are wanted, oldest first, each with the host on which it was traced.
    ///
    /// # Errors
    /// Those of the database, and a row that cannot be read.
    pub fn get(&self, wanted: &Wanted) -> Result<Vec<(Host, Incident)>, StoreError> {
        let one = matches!(wanted, Wanted::Last | Wanted::Vm(_));
        let mut found = Vec::new();
        for id in self.ids(wanted)? {
            match self.incident(&id) {
                Ok(Some(incident)) => found.push(incident),
                Ok(None) => {}
                Err(err @ StoreError::Row { .. }) if !matches!(wanted, Wanted::Id(_)) => self.skip(&id, &err),
                Err(err) => return Err(err),
            }
            if one && !found.is_empty() {
                break;
            }
        }
        Ok(found)
    }

    fn incident(&self, id: &str) -> Result<Option<(Host, Incident)>, StoreError> {
        let row: Option<(Vec<u8>, Vec<u8>)> = self
            .connection
            .prepare_cached("SELECT host, incident FROM incident WHERE id = ?1")
            .and_then(|mut statement| {
                statement
                    .query_row([id], |row| Ok((bytes(row, 0), bytes(row, 1))))
                    .optional()
            })
            .map_err(|err| failed(&self.path, err))?;
        let Some((host, incident)) = row else {
            return Ok(None);
        };
        let damaged = |source| self.damaged(id, source);
        Ok(Some((
            parse(&host).map_err(damaged)?,
            parse(&incident).map_err(damaged)?,
        )))
    }

    /// Notes a damaged incident that is left out.
    pub fn skip(&self, id: &str, why: &StoreError) {
        let skipped = self.skipped.get();
        self.skipped.set(skipped + 1);
        if skipped < MAX_NAMED {
            tracing::warn!(incident = id, reason = %why, "a damaged incident of the store is left out");
        }
    }

    /// Damaged incidents that were left out so far.
    pub fn skipped(&self) -> u64 {
        self.skipped.get()
    }

    /// Ids of the incidents that are wanted, oldest first; of those of which one is wanted, the newest first.
    ///
    /// # Errors
    /// Those of the database.
    pub fn ids(&self, wanted: &Wanted) -> Result<Vec<String>, StoreError> {
        let mut ids = Vec::new();
        self.each("id", wanted, |row| {
            // An id that is no text is nobody's.
            ids.extend(row.get::<_, String>(0).ok());
            Ok(())
        })?;
        Ok(ids)
    }

    /// What a daemon that starts again on this boot goes on with, oldest first ([`Stored`] of an older layout: nothing).
    ///
    /// # Errors
    /// Those of the database.
    pub fn states(&self, boot_id: &str) -> Result<Vec<String>, StoreError> {
        if self.layout < 2 {
            return Ok(Vec::new());
        }
        self.connection
            .prepare(
                "SELECT state FROM incident WHERE boot_id = ?1 AND state IS NOT NULL ORDER BY first_stored",
            )
            .and_then(|mut statement| {
                statement
                    .query_map([boot_id], |row| row.get(0))?
                    .filter(readable)
                    .collect()
            })
            .map_err(|err| failed(&self.path, err))
    }

    /// All that is stored of an incident; `None`: it is not there (any more).
    ///
    /// # Errors
    /// Those of the database, and a row that cannot be read.
    pub fn dossier(&self, id: &str) -> Result<Option<Dossier>, StoreError> {
        let seen = if self.layout >= 2 { "events_seen" } else { "0" };
        let sql = format!("SELECT host, incident, {seen} FROM incident WHERE id = ?1");
        let row: Option<(Vec<u8>, Vec<u8>, i64)> = self
            .connection
            .query_row(&sql, [id], |row| {
                Ok((bytes(row, 0), bytes(row, 1), row.get(2).unwrap_or(0)))
            })
            .optional()
            .map_err(|err| failed(&self.path, err))?;
        let Some((host, incident, seen)) = row else {
            return Ok(None);
        };
        let damaged = |err| self.damaged(id, err);
        // Read and written again: a row may be of schema version 1.
        let host: Host = parse(&host).map_err(damaged)?;
        let incident: Incident = parse(&incident).map_err(damaged)?;
        Ok(Some(Dossier {
            schema_version: SCHEMA_VERSION,
            host,
            incident,
            verdicts: self.verdicts(id)?,
            events_seen: u64::try_from(seen).unwrap_or(0),
            events: self.events(id)?,
        }))
    }

    /// The incident's verdicts, oldest first.
    ///
    /// # Errors
    /// Those of the database.
    pub fn verdicts(&self, id: &str) -> Result<Vec<Verdict>, StoreError> {
        if self.layout < 2 {
            return Ok(Vec::new());
        }
        let summary = if self.layout >= 3 { "summary" } else { "sentence" };
        self.connection
            .prepare(&format!(
                "SELECT n, at, outcome, cause, confidence, {summary} FROM verdict WHERE incident = ?1 ORDER BY n"
            ))
            .and_then(|mut statement| statement.query_map([id], read_verdict)?.filter(readable).collect())
            .map_err(|err| failed(&self.path, err))
    }

    /// The incident's events that were kept, in order.
    ///
    /// # Errors
    /// Those of the database, and an event that cannot be read.
    pub fn events(&self, id: &str) -> Result<Vec<KeptEvent>, StoreError> {
        if self.layout < 2 {
            return Ok(Vec::new());
        }
        let rows: Vec<(i64, String)> = self
            .connection
            .prepare("SELECT n, event FROM event WHERE incident = ?1 ORDER BY n")
            .and_then(|mut statement| {
                statement
                    .query_map([id], |row| Ok((row.get(0)?, row.get(1)?)))?
                    .filter(readable)
                    .collect()
            })
            .map_err(|err| failed(&self.path, err))?;
        rows.into_iter()
            .map(|(n, event)| {
                Ok(KeptEvent {
                    n: u64::try_from(n).unwrap_or(0),
                    event: serde_json::from_str(&event).map_err(|err| self.damaged(id, err))?,
                })
            })
            .collect()
    }

    fn each(
        &self,
        columns: &str,
        wanted: &Wanted,
        mut each: impl FnMut(&rusqlite::Row<'_>) -> rusqlite::Result<()>,
    ) -> Result<(), StoreError> {
        let newest;
        let (which, parameters): (&str, &[&String]) = match wanted {
            Wanted::All => ("ORDER BY first_stored", &[]),
            Wanted::Last => ("ORDER BY first_stored DESC LIMIT 1000", &[]),
            Wanted::Newest(most) => {
                newest = format!(
                    "WHERE id IN (SELECT id FROM incident ORDER BY first_stored DESC LIMIT {most}) ORDER BY first_stored"
                );
                (&newest, &[])
            }
            Wanted::Id(id) => ("WHERE id = ?1", &[id]),
            Wanted::Vm(name) => ("WHERE vm = ?1 ORDER BY first_stored DESC LIMIT 1000", &[name]),
        };
        let mut run = || {
            let mut statement = self
                .connection
                .prepare(&format!("SELECT {columns} FROM incident {which}"))?;
            let mut rows = statement.query(params_from_iter(parameters))?;
            while let Some(row) = rows.next()? {
                each(row)?;
            }
            Ok(())
        };
        run().map_err(|err| failed(&self.path, err))
    }

    fn damaged(&self, id: &str, source: serde_json::Error) -> StoreError {
        StoreError::Row {
            path: self.path.clone(),
            id: id.to_owned(),
            source,
        }
    }
}

/// A column's text, whatever kind of value a damaged row has there.
pub(super) fn bytes(row: &rusqlite::Row<'_>, column: usize) -> Vec<u8> {
    let value = row.get_ref(column).ok();
    let bytes = value.as_ref().and_then(|value| value.as_bytes().ok());
    bytes.unwrap_or_default().to_vec()
}

/// A document of the store. As text: reading bytes would build each type's reader into the binary a second time.
pub(super) fn parse<T: serde::de::DeserializeOwned>(document: &[u8]) -> serde_json::Result<T> {
    serde_json::from_str(str::from_utf8(document).map_err(serde::de::Error::custom)?)
}

/// Whether a row has the kinds of values that it should; errors of the database pass.
fn readable<T>(row: &rusqlite::Result<T>) -> bool {
    use rusqlite::Error::{FromSqlConversionFailure, IntegralValueOutOfRange, InvalidColumnType, Utf8Error};
    !matches!(
        row,
        Err(FromSqlConversionFailure(..)
            | IntegralValueOutOfRange(..)
            | InvalidColumnType(..)
            | Utf8Error(..))
    )
}

pub(super) fn failed(path: &Path, source: rusqlite::Error) -> StoreError {
    let path = path.to_owned();
    match is_damage(&source) {
        true => StoreError::Damaged {
            path,
            what: source.to_string(),
        },
        false => StoreError::Sqlite { path, source },
    }
}
