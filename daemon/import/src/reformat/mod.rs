//! What mailers, forums, containers and viewers make of a log, taken back: the lines of one source as its programs wrote
//! them, each with the lines of the file that it stands on. A plain log passes through as it is.

mod columns;
mod csv;
mod dates;
mod dress;
mod envelope;
mod escapes;
mod json;
mod kubevirt;
mod margin;
mod markup;
mod names;
mod patch;
mod physical;
mod quoted_printable;
mod shape;
mod source;
mod start;
mod tracker;
mod unwrap;
pub mod utf16;
mod wordings;

use std::{
    collections::VecDeque,
    io::{self, BufRead},
};

use crate::origin::Origin;
pub use source::Marks;
use source::{Piece, Source};
use unwrap::{Joined, Widths};

/// Lines of one wording.
const MAX_PARTS: usize = 12;
/// Notices that are kept; later ones are counted.
const MAX_NOTICES: usize = 16;
/// What is shown of a line.
const MAX_SHOWN: usize = 120;

/// A known wording that is not whole: its line looks cut or wrapped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LooksCut {
    /// Number of the line, from 1.
    pub line: u64,
    /// In its own words.
    pub text: String,
}

impl LooksCut {
    /// The addresses and page frames that it shows as a whole: the last word may be cut.
    pub fn addresses(&self) -> impl Iterator<Item = u64> + '_ {
        let shown = self.text.trim_end();
        let end = shown.rfind(' ').unwrap_or(0);
        let words = shown[..end].split(|c: char| c.is_whitespace() || matches!(c, ',' | ':'));
        words.filter_map(|word| u64::from_str_radix(word.strip_prefix("0x")?, 16).ok())
    }
}

/// The lines of one source.
pub struct Reader<R> {
    source: Source<R>,
    /// The line given last.
    current: Piece,
    /// The line read ahead.
    ahead: Option<Piece>,
    /// Lines that were tried as parts of a wording and are none.
    again: VecDeque<Piece>,
    /// A line's memory, to be used again.
    spare: Piece,
    widths: Widths,
    notices: Vec<LooksCut>,
    more_notices: u64,
}

impl<R: BufRead> Reader<R> {
    /// Reads records of `input`.
    pub fn new(input: R) -> Self {
        Self {
            source: Source::new(input),
            current: Piece::default(),
            ahead: None,
            again: VecDeque::new(),
            spare: Piece::default(),
            widths: Widths::default(),
            notices: Vec::new(),
            more_notices: 0,
        }
    }

    /// The line given last.
    pub fn line(&self) -> &[u8] {
        &self.current.text
    }

    /// The number of the line of the file on which it begins, from 1.
    pub fn number(&self) -> u64 {
        self.current.first
    }

    /// The number of the line of the file on which it ends.
    pub fn last_number(&self) -> u64 {
        self.current.last
    }

    /// What the record that it came out of names.
    pub fn origin(&self) -> &Origin {
        &self.current.origin
    }

    /// What was done to it.
    pub fn marks(&self) -> Marks {
        self.current.marks
    }

    /// Lines of the file that were read.
    pub fn lines_read(&self) -> u64 {
        self.source.lines_read()
    }

    /// Known wordings that are not whole, and how many more there are.
    pub fn notices(&self) -> (&[LooksCut], u64) {
        (&self.notices, self.more_notices)
    }

    /// Reads the next line; `false` at the end.
    ///
    /// # Errors
    /// Those of the file.
    pub fn advance(&mut self) -> io::Result<bool> {
        let mut line = match self.ahead.take() {
            Some(line) => line,
            None => match self.fetch()? {
                Some(line) => line,
                None => return Ok(false),
            },
        };
        // The parts of a wording that is not whole yet, after the first.
        let mut parts: Vec<Piece> = Vec::new();
        let mut begun: Option<Piece> = None;
        while let Some(next) = self.fetch()? {
            let joined = match parts.len() < MAX_PARTS {
                true => self.join(&line, &next),
                false => None,
            };
            let Some(Joined { text, whole }) = joined else {
                self.ahead = Some(next);
                break;
            };
            let before = Piece {
                text,
                first: line.first,
                last: next.last,
                width: next.width,
                starts: line.starts,
                dressed: line.dressed,
                traced: line.traced,
                marks: line.marks | next.marks | Marks::REJOINED,
                origin: line.origin.clone(),
            };
            let before = std::mem::replace(&mut line, before);
            if whole {
                parts.clear();
                begun = None;
            } else {
                begun.get_or_insert(before);
                parts.push(next);
            }
        }
        if let Some(first) = begun {
            // It never became whole: its lines are what they are.
            let ahead = self.ahead.take();
            for part in parts.into_iter().chain(ahead).rev() {
                self.again.push_front(part);
            }
            line = first;
        }
        line.undress();
        self.look_for_cuts(&mut line);
        self.spare = std::mem::replace(&mut self.current, line);
        Ok(true)
    }

    fn fetch(&mut self) -> io::Result<Option<Piece>> {
        if let Some(piece) = self.again.pop_front() {
            return Ok(Some(piece));
        }
        let mut piece = std::mem::take(&mut self.spare);
        Ok(self.source.next(&mut piece)?.then_some(piece))
    }

    fn join(&mut self, line: &Piece, next: &Piece) -> Option<Joined> {
        if line.origin != next.origin {
            return None;
        }
        if next.starts {
            return unwrap::announces(&line.text, &next.text).then(|| Joined {
                text: [line.text.trim_ascii_end(), b" ", &next.text].concat(),
                whole: true,
            });
        }
        if next.dressed || next.text.is_empty() {
            return None;
        }
        if line.traced {
            return unwrap::of_trace(&line.text, line.width, &next.text);
        }
        unwrap::join(&line.text, line.width, &next.text, &mut self.widths)
    }

    fn look_for_cuts(&mut self, line: &mut Piece) {
        if line.traced || line.text.first() == Some(&b'{') {
            return;
        }
        let text = line.text.trim_ascii_end();
        // In the middle of a sentence the words are somebody's prose.
        let a_message = |at: usize| {
            let before = text[..at].trim_ascii();
            before.is_empty() || line.starts || before.ends_with(b":") || before.ends_with(b"]")
        };
        let cut = wordings::hits(text)
            .any(|hit| (hit.fit == shape::Fit::Cut || hit.maybe_cut) && a_message(hit.at));
        if !cut {
            return;
        }
        line.marks = line.marks | Marks::CUT;
        if self.notices.len() >= MAX_NOTICES {
            self.more_notices += 1;
            return;
        }
        self.notices.push(LooksCut {
            line: line.first,
            text: poisontrace_model::text::sanitise(&String::from_utf8_lossy(&line.text), MAX_SHOWN),
        });
    }
}

#[cfg(test)]
mod tests;
