//! The writer's end of the database: one transaction a batch.

use std::{
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use rusqlite::{Connection, OptionalExtension as _, Transaction, params};

use super::{
    FILE, StoreError,
    queue::{EventRow, Queue, Row, Verdict},
    sample, schema,
};

/// Verdicts kept of one incident; past them the last one is replaced.
const MAX_VERDICTS: i64 = 256;

/// See the module.
pub struct Database {
    pub(super) connection: Connection,
    path: PathBuf,
    /// Device and inode of the file that is open.
    file: Option<(u64, u64)>,
    host: String,
    boot_id: Option<String>,
}

impl Database {
    /// Opens the store in `dir`. A file that is no store, or a damaged one, is set aside under a name of its own.
    ///
    /// # Errors
    /// What must be mended before anything can be written.
    pub fn open(
        dir: &Path,
        host: &str,
        boot_id: Option<&str>,
    ) -> Result<(Self, Option<PathBuf>), StoreError> {
        let mut aside = None;
        let connection = match schema::open(dir) {
            Err(err) if err.spoils_the_file() => {
                let name = schema::set_aside(dir)?;
                tracing::error!(
                    reason = %err,
                    set_aside = %name.display(),
                    "the store cannot be used: it is set aside and a new one begun"
                );
                aside = Some(name);
                schema::open(dir)?
            }
            other => other?,
        };
        let path = dir.join(FILE);
        let database = Self {
            connection,
            file: identity(&path),
            path,
            host: host.to_owned(),
            boot_id: boot_id.map(str::to_owned),
        };
        Ok((database, aside))
    }

    pub(super) fn boot_id(&self) -> Option<&str> {
        self.boot_id.as_deref()
    }

    /// Whether the file in the state directory is still the one that is open: somebody may have moved it.
    pub fn in_place(&self) -> bool {
        self.file.is_some() && identity(&self.path) == self.file
    }

    /// Writes a batch, all of it or nothing.
    ///
    /// # Errors
    /// Those of the database.
    pub fn write(&mut self, batch: &Queue) -> Result<(), StoreError> {
        let wrap = |source| StoreError::Sqlite {
            path: self.path.clone(),
            source,
        };
        let transaction = self.connection.transaction().map_err(wrap)?;
        write_all(&transaction, batch, &self.host, self.boot_id.as_deref())
            .and_then(|()| transaction.commit())
            .map_err(wrap)
    }
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

fn write_all(t: &Transaction<'_>, batch: &Queue, host: &str, boot_id: Option<&str>) -> rusqlite::Result<()> {
    let mut rows: Vec<(&String, &Row)> = batch.rows.iter().collect();
    rows.sort_by_key(|(_, row)| row.seq);
    for (id, row) in rows {
        incident(t, id, row, host, boot_id)?;
        for verdict in &row.verdicts {
            history(t, id, verdict)?;
        }
    }
    for event in &batch.events {
        sampled(t, event)?;
    }
    Ok(())
}

fn incident(
    t: &Transaction<'_>,
    id: &str,
    row: &Row,
    host: &str,
    boot_id: Option<&str>,
) -> rusqlite::Result<()> {
    t.prepare_cached(
        "INSERT INTO incident (id, vm, started_at, first_stored, changed_at, events_seen, boot_id, state, host, incident)
         VALUES (?1, ?2, ?3, (SELECT coalesce(max(first_stored), 0) + 1 FROM incident), unixepoch(), ?4, ?5, ?6, ?7, ?8)
         ON CONFLICT (id) DO UPDATE SET
             vm = excluded.vm, started_at = excluded.started_at, changed_at = excluded.changed_at,
             events_seen = excluded.events_seen, boot_id = excluded.boot_id, state = excluded.state,
             incident = excluded.incident",
    )?
    .execute(params![
        id,
        row.vm,
        row.started_at,
        i64::try_from(row.events_seen).unwrap_or(i64::MAX),
        boot_id,
        row.state,
        host,
        row.json
    ])
    .map(|_| ())
}

/// Adds to an incident's history what differs from its last entry.
fn history(t: &Transaction<'_>, id: &str, verdict: &Verdict) -> rusqlite::Result<()> {
    let last: Option<(i64, Verdict)> = t
        .prepare_cached(
            "SELECT n, at, outcome, cause, confidence, summary FROM verdict WHERE incident = ?1 ORDER BY n DESC LIMIT 1",
        )?
        .query_row([id], |row| Ok((row.get(0)?, read_verdict(row)?)))
        .optional()?;
    let n = match &last {
        Some((_, last)) if last.same(verdict) => return Ok(()),
        Some((n, _)) => (n + 1).min(MAX_VERDICTS),
        None => 1,
    };
    t.prepare_cached("INSERT OR REPLACE INTO verdict VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)")?
        .execute(params![
            id,
            n,
            verdict.at,
            verdict.outcome,
            verdict.cause,
            verdict.confidence,
            verdict.summary
        ])
        .map(|_| ())
}

/// A verdict from the columns after the first.
pub(super) fn read_verdict(row: &rusqlite::Row<'_>) -> rusqlite::Result<Verdict> {
    Ok(Verdict {
        at: row.get(1)?,
        outcome: row.get(2)?,
        cause: row.get(3)?,
        confidence: row.get(4)?,
        summary: row.get(5)?,
    })
}

/// An event of an incident that is stored (one of a process that turned out to run no guest is not).
fn sampled(t: &Transaction<'_>, event: &EventRow) -> rusqlite::Result<()> {
    debug_assert!(sample::kept(event.n));
    t.prepare_cached(
        "INSERT OR REPLACE INTO event SELECT ?1, ?2, ?3 WHERE EXISTS (SELECT 1 FROM incident WHERE id = ?1)",
    )?
    .execute(params![
        event.incident,
        i64::try_from(event.n).unwrap_or(i64::MAX),
        event.json
    ])
    .map(|_| ())
}
