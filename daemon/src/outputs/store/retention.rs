//! What goes from the store: what is too old, then the oldest while the whole is too large. By the writer's own
//! thread, a few incidents a transaction, so that nobody waits for it.

use std::{path::Path, time::Duration};

use rusqlite::Connection;

use super::{FILE, StoreError, schema};
use crate::config;

/// How long, and how much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Since the incident last changed.
    pub max_age: Duration,
    /// Of the database's used pages.
    pub max_bytes: u64,
}

impl From<&config::Store> for Retention {
    fn from(settings: &config::Store) -> Self {
        Self {
            max_age: Duration::from_secs(u64::from(settings.max_age_days) * 86_400),
            max_bytes: u64::from(settings.max_megabytes) << 20,
        }
    }
}

/// Incidents of one transaction.
const CHUNK: u32 = 64;

/// Prunes the store in `dir`, with the daemon running or not. Returns how many incidents went.
///
/// # Errors
/// No store there, or one that cannot be written to.
pub fn prune_dir(dir: &Path, retention: Retention) -> Result<u64, StoreError> {
    let path = dir.join(FILE);
    if !path.exists() {
        return Err(StoreError::Absent(dir.to_owned()));
    }
    let connection = schema::open(dir)?;
    prune(&connection, retention).map_err(|source| StoreError::Sqlite { path, source })
}

/// Deletes what `retention` does not allow. Returns how many incidents went.
pub(super) fn prune(connection: &Connection, retention: Retention) -> rusqlite::Result<u64> {
    let age = i64::try_from(retention.max_age.as_secs()).unwrap_or(i64::MAX);
    let mut gone = 0;
    loop {
        let n = connection.execute(
            "DELETE FROM incident WHERE id IN
                 (SELECT id FROM incident WHERE changed_at < unixepoch() - ?1 ORDER BY changed_at LIMIT ?2)",
            (age, CHUNK),
        )?;
        gone += n as u64;
        if n == 0 {
            break;
        }
    }
    while used_bytes(connection)? > retention.max_bytes {
        let n = connection.execute(
            "DELETE FROM incident WHERE id IN (SELECT id FROM incident ORDER BY changed_at, first_stored LIMIT ?1)",
            [CHUNK / 8],
        )?;
        gone += n as u64;
        if n == 0 {
            break;
        }
    }
    if gone > 0 {
        // Gives the pages back where the file was made by layout 2; else they are used again. Each step frees one.
        let mut statement = connection.prepare("PRAGMA incremental_vacuum")?;
        let mut steps = statement.query([])?;
        while steps.next()?.is_some() {}
    }
    Ok(gone)
}

/// Bytes of the database that hold something.
pub(super) fn used_bytes(connection: &Connection) -> rusqlite::Result<u64> {
    let pragma = |name: &str| connection.query_row(&format!("PRAGMA {name}"), [], |row| row.get::<_, i64>(0));
    let pages = pragma("page_count")? - pragma("freelist_count")?;
    Ok(u64::try_from(pages * pragma("page_size")?).unwrap_or(0))
}
