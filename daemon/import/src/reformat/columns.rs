//! Rows of log viewers and spreadsheets: a record whose parts stand in columns, as the line that syslog writes.

use super::{
    csv,
    start::{date, named_date},
};

/// The words of a priority that a viewer shows in a column of its own.
const LEVELS: [&str; 17] = [
    "emerg",
    "emergency",
    "alert",
    "crit",
    "critical",
    "err",
    "error",
    "warn",
    "warning",
    "notice",
    "info",
    "information",
    "debug",
    "kern",
    "kernel:err",
    "user",
    "daemon",
];

/// `TIME  HOST  TAG  MESSAGE` in columns (tabs, `|`, quoted and with commas) as `TIME HOST TAG: MESSAGE`.
pub fn row(line: &[u8]) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(line).ok()?;
    let cells = if text.contains('\t') {
        text.split('\t')
            .map(|cell| cell.trim().trim_matches('"').to_owned())
            .collect()
    } else if let Some(inner) = text.trim().strip_prefix('|') {
        let inner = inner.strip_suffix('|').unwrap_or(inner);
        inner.split('|').map(|cell| cell.trim().to_owned()).collect()
    } else if text.trim_start().starts_with('"') {
        quoted(text.trim())?
    } else {
        return None;
    };
    let cells: Vec<&str> = cells
        .iter()
        .map(String::as_str)
        .filter(|cell| !cell.is_empty())
        .collect();
    let when = cells
        .iter()
        .position(|cell| date(cell.as_bytes()) || named_date(cell.as_bytes()))?;
    let (message, between) = cells.get(when + 1..)?.split_last()?;
    let names: Vec<&str> = between
        .iter()
        .copied()
        .filter(|cell| {
            !LEVELS.contains(&cell.to_lowercase().as_str()) && !cell.bytes().all(|b| b.is_ascii_digit())
        })
        .filter(|cell| cell.bytes().all(|b| b.is_ascii_graphic()))
        .collect();
    let time = cells.get(when)?;
    let time = if date(time.as_bytes()) {
        time.replacen([' ', ','], "T", 1)
    } else {
        (*time).to_owned()
    };
    let line = match names.as_slice() {
        [] => format!("{time} {message}"),
        [tag] => format!("{time} - {tag}: {message}"),
        [host, .., tag] => format!("{time} {host} {tag}: {message}"),
    };
    Some(line.into_bytes())
}

/// The cells of a row whose first is quoted (RFC 4180).
fn quoted(text: &str) -> Option<Vec<String>> {
    csv::cells(text, |c| matches!(c, ',' | ';')).filter(|cells| cells.len() > 1)
}

#[cfg(test)]
mod tests {
    use super::row;

    fn of(line: &str) -> Option<String> {
        row(line.as_bytes()).map(|row| String::from_utf8(row).unwrap())
    }

    #[test]
    fn columns_of_viewers() {
        let line = Some("2026-11-22T15:45:34 host1 kernel: Memory failure: 0x1: a, b".to_owned());
        for text in [
            "2026-11-22 15:45:34\thost1\tkernel\tMemory failure: 0x1: a, b",
            "| 2026-11-22 15:45:34 | host1 | kernel | err | Memory failure: 0x1: a, b |",
            "\"2026-11-22 15:45:34\",\"host1\",\"kernel\",\"3\",\"Memory failure: 0x1: a, b\"",
        ] {
            assert_eq!(of(text), line, "{text}");
        }
        assert_eq!(
            of("Nov 22 15:45:34\thost1\tqemu[7]\tx").as_deref(),
            Some("Nov 22 15:45:34 host1 qemu[7]: x")
        );
        assert_eq!(of("\"quoted, but no date\",x"), None);
        assert_eq!(of("a\tb"), None);
        assert_eq!(of("| a | b |"), None);
    }
}
