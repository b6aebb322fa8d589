//! What goes from the store: what is too old, then, while the whole is too large, incidents of the VM that has most of
//! them, so that a flood costs nobody but its VM. Open incidents do not go by age, and by size only of a VM that has more
//! than [`OPEN_KEPT`]. By the writer's own thread, a few incidents a transaction, so that nobody waits for it.

use std::{path::Path, time::Duration};

use rusqlite::Connection;

use super::{
    FILE, StoreError,
    schema::{self, PROCESS},
};
use crate::config;
use poisontrace_sources::host::machine;

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
const CHUNK: i64 = 64;
/// Incidents of one VM of which the open ones stay, however large the store is. A fifth of the smallest size that can be
/// set, for one VM; the incidents of all VMs that can be open are bounded by the model's table.
pub const OPEN_KEPT: i64 = 256;

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
    connection
        .query_row("SELECT unixepoch()", [], |row| row.get(0))
        .and_then(|now| prune_at(&connection, retention, machine::boot_id().as_deref(), now))
        .map_err(|source| StoreError::Sqlite { path, source })
}

/// Deletes what `retention` does not allow, as the daemon does. Returns how many incidents went.
///
/// Ages count up to the newest change in the store, not to a clock that may have jumped: after a start years ahead,
/// everything would be too old. Changes that are later than all before them by more than any is kept do not count either:
/// the first that is stored after a jump would delete the rest. Where nothing happens for so long, ages count up to now once
/// the clock is `confirmed` ([`super::clock_watch`]), or an operator runs `poisontrace incidents prune`.
///
/// `boot_id`: the boot whose incidents may still be open.
pub(super) fn prune(
    connection: &Connection,
    retention: Retention,
    boot_id: Option<&str>,
    confirmed: bool,
) -> rusqlite::Result<u64> {
    let (now, newest) = times(connection, retention)?;
    let at = if confirmed { now } else { now.min(newest) };
    prune_at(connection, retention, boot_id, at)
}

/// Days by which even the newest incident is older than any is kept: nothing was recorded for so long, or the clock has
/// jumped.
pub(super) fn stale_days(connection: &Connection, retention: Retention) -> rusqlite::Result<Option<u64>> {
    let (now, newest) = times(connection, retention)?;
    let age = u64::try_from(now.saturating_sub(newest)).unwrap_or(0);
    let over = age.checked_sub(retention.max_age.as_secs());
    Ok(over.filter(|over| *over > 0).map(|_| age / 86_400))
}

/// Now, and the newest change in the store before a jump of the clock, seconds since the epoch.
fn times(connection: &Connection, retention: Retention) -> rusqlite::Result<(i64, i64)> {
    let age = i64::try_from(retention.max_age.as_secs()).unwrap_or(i64::MAX);
    connection.query_row(
        "SELECT unixepoch(), coalesce(
             (SELECT min(before) FROM
                 (SELECT changed_at, lag(changed_at) OVER (ORDER BY changed_at) AS before FROM incident)
              WHERE changed_at - before > ?1),
             (SELECT max(changed_at) FROM incident))",
        [age],
        |row| {
            let now = row.get(0)?;
            Ok((now, row.get::<_, Option<i64>>(1)?.unwrap_or(now)))
        },
    )
}

/// Deletes what `retention` does not allow at `now`, seconds since the epoch.
fn prune_at(
    connection: &Connection,
    retention: Retention,
    boot_id: Option<&str>,
    now: i64,
) -> rusqlite::Result<u64> {
    let age = i64::try_from(retention.max_age.as_secs()).unwrap_or(i64::MAX);
    let before = now.saturating_sub(age);
    let mut gone = 0;
    loop {
        let n = connection.execute(
            "DELETE FROM incident WHERE id IN
                 (SELECT id FROM incident WHERE changed_at < ?1 AND NOT (state IS NOT NULL AND boot_id IS ?2)
                  ORDER BY changed_at LIMIT ?3)",
            (before, boot_id, CHUNK),
        )?;
        gone += n as u64;
        if n == 0 {
            break;
        }
    }
    while used_bytes(connection)? > retention.max_bytes {
        let n = make_room(connection, boot_id)?;
        gone += n;
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

/// Deletes incidents of the VM that has most of them: closed ones first, the longest unchanged first; of open ones the
/// newest, past [`OPEN_KEPT`]. Returns how many; 0: there is nothing left that may go.
fn make_room(connection: &Connection, boot_id: Option<&str>) -> rusqlite::Result<u64> {
    let by_size = format!(
        "SELECT boot_id, {PROCESS}, count(*) AS n FROM incident GROUP BY 1, 2 ORDER BY n DESC LIMIT 2"
    );
    let mut statement = connection.prepare_cached(&by_size)?;
    let largest = statement
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
        .collect::<rusqlite::Result<Vec<(Option<String>, i64, i64)>>>()?;
    let Some((boot, vm, count)) = largest.first() else {
        return Ok(0);
    };
    // Down to the size of the next, lest one VM pay for all.
    let next = largest.get(1).map_or(0, |(_, _, count)| *count);
    let chunk = (count - next).clamp(CHUNK / 8, CHUNK);
    let closed = format!(
        "DELETE FROM incident WHERE id IN
             (SELECT id FROM incident WHERE boot_id IS ?1 AND {PROCESS} = ?2 AND NOT (state IS NOT NULL AND boot_id IS ?3)
              ORDER BY changed_at, first_stored LIMIT ?4)"
    );
    let n = connection.execute(&closed, (boot, vm, boot_id, chunk))?;
    if n > 0 {
        return Ok(n as u64);
    }
    if *count > OPEN_KEPT {
        let open = format!(
            "DELETE FROM incident WHERE id IN
                 (SELECT id FROM incident WHERE boot_id IS ?1 AND {PROCESS} = ?2 ORDER BY first_stored DESC LIMIT ?3)"
        );
        let n = connection.execute(&open, (boot, vm, chunk.min(count - OPEN_KEPT)))?;
        return Ok(n as u64);
    }
    // The largest has none but open ones that stay: those of the others that are closed.
    let n = connection.execute(
        "DELETE FROM incident WHERE id IN
             (SELECT id FROM incident WHERE NOT (state IS NOT NULL AND boot_id IS ?1)
              ORDER BY changed_at, first_stored LIMIT ?2)",
        (boot_id, CHUNK / 8),
    )?;
    Ok(n as u64)
}

/// Bytes of the database that hold something.
pub(super) fn used_bytes(connection: &Connection) -> rusqlite::Result<u64> {
    let pragma = |name: &str| connection.query_row(&format!("PRAGMA {name}"), [], |row| row.get::<_, i64>(0));
    let pages = pragma("page_count")? - pragma("freelist_count")?;
    Ok(u64::try_from(pages * pragma("page_size")?).unwrap_or(0))
}
