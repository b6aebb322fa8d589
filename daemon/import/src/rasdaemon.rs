//! rasdaemon's SQLite database, read only.

use std::path::Path;

use rusqlite::{Connection, OpenFlags};

use super::text::{Item, clock};
use poisontrace_model::{
    event::log_statement::{LogStatement, Role},
    hex::Hex,
    text::sanitise,
};

/// Rows that are read of it, the latest.
const MAX_ROWS: u32 = 16_384;

/// The failures of pages that rasdaemon stored.
///
/// # Errors
/// A database that cannot be read, or that is not rasdaemon's.
pub fn read(path: &Path) -> Result<Vec<Item>, String> {
    let db = Connection::open_with_flags(
        path,
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )
    .map_err(|err| err.to_string())?;
    let mut statement = db
        .prepare(
            "SELECT timestamp, pfn, page_type, action_result FROM memory_failure_event ORDER BY id DESC LIMIT ?1",
        )
        .map_err(|err| format!("not a database of rasdaemon with memory failures: {err}"))?;
    let mut rows = statement.query([MAX_ROWS]).map_err(|err| err.to_string())?;
    let mut items = Vec::new();
    while let Some(row) = rows.next().map_err(|err| err.to_string())? {
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
