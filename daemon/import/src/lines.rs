//! Lines of a file that may hold anything: bytes, bounded, with their numbers.

use std::io::{self, BufRead};

/// What is kept of a line; the rest of a longer one is skipped.
const MAX_LINE: usize = 64 * 1024;

/// Reads line after line into one buffer.
pub struct Lines<R> {
    input: R,
    line: Vec<u8>,
    number: u64,
}

impl<R: BufRead> Lines<R> {
    pub fn new(input: R) -> Self {
        Self {
            input,
            line: Vec::with_capacity(512),
            number: 0,
        }
    }

    /// The line read last, without its end.
    pub fn line(&self) -> &[u8] {
        &self.line
    }

    /// Its number, from 1.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Reads the next line; `false` at the end.
    ///
    /// # Errors
    /// Those of the file.
    pub fn advance(&mut self) -> io::Result<bool> {
        self.line.clear();
        let mut any = false;
        loop {
            let buffer = match self.input.fill_buf() {
                Ok(buffer) => buffer,
                Err(err) if err.kind() == io::ErrorKind::Interrupted => continue,
                Err(err) => return Err(err),
            };
            if buffer.is_empty() {
                break;
            }
            any = true;
            let end = memchr::memchr(b'\n', buffer);
            let upto = end.unwrap_or(buffer.len());
            let room = MAX_LINE.saturating_sub(self.line.len());
            self.line.extend_from_slice(&buffer[..upto.min(room)]);
            self.input.consume(end.map_or(upto, |end| end + 1));
            if end.is_some() {
                break;
            }
        }
        while self.line.last() == Some(&b'\r') {
            self.line.pop();
        }
        self.number += u64::from(any);
        Ok(any)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_without_end_is_cut_and_the_next_is_whole() {
        let mut bytes = vec![b'x'; 3 * MAX_LINE];
        bytes.extend(b"\nnext\r\r\n\nlast");
        let mut lines = Lines::new(io::BufReader::with_capacity(100, bytes.as_slice()));
        assert!(lines.advance().unwrap());
        assert_eq!(lines.line().len(), MAX_LINE);
        for (number, expected) in [(2, "next"), (3, ""), (4, "last")] {
            assert!(lines.advance().unwrap());
            assert_eq!((lines.number(), lines.line()), (number, expected.as_bytes()));
        }
        assert!(!lines.advance().unwrap());
    }
}
