//! Tables of values as collectors export them: the first row names the columns, so that each further row is a record whose
//! host, time and message are known.

use serde_json::{Map, Value};

use super::envelope::{self, Content};

/// Longest row of names, and how many.
const MAX_HEAD: usize = 1024;
const MAX_CELLS: usize = 64;

/// The columns of one table.
pub struct Table {
    separator: char,
    names: Vec<String>,
}

impl Table {
    /// The table that begins with this line.
    pub fn begin(line: &[u8]) -> Option<Self> {
        // Names hold no blanks, almost all other lines do.
        if line.len() > MAX_HEAD || memchr::memchr(b' ', line).is_some() {
            return None;
        }
        let text = std::str::from_utf8(line)
            .ok()?
            .trim_start_matches('\u{feff}')
            .trim_end();
        let separator = [',', ';', '\t'].into_iter().find(|mark| text.contains(*mark))?;
        let mut names = cells(text, |c| c == separator)?;
        let of_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '@');
        let named = |name: &String| !name.is_empty() && name.chars().all(of_name);
        if names.len() < 2 || !names.iter().all(named) {
            return None;
        }
        // Graylog's column of the host; of others it is a file.
        if !names.iter().any(|name| name.to_lowercase().contains("host"))
            && let Some(source) = names.iter_mut().find(|name| *name == "source")
        {
            "host".clone_into(source);
        }
        let whole = names
            .iter()
            .map(|name| (name.clone(), Value::String("x".to_owned())));
        let content = envelope::of_map(&whole.collect())?;
        let known = content.origin.host.is_some() || content.origin.label.is_some();
        let dated = names.iter().any(|name| envelope::is_time(name));
        (known || dated).then_some(Self { separator, names })
    }

    /// A row's line.
    pub fn row(&self, line: &[u8]) -> Option<Content> {
        let text = std::str::from_utf8(line).ok()?;
        let mut cells = cells(text.trim_end(), |c| c == self.separator)?;
        if cells.len() > self.names.len() && !text.trim_end().ends_with('"') {
            // A last cell without quotation marks may hold the mark that separates.
            let last = cells.split_off(self.names.len() - 1);
            cells.push(last.join(&self.separator.to_string()));
        }
        if cells.len() != self.names.len() {
            return None;
        }
        let map: Map<String, Value> = self
            .names
            .iter()
            .cloned()
            .zip(cells.into_iter().map(Value::String))
            .collect();
        let content = envelope::of_map(&map)?;
        Some(Content {
            partial: false,
            ..content
        })
    }
}

/// The cells of a row (RFC 4180); `None`: a quoted one goes on on the next line.
pub fn cells(text: &str, separates: impl Fn(char) -> bool) -> Option<Vec<String>> {
    let mut cells = Vec::new();
    let mut cell = String::new();
    let mut inside = false;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' if inside && chars.peek() == Some(&'"') => {
                chars.next();
                cell.push('"');
            }
            // Some write a blank after the mark that separates.
            '"' if inside || cell.trim_start().is_empty() => inside = !inside,
            c if !inside && separates(c) => {
                cells.push(std::mem::take(&mut cell));
                if cells.len() > MAX_CELLS {
                    return None;
                }
            }
            c => cell.push(c),
        }
    }
    cells.push(cell);
    (!inside).then_some(cells)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(head: &str, row: &str) -> Option<(Option<String>, String)> {
        let content = Table::begin(head.as_bytes())?.row(row.as_bytes())?;
        let host = content.origin.host.map(|host| host.to_string());
        Some((host, String::from_utf8(content.text).unwrap()))
    }

    #[test]
    fn quoted_cells_hold_the_marks_that_separate() {
        let row = |text| cells(text, |c| matches!(c, ',' | ';')).map(|cells| cells.join("|"));
        assert_eq!(row("\"a\",\"b, \"\"c\"\"\"").as_deref(), Some("a|b, \"c\""));
        assert_eq!(row("\"a\"; \"b, c\"").as_deref(), Some("a| b, c"));
        assert_eq!(row("a,5\" disk").as_deref(), Some("a|5\" disk"));
        assert_eq!(row("\"a,b"), None);
    }

    #[test]
    fn the_host_the_time_and_the_line_of_a_row() {
        let h1 = Some("h1".to_owned());
        for (head, row, line) in [
            (
                "\"@timestamp\",\"host.name\",message",
                "\"Nov 22, 2026 @ 15:45:34.000\",\"h1\",\"a \"\"b\"\", c\"",
                "2026-11-22T15:45:34.000 a \"b\", c",
            ),
            ("host,message", "h1,a, b", "a, b"),
            (
                "timestamp\tsource\tmessage",
                "2026-11-22T15:45:34.000Z\th1\ta",
                "2026-11-22T15:45:34.000Z a",
            ),
            (
                "\"_time\",host,source,\"_raw\"",
                "\"2026-11-22T15:45:34.000+0000\",h1,\"/var/log/kern.log\",\"a\"",
                "2026-11-22T15:45:34.000+0000 a",
            ),
        ] {
            assert_eq!(of(head, row), Some((h1.clone(), line.to_owned())), "{head}");
        }
    }

    #[test]
    fn other_lines_begin_no_table() {
        for line in [
            "a,b",
            "qemu-system-x86_64,message,",
            "[1.5],message",
            "message",
            "see host, message",
            "",
        ] {
            assert!(Table::begin(line.as_bytes()).is_none(), "{line}");
        }
        assert_eq!(of("host,message", "h1"), None);
    }
}
