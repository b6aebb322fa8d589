//! rasdaemon's SQLite database, read only.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use rusqlite::{Connection, ErrorCode, OptionalExtension as _, limits::Limit};

use super::text::{Item, clock};
use poisontrace_model::{
    event::log_statement::{LogStatement, Role},
    hex::Hex,
    text::sanitise,
};
use poisontrace_sqlite::open_immutable;

/// Rows that are read of it, the latest.
const MAX_ROWS: u32 = 16_384;
/// Longest value: the file may be anybody's, and a column can be computed.
const MAX_VALUE: i32 = 64 << 10;
/// How long it may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Steps of SQLite's machine between two looks at the clock.
const STEPS: std::ffi::c_int = 10_000;
const TABLE: &str = "memory_failure_event";

fn open(path: &Path) -> rusqlite::Result<Connection> {
    let db = open_immutable(path)?;
    db.set_limit(Limit::SQLITE_LIMIT_LENGTH, MAX_VALUE)?;
    db.execute_batch("PRAGMA trusted_schema = OFF; PRAGMA cell_size_check = ON;")?;
    let until = Instant::now() + PATIENCE;
    db.progress_handler(STEPS, Some(move || Instant::now() > until));
    Ok(db)
}

/// Whether what has the table's name is a table that holds rows: a view or a virtual table would run a program of its author.
fn is_table(db: &Connection) -> rusqlite::Result<bool> {
    let found: Option<(String, String)> = db
        .query_row(
            "SELECT type, sql FROM sqlite_schema WHERE name = ?1",
            [TABLE],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
        .optional()?;
    Ok(found.is_some_and(|(kind, sql)| {
        kind == "table"
            && !sql
                .trim_start()
                .to_ascii_lowercase()
                .starts_with("create virtual")
    }))
}

/// The failures of pages that rasdaemon stored.
///
/// # Errors
/// A database that cannot be read, or that is not rasdaemon's.
pub fn read(path: &Path) -> Result<Vec<Item>, String> {
    let db = open(path).map_err(|err| err.to_string())?;
    if !is_table(&db).map_err(|err| err.to_string())? {
        return Err(format!(
            "not a database of rasdaemon with memory failures: it has no table {TABLE}"
        ));
    }
    let mut statement = db
        .prepare(
            "SELECT timestamp, pfn, page_type, action_result FROM memory_failure_event ORDER BY id DESC LIMIT ?1",
        )
        .map_err(|err| format!("not a database of rasdaemon with memory failures: {err}"))?;
    let mut rows = statement.query([MAX_ROWS]).map_err(|err| err.to_string())?;
    let mut items = Vec::new();
    while let Some(row) = rows.next().map_err(|err| match err.sqlite_error_code() {
        Some(ErrorCode::OperationInterrupted) => {
            format!(
                "it takes longer than {} s to read: not a database that rasdaemon wrote",
                PATIENCE.as_secs()
            )
        }
        _ => err.to_string(),
    })? {
        let text = |column: usize| row.get::<_, String>(column).unwrap_or_default();
        let time = text(0);
        let Some(pfn) = super::trace::hex(text(1).as_bytes()) else {
            continue;
        };
        items.push(Item {
            order: 0,
            line: items.len() as u64 + 1,
            stamp: clock::stamp(time.as_bytes(), time.len()),
            sender: 0,
            role: Role::Tool,
            text: String::new(),
            statement: LogStatement::HostAction {
                pfn: Hex(pfn),
                page_type: sanitise(&text(2), 64),
                result: sanitise(&text(3), 64),
            },
        });
    }
    items.reverse();
    Ok(items)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn database(dir: &Path, sql: &str) -> std::path::PathBuf {
        let path = dir.join("ras mc%3f#.db");
        Connection::open(&path).unwrap().execute_batch(sql).unwrap();
        path
    }

    fn files(dir: &Path) -> usize {
        std::fs::read_dir(dir).unwrap().count()
    }

    #[test]
    fn rows_of_the_table_are_read_and_nothing_is_left_beside_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = database(
            dir.path(),
            "CREATE TABLE memory_failure_event (id INTEGER PRIMARY KEY, timestamp TEXT, pfn TEXT, page_type TEXT, action_result TEXT);
             INSERT INTO memory_failure_event VALUES (1, '2026-11-22 15:45:34 +0000', '0x109d3', 'dirty LRU page', 'Recovered');
             PRAGMA journal_mode = WAL;",
        );
        let before = files(dir.path());
        assert_eq!(read(&path).unwrap().len(), 1);
        assert_eq!(files(dir.path()), before, "neither -wal nor -shm");
    }

    #[test]
    fn a_view_or_a_column_that_computes_is_not_run() {
        let columns = "'a' AS timestamp, '0x1' AS pfn, 'b' AS page_type, 'c' AS action_result";
        let endless = format!(
            "CREATE VIEW memory_failure_event AS WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c)
             SELECT x AS id, {columns} FROM c;"
        );
        let dir = tempfile::tempdir().unwrap();
        let began = Instant::now();
        let refused = read(&database(dir.path(), &endless)).unwrap_err();
        assert!(refused.contains("no table"), "{refused}");
        let large = "CREATE TABLE memory_failure_event (id INTEGER PRIMARY KEY, timestamp TEXT, pfn TEXT, page_type TEXT,
                         action_result TEXT AS (hex(zeroblob(100000000))));
                     INSERT INTO memory_failure_event VALUES (1, 'a', '0x1', 'b');";
        let dir = tempfile::tempdir().unwrap();
        assert!(read(&database(dir.path(), large)).is_err());
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    }

    #[test]
    fn a_database_that_takes_for_ever_is_given_up() {
        let dir = tempfile::tempdir().unwrap();
        let path = database(
            dir.path(),
            "CREATE TABLE memory_failure_event (id INTEGER PRIMARY KEY);",
        );
        let db = open(&path).unwrap();
        let began = Instant::now();
        let endless =
            "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT count(*) FROM c";
        let ended = db.query_row(endless, [], |_| Ok(())).unwrap_err();
        assert_eq!(ended.sqlite_error_code(), Some(ErrorCode::OperationInterrupted));
        assert!(began.elapsed() < 3 * PATIENCE);
    }
}
