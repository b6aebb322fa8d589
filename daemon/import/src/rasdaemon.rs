//! rasdaemon's SQLite database, read only.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use rusqlite::{Connection, ErrorCode, OptionalExtension as _, Row, limits::Limit};

use super::text::{Item, clock, wordings::hardware::named};
use poisontrace_model::{
    event::log_statement::{LogStatement, MceReport, Role},
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

/// A table of rasdaemon (ras-record.c), the columns of it that are read after the row's time, and what a row of it states.
struct Table {
    name: &'static str,
    columns: &'static str,
    statement: fn(&Columns<'_, '_>) -> Option<LogStatement>,
}

/// In the order in which the kernel reports one error.
const TABLES: [Table; 4] = [
    Table {
        name: "mce_record",
        columns: "cpu, bank, status, addr, misc, mcgstatus, cs, ip",
        statement: machine_check,
    },
    Table {
        name: "memory_failure_event",
        columns: "pfn, page_type, action_result",
        statement: failure,
    },
    Table {
        name: "extlog_event",
        columns: "severity, address, fru_text, error_count",
        statement: firmware,
    },
    Table {
        name: "mc_event",
        columns: "err_type, address, label, err_count",
        statement: edac,
    },
];

/// The columns of a row after its time, from 0.
struct Columns<'a, 'b>(&'a Row<'b>);

impl Columns<'_, '_> {
    fn text(&self, column: usize) -> String {
        self.0.get(column + 1).unwrap_or_default()
    }

    /// SQLite's integers have a sign; the kernel's registers have none.
    fn number(&self, column: usize) -> Option<u64> {
        self.0.get::<_, i64>(column + 1).ok().map(i64::cast_unsigned)
    }
}

/// `memory_failure_event`.
fn failure(row: &Columns<'_, '_>) -> Option<LogStatement> {
    Some(LogStatement::HostAction {
        pfn: Hex(super::trace::hex(row.text(0).as_bytes())?),
        page_type: sanitise(&row.text(1), 64),
        result: sanitise(&row.text(2), 64),
    })
}

/// `mce_record`.
fn machine_check(row: &Columns<'_, '_>) -> Option<LogStatement> {
    let small = |column| row.number(column).and_then(|number| u32::try_from(number).ok());
    let status = row.number(2)?;
    let valid = |bit: u64, column| row.number(column).filter(|_| status & bit != 0).map(Hex);
    Some(LogStatement::HostMce(MceReport {
        cpu: small(0),
        bank: small(1),
        status: Some(Hex(status)),
        addr: valid(ADDRV, 3),
        misc: valid(MISCV, 4),
        mcg_status: row.number(5).map(Hex),
        cs: small(6),
        rip: row.number(7).filter(|rip| *rip != 0).map(Hex),
        ..MceReport::default()
    }))
}

/// MCi_STATUS: ADDR and MISC are valid.
const ADDRV: u64 = 1 << 58;
const MISCV: u64 = 1 << 59;

/// `extlog_event`, of the firmware's extended log.
fn firmware(row: &Columns<'_, '_>) -> Option<LogStatement> {
    /// CPER_SEV_CORRECTED (include/linux/cper.h).
    const CORRECTED: u64 = 2;
    Some(memory_error(
        row.number(1)?,
        &row.text(2),
        row.number(0) == Some(CORRECTED),
        row.number(3),
    ))
}

/// `mc_event`, of EDAC.
fn edac(row: &Columns<'_, '_>) -> Option<LogStatement> {
    let corrected = row.text(0).eq_ignore_ascii_case("corrected");
    Some(memory_error(
        row.number(1)?,
        &row.text(2),
        corrected,
        row.number(3),
    ))
}

/// An address or a label that is not known is 0, or says so.
fn memory_error(address: u64, label: &str, corrected: bool, count: Option<u64>) -> LogStatement {
    LogStatement::MemoryError {
        pfn: (address != 0).then_some(Hex(address >> PAGE_SHIFT)),
        dimm: Some(sanitise(label.trim(), 128)).filter(|label| named(label)),
        corrected,
        count,
    }
}

const PAGE_SHIFT: u32 = 12;

fn open(path: &Path) -> rusqlite::Result<Connection> {
    let db = open_immutable(path)?;
    db.set_limit(Limit::SQLITE_LIMIT_LENGTH, MAX_VALUE)?;
    db.execute_batch("PRAGMA trusted_schema = OFF; PRAGMA cell_size_check = ON;")?;
    let until = Instant::now() + PATIENCE;
    db.progress_handler(STEPS, Some(move || Instant::now() > until));
    Ok(db)
}

/// Whether what has the table's name is a table that holds rows: a view or a virtual table would run a program of its author.
/// As SQLite itself takes it, however the statement that made it is spelled.
fn is_table(db: &Connection, name: &str) -> rusqlite::Result<bool> {
    let kind: Option<String> = db
        .query_row(
            "SELECT type FROM pragma_table_list WHERE schema = 'main' AND name = ?1",
            [name],
            |row| row.get(0),
        )
        .optional()?;
    Ok(kind.is_some_and(|kind| kind == "table"))
}

/// What rasdaemon stored of memory: machine checks, failures of pages, errors that firmware and EDAC reported.
///
/// # Errors
/// A database that cannot be read, or that is not rasdaemon's.
pub fn read(path: &Path) -> Result<Vec<Item>, String> {
    let db = open(path).map_err(|err| err.to_string())?;
    let mut items = Vec::new();
    let mut found = false;
    for table in &TABLES {
        if is_table(&db, table.name).map_err(|err| err.to_string())? {
            found = true;
            read_table(&db, table, &mut items)?;
        }
    }
    if !found {
        let names = TABLES.map(|table| table.name).join(", ");
        return Err(format!("not a database of rasdaemon: it has no table of {names}"));
    }
    // Its times are whole seconds.
    items.sort_by_key(|item| item.stamp.wall);
    for (line, item) in (1..).zip(&mut items) {
        item.line = line;
    }
    Ok(items)
}

/// Adds the latest rows of a table, the oldest first.
fn read_table(db: &Connection, table: &Table, items: &mut Vec<Item>) -> Result<(), String> {
    let Table {
        name,
        columns,
        statement,
    } = table;
    let query = format!("SELECT timestamp, {columns} FROM {name} ORDER BY id DESC LIMIT ?1");
    let mut prepared = db
        .prepare(&query)
        .map_err(|err| format!("its table {name} is not rasdaemon's: {err}"))?;
    let mut rows = prepared.query([MAX_ROWS]).map_err(|err| err.to_string())?;
    let first = items.len();
    while let Some(row) = rows.next().map_err(|err| match err.sqlite_error_code() {
        Some(ErrorCode::OperationInterrupted) => {
            format!(
                "it takes longer than {} s to read: not a database that rasdaemon wrote",
                PATIENCE.as_secs()
            )
        }
        _ => err.to_string(),
    })? {
        let Some(statement) = statement(&Columns(row)) else {
            continue;
        };
        let time: String = row.get(0).unwrap_or_default();
        items.push(Item {
            order: 0,
            line: 0,
            stamp: clock::stamp(time.as_bytes(), time.len()),
            boot: None,
            host_boot: None,
            marks: 0,
            sender: 0,
            role: Role::Tool,
            text: String::new(),
            statement,
        });
    }
    items[first..].reverse();
    Ok(())
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

    /// The columns of Debian 12's rasdaemon 0.6.8, of a machine check as the lab's host has it.
    #[test]
    fn machine_checks_and_memory_modules_are_read_beside_the_failures() {
        let dir = tempfile::tempdir().unwrap();
        let path = database(
            dir.path(),
            "CREATE TABLE memory_failure_event (id INTEGER PRIMARY KEY, timestamp TEXT, pfn TEXT, page_type TEXT, action_result TEXT);
             CREATE TABLE mce_record (id INTEGER PRIMARY KEY, timestamp TEXT, mcgcap INTEGER, mcgstatus INTEGER, status INTEGER,
                 addr INTEGER, misc INTEGER, ip INTEGER, tsc INTEGER, walltime INTEGER, cpu INTEGER, cpuid INTEGER,
                 apicid INTEGER, socketid INTEGER, cs INTEGER, bank INTEGER, cpuvendor INTEGER);
             CREATE TABLE mc_event (id INTEGER PRIMARY KEY, timestamp TEXT, err_count INTEGER, err_type TEXT, err_msg TEXT,
                 label TEXT, mc INTEGER, top_layer INTEGER, middle_layer INTEGER, lower_layer INTEGER, address INTEGER,
                 grain INTEGER, syndrome INTEGER, driver_detail TEXT);
             INSERT INTO memory_failure_event VALUES (1, '2026-11-22 15:45:34 +0000', '0x109d3', 'dirty LRU page', 'Recovered');
             INSERT INTO mce_record (timestamp, mcgstatus, status, addr, misc, ip, cpu, cs, bank)
                 VALUES ('2026-11-22 15:45:34 +0000', 0, -7205733015513726976, 278736896, 140, 0, 0, 0, 1);
             INSERT INTO mc_event (timestamp, err_count, err_type, label, address)
                 VALUES ('2026-11-22 15:45:35 +0000', 1, 'Uncorrected', 'CPU_SrcID#0_MC#0_Chan#1_DIMM#0', 278736896);
             INSERT INTO mc_event (timestamp, err_count, err_type, label, address)
                 VALUES ('2026-11-22 15:45:36 +0000', 3, 'Corrected', 'any memory', 0);",
        );
        let statements: Vec<_> = read(&path)
            .unwrap()
            .into_iter()
            .map(|item| item.statement)
            .collect();
        assert_eq!(
            statements,
            [
                LogStatement::HostMce(MceReport {
                    cpu: Some(0),
                    bank: Some(1),
                    status: Some(Hex(0x9c00_1800_0000_0000)),
                    addr: Some(Hex(0x109d_3000)),
                    misc: Some(Hex(0x8c)),
                    mcg_status: Some(Hex(0)),
                    cs: Some(0),
                    ..MceReport::default()
                }),
                LogStatement::HostAction {
                    pfn: Hex(0x109d3),
                    page_type: "dirty LRU page".to_owned(),
                    result: "Recovered".to_owned(),
                },
                LogStatement::MemoryError {
                    pfn: Some(Hex(0x109d3)),
                    dimm: Some("CPU_SrcID#0_MC#0_Chan#1_DIMM#0".to_owned()),
                    corrected: false,
                    count: Some(1),
                },
                LogStatement::MemoryError {
                    pfn: None,
                    dimm: None,
                    corrected: true,
                    count: Some(3),
                },
            ]
        );
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
    fn a_virtual_table_is_none_however_it_is_spelled() {
        let dir = tempfile::tempdir().unwrap();
        // A comment in the statement: only who writes the schema by hand has it there.
        let spelled = "CREATE VIRTUAL TABLE memory_failure_event USING fts5(id, timestamp, pfn, page_type, action_result);
             INSERT INTO memory_failure_event VALUES (1, 'a', '0x1', 'b', 'c');
             PRAGMA writable_schema = ON;
             UPDATE sqlite_schema SET sql = replace(sql, 'CREATE VIRTUAL', 'CREATE/**/VIRTUAL')
                 WHERE name = 'memory_failure_event';";
        let refused = read(&database(dir.path(), spelled)).unwrap_err();
        assert!(refused.contains("no table"), "{refused}");
    }

    #[test]
    fn triggers_do_not_run_and_rows_too_large_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = database(
            dir.path(),
            "CREATE TABLE memory_failure_event (id INTEGER PRIMARY KEY, timestamp TEXT, pfn TEXT, page_type TEXT, action_result TEXT);
             CREATE TABLE noted (n);
             CREATE TRIGGER t AFTER INSERT ON memory_failure_event BEGIN INSERT INTO noted VALUES (new.id); END;
             INSERT INTO memory_failure_event VALUES (1, '2026-11-22 15:45:34 +0000', '0x109d3', 'dirty LRU page', 'Recovered');",
        );
        assert_eq!(read(&path).unwrap().len(), 1);
        let db = Connection::open(&path).unwrap();
        db.execute_batch(
            "INSERT INTO memory_failure_event VALUES (2, 'a', '0x2', hex(zeroblob(50000000)), 'c');",
        )
        .unwrap();
        drop(db);
        let began = Instant::now();
        assert!(read(&path).is_err(), "no half of the rows");
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
