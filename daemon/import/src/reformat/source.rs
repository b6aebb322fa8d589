//! The lines of one source, each out of what it was put into: markup, quoting, margins, records of containers.

use std::{
    collections::VecDeque,
    io::{self, BufRead},
};

use super::{
    columns, csv, dates, dress,
    envelope::{self, Content},
    escapes,
    json::{Next, Object},
    margin, markup, patch,
    physical::{MAX_LINE, Physical},
    quoted_printable as qp,
    start::{self, Begins},
    tracker,
};
use crate::origin::Origin;

/// What was done to a line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Marks(u8);

impl Marks {
    /// Put together of several lines.
    pub const REJOINED: Self = Self(1);
    /// Quoted by a mailer.
    pub const QUOTED: Self = Self(2);
    /// Out of markup, a record or columns.
    pub const DECODED: Self = Self(4);
    /// A known wording of it is not whole.
    pub const CUT: Self = Self(8);

    /// Whether all of the other are in it.
    pub fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

impl std::ops::BitOr for Marks {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// A line, and where it stands.
#[derive(Clone, Debug, Default)]
pub struct Piece {
    pub text: Vec<u8>,
    pub first: u64,
    pub last: u64,
    /// How wide the last line of it was in the file.
    pub width: usize,
    /// A record begins with it.
    pub starts: bool,
    /// A record begins inside of what somebody put around the line.
    pub dressed: bool,
    /// It is a record of a trace.
    pub traced: bool,
    pub marks: Marks,
    /// What the record that it came out of names.
    pub origin: Origin,
}

impl Piece {
    fn clear(&mut self) {
        self.text.clear();
        self.origin = Origin::default();
        self.marks = Marks::default();
        self.starts = false;
        self.dressed = false;
        self.traced = false;
    }

    /// Takes off what stands around a whole line, once no other line goes on with it.
    pub fn undress(&mut self) {
        if self.traced || self.starts && !dress::may_end(&self.text) {
            return;
        }
        // An object, or a record of firmware: `{1}[Hardware Error]: …`.
        if self.text.first() == Some(&b'{') && !self.text.get(1).is_some_and(u8::is_ascii_alphabetic) {
            return;
        }
        if let Some((before, line)) = dress::undress(&self.text, self.starts) {
            if let Some(name) = dress::name(before)
                && self.origin.label.is_none()
            {
                self.origin.label = Some(String::from_utf8_lossy(name).into());
            } else {
                self.origin.column = Some(String::from_utf8_lossy(before).into());
            }
            self.text = line;
        } else {
            let end = match self.starts {
                true => dress::without_end(&self.text).len(),
                false => dress::without_line_end(&self.text).len(),
            };
            if end == self.text.trim_ascii_end().len() {
                return;
            }
            self.text.truncate(end);
        }
        self.marks = self.marks | Marks::DECODED;
        self.classify();
    }

    fn classify(&mut self) {
        let begins = start::begins(&self.text);
        self.starts = begins != Begins::Nothing;
        self.traced = begins == Begins::Traced;
    }
}

/// What became of the begin of an object.
enum Gathered {
    /// It is none.
    None,
    Whole,
    /// It did not end: its lines are lines by themselves.
    GivenUp(Vec<Piece>),
}

pub struct Source<R> {
    lines: Physical<R>,
    /// Lines out of one line of the file.
    split: VecDeque<Piece>,
    /// Lines that were tried as an object of JSON.
    given_up: VecDeque<Piece>,
    /// The same, of lines that a container's records hold.
    lines_inside: VecDeque<Piece>,
    /// A container's line that goes on.
    begun: Option<Piece>,
    /// A mail's header states that its text is quoted-printable.
    encoded: bool,
    over: bool,
    margins: margin::Margins,
    patch: patch::Patch,
    table: Option<csv::Table>,
}

impl<R: BufRead> Source<R> {
    pub fn new(input: R) -> Self {
        Self {
            lines: Physical::new(input),
            split: VecDeque::new(),
            given_up: VecDeque::new(),
            lines_inside: VecDeque::new(),
            begun: None,
            encoded: false,
            over: false,
            margins: margin::Margins::default(),
            patch: patch::Patch::default(),
            table: None,
        }
    }

    pub fn lines_read(&self) -> u64 {
        self.lines.number()
    }

    /// Reads the next line into `piece`; `false` at the end.
    ///
    /// # Errors
    /// Those of the file.
    pub fn next(&mut self, piece: &mut Piece) -> io::Result<bool> {
        loop {
            if let Some(line) = self.lines_inside.pop_front() {
                *piece = line;
                return Ok(true);
            }
            if !self.record(piece)? {
                return Ok(false);
            }
            // An object that a container's lines hold.
            if !piece.marks.has(Marks::DECODED) || !opens(&piece.text) {
                return Ok(true);
            }
            let read = |source: &mut Self, line: &mut Piece| {
                let more = source.record(line)?;
                let inner = envelope::without_time(&line.text).len();
                line.text.drain(..line.text.len() - inner);
                Ok(more)
            };
            match self.object(piece, read)? {
                Gathered::None | Gathered::Whole => return Ok(true),
                Gathered::GivenUp(lines) => self.lines_inside.extend(lines),
            }
        }
    }

    /// A line of the file, or out of a container's record.
    fn record(&mut self, piece: &mut Piece) -> io::Result<bool> {
        loop {
            if let Some(line) = self.given_up.pop_front() {
                *piece = line;
            } else {
                if !self.raw(piece)? {
                    return Ok(self.end(piece));
                }
                if let Gathered::GivenUp(lines) = self.object(piece, Self::raw)? {
                    self.given_up.extend(lines);
                    continue;
                }
            }
            if self.contained(piece) {
                return Ok(true);
            }
        }
    }

    /// The file is over: what a container began is a line.
    fn end(&mut self, piece: &mut Piece) -> bool {
        match self.begun.take() {
            Some(begun) => {
                *piece = begun;
                piece.classify();
                true
            }
            None => false,
        }
    }

    /// A line of the file, without markup, escapes, quoting and margins.
    fn raw(&mut self, piece: &mut Piece) -> io::Result<bool> {
        if let Some(line) = self.split.pop_front() {
            *piece = line;
            self.plain(piece);
            return Ok(true);
        }
        piece.clear();
        if self.over || !self.lines.advance(&mut piece.text)? {
            self.over = true;
            return Ok(false);
        }
        piece.first = self.lines.number();
        piece.last = piece.first;
        piece.width = piece.text.len();
        let special = self.encoded || memchr::memchr3(b'<', b'&', b'=', &piece.text).is_some();
        if special {
            self.decode(piece)?;
        }
        if special && markup::has_markup(&piece.text) {
            piece.marks = piece.marks | Marks::DECODED;
            let (first, last, marks) = (piece.first, piece.last, piece.marks);
            let mut lines = markup::lines(&piece.text).into_iter().map(|text| Piece {
                width: text.len(),
                text,
                first,
                last,
                marks,
                ..Piece::default()
            });
            if let Some(line) = lines.next() {
                *piece = line;
            }
            self.split.extend(lines);
        }
        if self.tabular(piece) {
            return Ok(true);
        }
        if let Some(lines) = tracker::joined(&piece.text) {
            piece.marks = piece.marks | Marks::DECODED;
            let mut lines = lines.into_iter().map(|text| Piece {
                width: usize::MAX,
                text,
                ..piece.clone()
            });
            let first = lines.next();
            let rest: Vec<Piece> = lines.collect();
            // Those of the file's line that markup split off stand behind them.
            rest.into_iter()
                .rev()
                .for_each(|line| self.split.push_front(line));
            *piece = first.unwrap_or_default();
        }
        self.plain(piece);
        Ok(true)
    }

    /// Takes the line out of the row of a table.
    fn tabular(&mut self, piece: &mut Piece) -> bool {
        if let Some(table) = csv::Table::begin(&piece.text) {
            self.table = Some(table);
            return false;
        }
        let Some(content) = self.table.as_ref().and_then(|table| table.row(&piece.text)) else {
            return false;
        };
        piece.text = content.text;
        piece.origin = content.origin;
        piece.width = usize::MAX;
        piece.marks = piece.marks | Marks::DECODED;
        self.complete(piece);
        true
    }

    /// Quoted-printable text; its lines that go on are read.
    fn decode(&mut self, piece: &mut Piece) -> io::Result<()> {
        if !self.encoded && !qp::encoded(&piece.text) {
            return Ok(());
        }
        let mut next = Vec::new();
        while qp::soft_break(&piece.text) || (piece.text.last() == Some(&b'=') && piece.last > piece.first) {
            if piece.text.len() > MAX_LINE || !self.lines.advance(&mut next)? {
                break;
            }
            piece.text.pop();
            piece.text.extend_from_slice(&next);
            piece.last = self.lines.number();
        }
        piece.text = qp::decode(&piece.text).into_owned();
        piece.width = usize::MAX;
        piece.marks = piece.marks | Marks::DECODED;
        Ok(())
    }

    fn plain(&mut self, piece: &mut Piece) {
        escapes::strip_in_place(&mut piece.text);
        dress::plain_blanks(&mut piece.text);
        tracker::strip(&mut piece.text);
        if matches!(piece.text.first(), Some(b'>' | b'|')) || piece.text.starts_with(b" >") {
            let (quoted, rest) = margin::unquote(&piece.text);
            if quoted {
                let from = piece.text.len() - rest.len();
                piece.text.drain(..from);
                piece.marks = piece.marks | Marks::QUOTED;
            }
        }
        if self.patch.line(&piece.text) {
            piece.text.clear();
        }
        if piece.text.len() > 24
            && let Some(encoded) = qp::declared(&piece.text)
        {
            self.encoded = encoded;
        }
        piece.classify();
        if !piece.starts && dates::plain(&mut piece.text) {
            piece.classify();
        }
        if piece.starts {
            // Indented as code is; a trace's tasks stand in columns.
            if !piece.traced && piece.text.first().is_some_and(u8::is_ascii_whitespace) {
                let blanks = piece.text.iter().take_while(|b| b.is_ascii_whitespace()).count();
                piece.text.drain(..blanks);
            }
            return;
        }
        if let Some((file, rest)) = self.margins.strip(&piece.text, self.lines.peek()) {
            piece.origin.label = file.map(|file| String::from_utf8_lossy(file).into());
            let from = piece.text.len() - rest.len();
            piece.text.drain(..from);
            piece.marks = piece.marks | Marks::DECODED;
            piece.classify();
        } else {
            piece.starts = margin::relayed(&piece.text);
        }
        piece.dressed = !piece.starts && dress::begins_dressed(&piece.text);
    }

    /// Gathers the object of JSON that begins in `piece`, of lines that `read` gives.
    fn object(
        &mut self,
        piece: &mut Piece,
        read: impl Fn(&mut Self, &mut Piece) -> io::Result<bool>,
    ) -> io::Result<Gathered> {
        if !opens(&piece.text) {
            return Ok(Gathered::None);
        }
        let Some(mut object) = Object::open(&piece.text) else {
            return Ok(Gathered::None);
        };
        let mut lines = vec![piece.clone()];
        loop {
            let mut line = Piece::default();
            if !read(self, &mut line)? {
                break;
            }
            let next = object.add(&line.text);
            lines.push(line);
            match next {
                Next::Open => continue,
                Next::No => break,
                Next::Whole => {}
            }
            if let Some(text) = object.join() {
                piece.text = text;
                piece.last = lines.last().map_or(piece.last, |line| line.last);
                piece.width = usize::MAX;
                piece.marks = piece.marks | Marks::REJOINED;
                piece.classify();
                return Ok(Gathered::Whole);
            }
            break;
        }
        Ok(Gathered::GivenUp(lines))
    }

    /// Takes a line out of a container's record, or out of columns; `false`: it goes on in the next record.
    fn contained(&mut self, piece: &mut Piece) -> bool {
        let mut contained = false;
        if piece.starts
            || piece
                .text
                .first()
                .is_some_and(|b| matches!(b, b'|' | b'"' | b'{' | b'['))
        {
            for _ in 0..2 {
                match envelope_of(&piece.text) {
                    Some(content) => {
                        contained = true;
                        piece.marks = piece.marks | Marks::DECODED;
                        piece.text = content.text;
                        piece.origin = content.origin.within(&piece.origin);
                        self.lines_after(piece, content.more);
                        if content.partial && self.go_on(piece) {
                            return false;
                        }
                        self.complete(piece);
                    }
                    None => break,
                }
            }
            if !contained && let Some(row) = row(&piece.text) {
                piece.text = row;
                piece.marks = piece.marks | Marks::DECODED;
                piece.classify();
            }
        }
        self.lines_of(piece);
        true
    }

    /// Further lines of one document, each with its own origin.
    fn lines_after(&mut self, piece: &Piece, more: Vec<envelope::Line>) {
        for line in more {
            let mut next = Piece {
                text: line.text,
                width: usize::MAX,
                origin: line.origin.within(&piece.origin),
                ..Piece {
                    text: Vec::new(),
                    ..piece.clone()
                }
            };
            next.classify();
            self.given_up.push_back(next);
        }
    }

    /// Keeps what goes on; `false` where it is too long for that.
    fn go_on(&mut self, piece: &mut Piece) -> bool {
        self.complete(piece);
        if piece.text.len() > MAX_LINE {
            return false;
        }
        self.begun = Some(std::mem::take(piece));
        true
    }

    /// Puts what began in an earlier record before `piece`.
    fn complete(&mut self, piece: &mut Piece) {
        let mine = |begun: &Piece| begun.origin == piece.origin;
        if let Some(other) = self.begun.take_if(|begun| !mine(begun)) {
            // Another container's line that never ended.
            let mut other = other;
            other.classify();
            self.given_up.push_back(other);
        }
        if let Some(mut begun) = self.begun.take() {
            begun.text.extend_from_slice(envelope::without_time(&piece.text));
            begun.last = piece.last;
            *piece = begun;
        }
        // A logger's line or an object inside has a time of its own.
        let inner = envelope::without_time(&piece.text);
        if inner.len() < piece.text.len() && start::dated_itself(inner) {
            let from = piece.text.len() - inner.len();
            piece.text.drain(..from);
        }
        escapes::strip_in_place(&mut piece.text);
        piece.width = usize::MAX;
        piece.classify();
    }

    /// A record may hold several lines.
    fn lines_of(&mut self, piece: &mut Piece) {
        let Some(end) = memchr::memchr2(b'\n', b'\r', &piece.text) else {
            return;
        };
        let rest = piece.text.split_off(end);
        piece.classify();
        let lines = rest
            .split(|b| matches!(b, b'\n' | b'\r'))
            .filter(|line| !line.is_empty());
        for line in lines {
            let mut line = Piece {
                text: line.to_vec(),
                width: usize::MAX,
                ..piece.clone()
            };
            line.classify();
            self.given_up.push_back(line);
        }
    }
}

/// Whether `line` may be the begin of an object that goes on.
fn opens(line: &[u8]) -> bool {
    /// A line of this length may have been broken where an inner object ends.
    const BROKEN: usize = 140;
    match (line.trim_ascii_start().first(), line.last()) {
        (Some(b'{'), Some(b'}')) => line.len() <= BROKEN,
        (Some(b'{'), _) => true,
        (_, Some(b'}')) => false,
        _ => memchr::memchr(b'{', line)
            .is_some_and(|begin| memchr::memmem::find(&line[..begin], b"event ").is_some()),
    }
}

fn envelope_of(line: &[u8]) -> Option<Content> {
    match line.first()? {
        b'{' => envelope::json(line),
        b'[' if line.get(1) == Some(&b'{') => envelope::json(line),
        b'0'..=b'9' if line.last() == Some(&b'}') => {
            envelope::dated_json(line).or_else(|| envelope::cri(line))
        }
        b'0'..=b'9' => envelope::cri(line),
        _ => None,
    }
}

fn row(line: &[u8]) -> Option<Vec<u8>> {
    let columns = matches!(line.first(), Some(b'|' | b'"'))
        || memchr::memchr(b'\t', &line[..line.len().min(48)]).is_some();
    columns.then(|| columns::row(line)).flatten()
}
