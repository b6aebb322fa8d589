//! Lines of a file that may hold anything: bytes, bounded, with their numbers.

use std::io::{self, BufRead};

/// What is kept of a line; the rest of a longer one is skipped.
pub const MAX_LINE: usize = 64 * 1024;

/// Reads line after line. A line ends with a line feed, a carriage return, or any number of these before a line feed.
pub struct Physical<R> {
    input: R,
    number: u64,
    /// The line before ended with a carriage return: what belongs to its end is skipped.
    returned: bool,
    /// No line feed so far: carriage returns count lines.
    only_returns: bool,
}

impl<R: BufRead> Physical<R> {
    pub fn new(input: R) -> Self {
        Self {
            input,
            number: 0,
            returned: false,
            only_returns: true,
        }
    }

    /// The number of the line read last, from 1.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The begin of the next line, as far as it has been read.
    pub fn peek(&mut self) -> &[u8] {
        const ENOUGH: usize = 160;
        let buffer = self.input.fill_buf().unwrap_or_default().trim_ascii_start();
        let line = &buffer[..buffer.len().min(ENOUGH)];
        &line[..memchr::memchr2(b'\n', b'\r', line).unwrap_or(line.len())]
    }

    /// Reads the next line into `line`; `false` at the end.
    ///
    /// # Errors
    /// Those of the file.
    pub fn advance(&mut self, line: &mut Vec<u8>) -> io::Result<bool> {
        line.clear();
        let mut any = false;
        let mut counts = !self.returned || self.only_returns;
        loop {
            let buffer = match self.input.fill_buf() {
                Ok(buffer) => buffer,
                Err(err) if err.kind() == io::ErrorKind::Interrupted => continue,
                Err(err) => return Err(err),
            };
            if buffer.is_empty() {
                break;
            }
            if self.returned {
                let rest = buffer.iter().position(|b| *b != b'\r');
                let fed = rest.is_some_and(|at| buffer[at] == b'\n');
                self.returned = rest.is_none();
                self.only_returns &= !fed;
                counts |= fed;
                let skipped = rest.map_or(buffer.len(), |at| at + usize::from(fed));
                self.input.consume(skipped);
                continue;
            }
            any = true;
            let end = memchr::memchr2(b'\n', b'\r', buffer);
            let upto = end.unwrap_or(buffer.len());
            let room = MAX_LINE.saturating_sub(line.len());
            line.extend_from_slice(&buffer[..upto.min(room)]);
            self.returned = end.is_some_and(|end| buffer[end] == b'\r');
            self.only_returns &= end.is_none() || self.returned;
            self.input.consume(end.map_or(upto, |end| end + 1));
            if end.is_some() {
                break;
            }
        }
        self.number += u64::from(any && counts);
        Ok(any)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(bytes: &[u8], buffer: usize) -> Vec<(u64, Vec<u8>)> {
        let mut lines = Physical::new(io::BufReader::with_capacity(buffer, bytes));
        let mut line = Vec::new();
        let mut all = Vec::new();
        while lines.advance(&mut line).unwrap() {
            all.push((lines.number(), line.clone()));
        }
        all
    }

    fn text(bytes: &[u8]) -> Vec<(u64, String)> {
        let of = |buffer| -> Vec<_> {
            let all = lines(bytes, buffer).into_iter();
            all.map(|(n, line)| (n, String::from_utf8(line).unwrap()))
                .collect()
        };
        assert_eq!(of(1), of(100));
        of(100)
    }

    #[test]
    fn a_line_without_end_is_cut_and_the_next_is_whole() {
        let mut bytes = vec![b'x'; 3 * MAX_LINE];
        bytes.extend(b"\nnext\r\r\n\nlast");
        let all = lines(&bytes, 100);
        assert_eq!((all[0].0, all[0].1.len()), (1, MAX_LINE));
        let rest: Vec<(u64, &[u8])> = all[1..].iter().map(|(n, line)| (*n, line.as_slice())).collect();
        assert_eq!(rest, [(2, &b"next"[..]), (3, b""), (4, b"last")]);
    }

    #[test]
    fn a_carriage_return_ends_a_line_and_counts_where_there_is_no_other_end() {
        let numbered = |all: &[(u64, &str)]| -> Vec<(u64, String)> {
            all.iter().map(|(n, line)| (*n, (*line).to_owned())).collect()
        };
        assert_eq!(text(b"a\rb\rc"), numbered(&[(1, "a"), (2, "b"), (3, "c")]));
        assert_eq!(text(b"a\r\nb\r\n"), numbered(&[(1, "a"), (2, "b")]));
        // A console's progress stands in one line of the file.
        assert_eq!(
            text(b"a\n1%\r2%\nb\n"),
            numbered(&[(1, "a"), (2, "1%"), (2, "2%"), (3, "b")])
        );
        assert_eq!(text(b""), []);
        assert_eq!(text(b"\n\r"), numbered(&[(1, ""), (2, "")]));
    }
}
