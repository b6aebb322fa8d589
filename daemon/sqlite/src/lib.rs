//! SQLite databases that nobody writes to, for all who read them: the store's reader and the import of rasdaemon's.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

use std::{ffi::OsStr, os::unix::ffi::OsStrExt as _, path::Path};

use rusqlite::{Connection, OpenFlags};

/// Opens the file as it stands (`immutable=1`, <https://sqlite.org/uri.html>): without locks, and without making a journal
/// beside it.
///
/// # Errors
/// Those of the database.
pub fn open_immutable(path: &Path) -> rusqlite::Result<Connection> {
    let mut uri = b"file:".to_vec();
    for byte in path.as_os_str().as_bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'.' | b'_' | b'-' => uri.push(*byte),
            other => uri.extend_from_slice(format!("%{other:02x}").as_bytes()),
        }
    }
    uri.extend_from_slice(b"?immutable=1");
    let flags =
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_URI;
    Connection::open_with_flags(OsStr::from_bytes(&uri), flags)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn a_database_of_any_name_is_read_and_leaves_nothing_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("50 % of #1?mode=rwc.db");
        let made = Connection::open(&path).unwrap();
        made.execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE a (b); INSERT INTO a VALUES (7);")
            .unwrap();
        made.close().unwrap();
        let db = open_immutable(&path).unwrap();
        let b: i64 = db.query_row("SELECT b FROM a", [], |row| row.get(0)).unwrap();
        assert_eq!(b, 7);
        db.execute_batch("INSERT INTO a VALUES (8)").unwrap_err();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
