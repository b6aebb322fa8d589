//! What stands before lines and is of no known shape. Where the same stands before several lines it names who sent them, and so
//! does what has the shape of names; other words before one line are somebody's output that ran into it.

use std::collections::HashMap;

use super::label;

/// Columns of one file that are remembered.
const MAX_COLUMNS: usize = 1024;
/// Longest column.
const MAX_LEN: usize = 96;

/// Words that name nobody: dates, levels, the prompt of a console.
const WORDS: [&str; 40] = [
    "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec", "mon", "tue", "wed",
    "thu", "fri", "sat", "sun", "utc", "gmt", "cet", "emerg", "alert", "crit", "err", "error", "warn",
    "warning", "notice", "info", "debug", "kern", "kernel", "msg", "message", "level", "t", "z", "stdout",
];

/// What is known of the columns of one file.
#[derive(Default)]
pub struct Columns {
    /// The line where each stood first, until it stands before another.
    seen: HashMap<String, Option<u64>>,
}

/// What a column is.
#[derive(Debug, PartialEq, Eq)]
pub enum Column {
    /// It names nobody, or has been seen once.
    Nothing,
    /// It names who sent this line; `first`: the line where it stood first, if that was not known before.
    Name { name: String, first: Option<u64> },
}

impl Columns {
    /// Takes what stands before line `number`.
    pub fn line(&mut self, number: u64, before: &[u8]) -> Column {
        let Some(name) = name(before) else {
            return Column::Nothing;
        };
        if self.seen.len() >= MAX_COLUMNS && !self.seen.contains_key(&name) {
            return Column::Nothing;
        }
        match self.seen.get_mut(&name) {
            None if name.split(' ').all(|word| label::is_name(word.as_bytes())) => {
                self.seen.insert(name.clone(), None);
                Column::Name { name, first: None }
            }
            None => {
                self.seen.insert(name, Some(number));
                Column::Nothing
            }
            // The same line is looked at again.
            Some(Some(first)) if *first == number => Column::Nothing,
            Some(first) => Column::Name {
                name,
                first: first.take(),
            },
        }
    }
}

/// The words of a column that stay the same from line to line.
fn name(before: &[u8]) -> Option<String> {
    if before.is_empty() || before.len() > MAX_LEN {
        return None;
    }
    let text = String::from_utf8_lossy(before).to_lowercase();
    let apart = |c: char| c.is_whitespace() || "[](){}<>|,;:=\"'`@*#>".contains(c);
    let words: Vec<&str> = text
        .split(apart)
        .filter(|word| word.chars().any(char::is_alphabetic) && !WORDS.contains(word))
        .filter(|word| !is_time(word))
        .collect();
    let prompt = words.iter().any(|word| matches!(*word, "login" | "password"));
    (!words.is_empty() && !prompt).then(|| words.join(" "))
}

/// `2026-11-22t10`, `00z`: parts of a date.
fn is_time(word: &str) -> bool {
    word.chars()
        .all(|c| c.is_ascii_digit() || matches!(c, 't' | 'z' | '-' | '+' | '.' | '/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_recurs_before_lines_names_their_sender() {
        let mut columns = Columns::default();
        assert_eq!(columns.line(3, b"10:00:01 alpha, "), Column::Nothing);
        let again = Column::Name {
            name: "alpha".to_owned(),
            first: Some(3),
        };
        assert_eq!(columns.line(5, b"10:00:02 alpha, "), again);
        let third = Column::Name {
            name: "alpha".to_owned(),
            first: None,
        };
        assert_eq!(columns.line(6, b"10:00:03 alpha, "), third);
        assert_eq!(columns.line(7, b"VMM op=mov mode="), Column::Nothing);
        let at_once = |name: &str| Column::Name {
            name: name.to_owned(),
            first: None,
        };
        assert_eq!(columns.line(8, b"10:00:02 hv-a, "), at_once("hv-a"));
        assert_eq!(
            columns.line(9, b"n2.example.org node1: "),
            at_once("n2.example.org node1")
        );
    }

    #[test]
    fn dates_levels_and_prompts_name_nobody() {
        for before in [
            "Nov 22 10:00:00 ",
            "2026-11-22T10:00:00Z ERROR ",
            "| 3 | ",
            "db-7 login: ",
            "",
        ] {
            assert_eq!(name(before.as_bytes()), None, "{before}");
        }
    }
}
