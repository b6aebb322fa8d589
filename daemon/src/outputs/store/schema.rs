//! Opening the database: the layout, its migrations, and what becomes of a file that is none of ours.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use rusqlite::{Connection, OpenFlags, OptionalExtension as _};
use rustix::{fs::OFlags, io::Errno};

use super::{FILE, LAYOUT, StoreError, error::is_damage};

/// The VM of a row, beside its boot: the process number in the id (see [`super::vm_of`]). Indexed with the boot.
pub(super) const PROCESS: &str = "CAST(substr(id, instr(id, '-') + 1) AS INTEGER)";

/// `PRAGMA application_id` from layout 2 on: "ptrc".
const APPLICATION: i64 = 0x7074_7263;
/// How long a reader waits for a writer, and the other way round.
pub const BUSY: Duration = Duration::from_secs(5);
/// Guest addresses break the guest's KASLR: not for everybody to read.
const MODE: u32 = 0o640;
const DIRECTORY_MODE: u32 = 0o750;

const CREATE: &str = "
    CREATE TABLE incident (
        id TEXT PRIMARY KEY,
        vm TEXT,
        started_at TEXT,
        first_stored INTEGER NOT NULL,
        changed_at INTEGER NOT NULL,
        events_seen INTEGER NOT NULL DEFAULT 0,
        boot_id TEXT,
        state TEXT,
        host TEXT NOT NULL,
        incident TEXT NOT NULL
    );";

/// What layout 2 adds beside the table `incident`.
const ADD_2: &str = "
    CREATE TABLE verdict (
        incident TEXT NOT NULL REFERENCES incident (id) ON DELETE CASCADE,
        n INTEGER NOT NULL,
        at TEXT,
        outcome TEXT NOT NULL,
        cause TEXT NOT NULL,
        confidence TEXT NOT NULL,
        sentence TEXT NOT NULL,
        PRIMARY KEY (incident, n)
    ) WITHOUT ROWID;
    CREATE TABLE event (
        incident TEXT NOT NULL REFERENCES incident (id) ON DELETE CASCADE,
        n INTEGER NOT NULL,
        event TEXT NOT NULL,
        PRIMARY KEY (incident, n)
    ) WITHOUT ROWID;
    CREATE INDEX incident_changed ON incident (changed_at);
    PRAGMA user_version = 2;
    PRAGMA application_id = 0x70747263;";

const INDICES: &str = "
    CREATE INDEX IF NOT EXISTS incident_arrived ON incident (first_stored);
    CREATE INDEX IF NOT EXISTS incident_vm ON incident (vm, first_stored);";

/// Layout 1 had one table, without these columns. The verdict as it stood is the history's first entry.
const FROM_1: &str = "
    ALTER TABLE incident ADD COLUMN changed_at INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE incident ADD COLUMN events_seen INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE incident ADD COLUMN boot_id TEXT;
    ALTER TABLE incident ADD COLUMN state TEXT;
    UPDATE incident SET changed_at = unixepoch();";
const HISTORY_FROM_1: &str = "
    INSERT INTO verdict (incident, n, at, outcome, cause, confidence, sentence)
    SELECT id, 1, NULL, incident ->> '$.outcome', incident ->> '$.cause', incident ->> '$.confidence',
           incident ->> '$.sentence'
    FROM incident WHERE json_valid(incident) AND incident ->> '$.outcome' IS NOT NULL
        AND incident ->> '$.cause' IS NOT NULL AND incident ->> '$.confidence' IS NOT NULL
        AND incident ->> '$.sentence' IS NOT NULL;";

/// Layout 3 keeps incidents of schema version 2; those of version 1 stay as they are and are read as version 2. An older
/// daemon refuses the layout rather than the rows.
const FROM_2: &str = "
    ALTER TABLE verdict RENAME COLUMN sentence TO summary;
    PRAGMA user_version = 3;";

/// Makes the state directory where there is none.
///
/// # Errors
/// It cannot be made.
pub(super) fn make_folder(dir: &Path) -> io::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(DIRECTORY_MODE)
        .create(dir)
}

/// Opens or creates the store in `dir`, which is created too, and brings it to [`LAYOUT`].
///
/// # Errors
/// A directory or file that cannot be made or written to; a file that is no store of ours or damaged
/// ([`StoreError::spoils_the_file`]), which is left as it was.
pub fn open(dir: &Path) -> Result<Connection, StoreError> {
    make_folder(dir).map_err(|err| StoreError::Directory(dir.to_owned(), err))?;
    // Its own name may be a link (systemd's DynamicUser= makes one); SQLite follows none below.
    let dir = &fs::canonicalize(dir).map_err(|err| StoreError::Directory(dir.to_owned(), err))?;
    ours_alone(dir).map_err(|err| StoreError::Directory(dir.to_owned(), err))?;
    let path = dir.join(FILE);
    // Made by us, so that there is no moment at which it is readable by others; SQLite gives -wal and -shm the
    // same mode.
    let file = fs::File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(MODE)
        .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
        .open(&path)
        .map_err(
            |err| match err.raw_os_error() == Some(Errno::LOOP.raw_os_error()) {
                true => io::Error::other("it is a symbolic link: remove it"),
                false => err,
            },
        )
        .map_err(|err| StoreError::Directory(path.clone(), err))?;
    looks_like_sqlite(&file, &path)?;
    // A file of somebody else's who may write here would keep its mode.
    let _ = file.set_permissions(fs::Permissions::from_mode(MODE));
    drop(file);
    let wrap = |source: rusqlite::Error| match is_damage(&source) {
        true => StoreError::Damaged {
            path: path.clone(),
            what: source.to_string(),
        },
        false => StoreError::Sqlite {
            path: path.clone(),
            source,
        },
    };
    let flags = OpenFlags::default() | OpenFlags::SQLITE_OPEN_NOFOLLOW;
    let mut connection = Connection::open_with_flags(&path, flags).map_err(wrap)?;
    connection.busy_timeout(BUSY).map_err(wrap)?;
    let version = version(&connection).map_err(wrap)?;
    match version {
        0 if tables(&connection).map_err(wrap)? == 0 => {}
        1..=LAYOUT => {
            check(&connection, &path, version)?;
        }
        0 => return Err(StoreError::Foreign(path, "other tables in it".to_owned())),
        found => return Err(StoreError::Layout { path, found }),
    }
    // FULL: a commit is on the disk when it returns (WAL is synced at each commit).
    connection
        .execute_batch("PRAGMA auto_vacuum = INCREMENTAL; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON; PRAGMA cache_size = -1024; PRAGMA journal_size_limit = 4194304;")
        .map_err(wrap)?;
    if version != LAYOUT {
        migrate(&mut connection, version).map_err(wrap)?;
        if version != 0 {
            tracing::info!(path = %path.display(), from = version, to = LAYOUT, "the store is brought to a newer layout");
        }
    }
    // No part of the layout: without them the order of arrival and a VM are looked for in all of the file.
    connection.execute_batch(INDICES).map_err(wrap)?;
    connection
        .execute_batch(&format!(
            "CREATE INDEX IF NOT EXISTS incident_process ON incident (boot_id, {PROCESS})"
        ))
        .map_err(wrap)?;
    Ok(connection)
}

/// Whoever may write to the directory can put other files under the store's names.
fn ours_alone(dir: &Path) -> io::Result<()> {
    let meta = fs::metadata(dir)?;
    if meta.mode() & 0o002 != 0 {
        return Err(io::Error::other("others may write to it: chmod o-w"));
    }
    let us = rustix::process::geteuid().as_raw();
    if meta.uid() != us && meta.uid() != 0 {
        return Err(io::Error::other(format!(
            "it belongs to user {}, who could replace the store: chown it",
            meta.uid()
        )));
    }
    Ok(())
}

fn migrate(connection: &mut Connection, from: i64) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    match from {
        0 => {
            transaction.execute_batch(CREATE)?;
            transaction.execute_batch(ADD_2)?;
        }
        1 => {
            transaction.execute_batch(FROM_1)?;
            transaction.execute_batch(ADD_2)?;
            transaction.execute_batch(HISTORY_FROM_1)?;
        }
        _ => {}
    }
    transaction.execute_batch(FROM_2)?;
    transaction.commit()
}

/// The layout's version; 0: none.
///
/// # Errors
/// Those of the database.
pub fn version(connection: &Connection) -> rusqlite::Result<i64> {
    connection.query_row("PRAGMA user_version", [], |row| row.get(0))
}

/// How many tables and indices there are.
///
/// # Errors
/// Those of the database.
pub fn tables(connection: &Connection) -> rusqlite::Result<i64> {
    connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
}

/// An empty file is a new store; anything else must begin as SQLite's do, before SQLite itself touches it.
fn looks_like_sqlite(file: &fs::File, path: &Path) -> Result<(), StoreError> {
    use io::Read as _;
    const MAGIC: &[u8] = b"SQLite format 3\0";
    let mut head = Vec::new();
    file.take(MAGIC.len() as u64)
        .read_to_end(&mut head)
        .map_err(|err| StoreError::Unreadable(path.to_owned(), err))?;
    if head.is_empty() || head == MAGIC {
        return Ok(());
    }
    Err(StoreError::Foreign(
        path.to_owned(),
        "not an SQLite file".to_owned(),
    ))
}

/// Whether the tables of this version are there, and whole.
fn check(connection: &Connection, path: &Path, version: i64) -> Result<(), StoreError> {
    let damaged = |err: rusqlite::Error| match is_damage(&err) {
        true => StoreError::Damaged {
            path: path.to_owned(),
            what: err.to_string(),
        },
        false => StoreError::Sqlite {
            path: path.to_owned(),
            source: err,
        },
    };
    let foreign = |what: &str| StoreError::Foreign(path.to_owned(), what.to_owned());
    let application: i64 = connection
        .query_row("PRAGMA application_id", [], |row| row.get(0))
        .map_err(damaged)?;
    if version >= 2 && application != APPLICATION {
        return Err(foreign("another program's"));
    }
    for table in ["incident", "verdict", "event"] {
        let there = connection
            .query_row(
                "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?1",
                [table],
                |_| Ok(()),
            )
            .optional()
            .map_err(damaged)?;
        if there.is_none() && (version >= 2 || table == "incident") {
            return Err(foreign("its tables are not those of poisontrace"));
        }
    }
    let found: String = connection
        .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
        .map_err(damaged)?;
    if found != "ok" {
        return Err(StoreError::Damaged {
            path: path.to_owned(),
            what: poisontrace_model::text::sanitise(&found, 200),
        });
    }
    Ok(())
}

/// Moves a file that is no store of ours, and SQLite's own beside it, out of the way. Returns its new name.
///
/// # Errors
/// If it cannot be renamed.
pub fn set_aside(dir: &Path) -> Result<PathBuf, StoreError> {
    let path = dir.join(FILE);
    let stamp = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%SZ").to_string();
    let name = |n: u32| match n {
        0 => format!("{FILE}.set-aside-{stamp}"),
        n => format!("{FILE}.set-aside-{stamp}-{n}"),
    };
    // Never over another: the first name that is free.
    let aside = (0..1000)
        .map(|n| dir.join(name(n)))
        .find(|aside| fs::symlink_metadata(aside).is_err())
        .ok_or_else(|| StoreError::SetAside(path.clone(), io::ErrorKind::AlreadyExists.into()))?;
    for suffix in ["-wal", "-shm"] {
        let (from, to) = (with(&path, suffix), with(&aside, suffix));
        match fs::rename(&from, &to) {
            Err(err) if err.kind() != io::ErrorKind::NotFound => return Err(StoreError::SetAside(from, err)),
            _ => {}
        }
    }
    fs::rename(&path, &aside).map_err(|err| StoreError::SetAside(path, err))?;
    Ok(aside)
}

fn with(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
