//! Recordings: a JSON line that names the format and the session, a JSON line an event, a last line that
//! counts them. Lines, so that a recording can be searched, cut and read without this program; a last
//! line, so that a torn file is known for one.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

use std::io::{self, BufRead, Write};

use serde::{Deserialize, Serialize};
use serde_json::Value;

mod clean;
mod compat;
mod written;

use compat::{probe_texts, v1};
use poisontrace_model::event::{Event, session::Session};
use written::Layout;

/// Version of the format that is written: an event is what serde makes of it. Version 1 is read too.
pub const VERSION: u32 = 2;

/// Longest line that is read, bytes. Events are some 500 bytes; the header some 4 KiB.
const MAX_LINE: u64 = 256 * 1024;

#[derive(Serialize, Deserialize)]
struct Head {
    poisontrace_recording: u32,
    session: Session,
}

#[derive(Deserialize)]
struct HeadVersion {
    poisontrace_recording: u32,
}

const BYTE_ORDER_MARK: &str = "\u{feff}";

#[derive(Serialize, Deserialize)]
struct Foot {
    end: Totals,
}

/// The last line's count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// How many.
    pub events: u64,
}

/// Whether a file that begins with `head` is a recording, of any version. Editors and shells put a byte-order mark,
/// blank lines or spaces before it.
pub fn is_recording(head: &[u8]) -> bool {
    let head = head.strip_prefix(BYTE_ORDER_MARK.as_bytes()).unwrap_or(head);
    begins_with_key(head, b"\"poisontrace_recording\"")
}

/// Whether the line is an event of a recording.
pub fn is_event(line: &[u8]) -> bool {
    let Ok(text) = str::from_utf8(line) else {
        return false;
    };
    let of_version_1 = || serde_json::from_str::<Value>(text).is_ok_and(|line| v1::event(line).is_ok());
    begins_with_key(line, b"\"t\"") && (serde_json::from_str::<Event>(text).is_ok() || of_version_1())
}

/// Whether the text is an object whose first key is `key`, in its quotes.
fn begins_with_key(text: &[u8], key: &[u8]) -> bool {
    let inner = text.trim_ascii_start().strip_prefix(b"{");
    inner.is_some_and(|inner| inner.trim_ascii_start().starts_with(key))
}

/// Why a recording cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum RecordingError {
    /// The file cannot be read.
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error(
        "line 1: not a poisontrace recording (its first line is no recording header): `poisontrace record -o FILE` makes one"
    )]
    /// Another kind of file.
    NotARecording,
    #[error(
        "line 1: a recording of version {found}; this poisontrace reads versions 1 to {VERSION}: use the poisontrace that wrote it"
    )]
    /// A version that this program does not read.
    Version {
        /// Version of the recording.
        found: u32,
    },
    /// A header that is no session.
    #[error("line 1: the recording's header is damaged: {0}")]
    Header(serde_json::Error),
    /// A line that is no event.
    #[error("line {line}: {problem}")]
    Line {
        /// Number of the line, from 1.
        line: u64,
        /// What is wrong with it.
        problem: String,
    },
    #[error(
        "line {line}: the recording is truncated (it has no closing line): take a whole copy, or use --allow-truncated to explain what is there"
    )]
    /// The last line is cut.
    Truncated {
        /// Number of the line, from 1.
        line: u64,
    },
}

/// Writes a recording.
pub struct Writer<W: Write> {
    out: W,
    totals: Totals,
}

impl<W: Write> Writer<W> {
    /// Writes the header.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn new(mut out: W, session: &Session) -> io::Result<Self> {
        write_line(
            &mut out,
            &Head {
                poisontrace_recording: VERSION,
                session: session.clone(),
            },
        )?;
        Ok(Self {
            out,
            totals: Totals::default(),
        })
    }

    /// Writes one event.
    ///
    /// # Errors
    /// Those of the file.
    pub fn event(&mut self, event: &Event) -> io::Result<()> {
        write_line(&mut self.out, event)?;
        self.totals.events += 1;
        Ok(())
    }

    /// Hands what is buffered to the file.
    ///
    /// # Errors
    /// Those of the file.
    pub fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    /// Writes the closing line.
    ///
    /// # Errors
    /// Those of the file.
    pub fn finish(mut self) -> io::Result<W> {
        write_line(&mut self.out, &Foot { end: self.totals })?;
        self.out.flush()?;
        Ok(self.out)
    }
}

fn write_line<W: Write>(out: &mut W, value: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *out, value)?;
    out.write_all(b"\n")
}

/// Reads a recording event by event, in constant memory.
pub struct Reader<R: BufRead> {
    input: R,
    session: Session,
    version: u32,
    buffer: String,
    line: u64,
    events: u64,
    ended: bool,
    allow_truncated: bool,
    truncated: bool,
}

impl<R: BufRead> Reader<R> {
    /// Reads the header.
    ///
    /// # Errors
    /// A file that is no recording, or of another version, or whose header is damaged.
    pub fn new(mut input: R, allow_truncated: bool) -> Result<Self, RecordingError> {
        let (mut buffer, mut line) = (String::new(), 0);
        loop {
            line += 1;
            match read_line(&mut input, &mut buffer) {
                Ok(read) if read > 0 && without_mark(&buffer).trim_ascii().is_empty() => {}
                Ok(_) => break,
                Err(err) if err.kind() == io::ErrorKind::InvalidData => {
                    return Err(RecordingError::NotARecording);
                }
                Err(err) => return Err(err.into()),
            }
        }
        if buffer.starts_with(BYTE_ORDER_MARK) {
            buffer.drain(..BYTE_ORDER_MARK.len());
        }
        let version: HeadVersion =
            serde_json::from_str(&buffer).map_err(|_| RecordingError::NotARecording)?;
        if !(v1::VERSION..=VERSION).contains(&version.poisontrace_recording) {
            return Err(RecordingError::Version {
                found: version.poisontrace_recording,
            });
        }
        let mut head: Head = clean::from_line(&buffer).map_err(RecordingError::Header)?;
        if version.poisontrace_recording == v1::VERSION {
            v1::upgrade_session(&mut head.session);
        }
        probe_texts::upgrade(&mut head.session);
        Ok(Self {
            input,
            session: head.session,
            version: version.poisontrace_recording,
            buffer,
            line,
            events: 0,
            ended: false,
            allow_truncated,
            truncated: false,
        })
    }

    /// The session of the events.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Whether the end was missing (and allowed to be).
    pub fn truncated(&self) -> bool {
        self.truncated
    }

    /// The next event, or `None` at the end.
    ///
    /// # Errors
    /// A damaged line, or an end without the closing line.
    pub fn next_event(&mut self) -> Result<Option<Event>, RecordingError> {
        if self.ended {
            return Ok(None);
        }
        if !self.next_line()? {
            return self.torn();
        }
        let complete = self.buffer.ends_with('\n');
        if begins_with_key(self.buffer.as_bytes(), b"\"end\"") {
            return match serde_json::from_str::<Foot>(&self.buffer) {
                Ok(foot) => self.foot(foot),
                Err(_) if !complete => self.torn(),
                Err(problem) => Err(self.damaged(format!("damaged closing line: {problem}"))),
            };
        }
        // A line without its end is the torn tail of a write, even where it happens to parse.
        if !complete {
            return self.torn();
        }
        let event = self.parsed();
        match event {
            Ok(event) => {
                self.events += 1;
                Ok(Some(event))
            }
            Err(problem) => Err(self.damaged(format!("not an event: {problem}"))),
        }
    }

    /// The event of the line that was read.
    fn parsed(&self) -> serde_json::Result<Event> {
        let is_old = self.version == v1::VERSION;
        let is_clean = clean::is_clean(&self.buffer);
        let layout = match is_old {
            true => Layout::Flat,
            false => Layout::Nested,
        };
        if is_clean && let Some(event) = written::event(&self.buffer, layout) {
            return Ok(event);
        }
        match (is_old, is_clean) {
            (true, _) => clean::from_line(&self.buffer).and_then(v1::event),
            (false, true) => serde_json::from_str(&self.buffer),
            (false, false) => clean::from_line(&self.buffer),
        }
    }

    /// Reads the next line that is not blank; not at the end.
    fn next_line(&mut self) -> Result<bool, RecordingError> {
        loop {
            let read = read_line(&mut self.input, &mut self.buffer);
            self.line += 1;
            match read {
                Ok(0) => return Ok(false),
                Ok(_) if self.buffer.trim_ascii().is_empty() => {}
                Ok(_) => return Ok(true),
                Err(err) if err.kind() == io::ErrorKind::InvalidData => {
                    return Err(self.damaged(err.to_string()));
                }
                Err(err) => return Err(err.into()),
            }
        }
    }

    fn foot(&mut self, foot: Foot) -> Result<Option<Event>, RecordingError> {
        if foot.end.events != self.events {
            return Err(self.damaged(format!(
                "the closing line counts {} events, the file has {}: lines are missing or doubled",
                foot.end.events, self.events
            )));
        }
        self.ended = true;
        if self.next_line()? {
            let what = match is_recording(self.buffer.as_bytes()) {
                true => {
                    "another recording begins after the closing line: give each recording as a file of its own"
                }
                false => "text follows the closing line, which ends a recording: take a whole copy",
            };
            return Err(self.damaged(what.to_owned()));
        }
        Ok(None)
    }

    fn damaged(&self, problem: String) -> RecordingError {
        RecordingError::Line {
            line: self.line,
            problem,
        }
    }

    fn torn(&mut self) -> Result<Option<Event>, RecordingError> {
        if self.allow_truncated {
            self.ended = true;
            self.truncated = true;
            return Ok(None);
        }
        Err(RecordingError::Truncated { line: self.line })
    }
}

fn without_mark(text: &str) -> &str {
    text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text)
}

/// Reads one line of at most [`MAX_LINE`] bytes.
fn read_line<R: BufRead>(input: &mut R, buffer: &mut String) -> io::Result<usize> {
    buffer.clear();
    let read = io::Read::take(&mut *input, MAX_LINE).read_line(buffer)?;
    if read as u64 == MAX_LINE && !buffer.ends_with('\n') {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("longer than {MAX_LINE} bytes, which no line of a recording is"),
        ));
    }
    Ok(read)
}

#[cfg(test)]
mod tests {
    use super::*;
    use poisontrace_model::event::EventKind;

    fn recorded(events: usize) -> Vec<u8> {
        let mut writer = Writer::new(Vec::new(), &Session::default()).unwrap();
        for t in 0..events as u64 {
            writer
                .event(&Event {
                    t,
                    tid: 2,
                    pid: 1,
                    vcpu: Some(0),
                    what: EventKind::Delivered,
                })
                .unwrap();
        }
        writer.finish().unwrap()
    }

    fn read(bytes: &[u8], allow: bool) -> Result<usize, RecordingError> {
        let mut reader = Reader::new(bytes, allow)?;
        let mut events = 0;
        while reader.next_event()?.is_some() {
            events += 1;
        }
        Ok(events)
    }

    #[test]
    fn a_recording_reads_back_what_was_written() {
        assert_eq!(read(&recorded(3), false).unwrap(), 3);
        assert_eq!(read(&recorded(0), false).unwrap(), 0);
    }

    #[test]
    fn recordings_of_version_1_say_the_same_in_version_2() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/recordings");
        let mut files = 0;
        for entry in std::fs::read_dir(folder).unwrap() {
            let old = std::fs::read(entry.unwrap().path()).unwrap();
            if !old.starts_with(b"{\"poisontrace_recording\":1,") {
                continue;
            }
            let (session, events) = events(&old);
            let mut writer = Writer::new(Vec::new(), &session).unwrap();
            events.iter().for_each(|event| writer.event(event).unwrap());
            let new = writer.finish().unwrap();
            assert_eq!(self::events(&new), (session, events));
            files += 1;
        }
        assert_eq!(files, 27);
    }

    fn events(recording: &[u8]) -> (Session, Vec<Event>) {
        let mut reader = Reader::new(recording, false).unwrap();
        let session = reader.session().clone();
        let mut events = Vec::new();
        while let Some(event) = reader.next_event().unwrap() {
            events.push(event);
        }
        (session, events)
    }

    #[test]
    fn marks_blank_lines_and_spaces_around_it_change_nothing() {
        let whole = String::from_utf8(recorded(3)).unwrap();
        let spaced = whole.replace(':', ": ").replace(',', ", ").replace('{', "{ ");
        for text in [
            format!("\u{feff}{whole}"),
            format!("\n \r\n{whole}"),
            format!("\u{feff}\n{whole}\n\n"),
            whole.replace('\n', "\r\n"),
            whole.replace('\n', "\n\n"),
            spaced,
        ] {
            assert!(is_recording(text.as_bytes()), "{text}");
            assert_eq!(read(text.as_bytes(), false).unwrap(), 3, "{text}");
        }
    }

    #[test]
    fn what_follows_the_closing_line_is_refused() {
        for (more, says) in [
            (recorded(1), "another recording"),
            (b"{}\n".to_vec(), "text follows"),
        ] {
            let text = [recorded(2), more].concat();
            let err = read(&text, true).unwrap_err().to_string();
            assert!(err.starts_with("line 5: ") && err.contains(says), "{err}");
        }
    }

    #[test]
    fn every_truncation_is_noticed_and_none_panics() {
        let whole = recorded(3);
        for cut in 0..whole.len() - 1 {
            let err = read(&whole[..cut], false).expect_err("a truncated recording must not pass");
            let line = err.to_string();
            assert!(line.contains("line "), "{line}");
        }
        let header = whole.iter().position(|b| *b == b'\n').unwrap() + 1;
        for cut in header..whole.len() {
            assert!(read(&whole[..cut], true).unwrap() <= 3, "{cut}");
        }
    }

    #[test]
    fn other_files_and_other_versions_are_named() {
        assert!(matches!(
            read(b"hello\nworld\n", false),
            Err(RecordingError::NotARecording)
        ));
        assert!(matches!(read(b"", false), Err(RecordingError::NotARecording)));
        assert!(matches!(
            read(&[0xff, 0xfe, 0, 1], false),
            Err(RecordingError::NotARecording)
        ));
        let other = String::from_utf8(recorded(1)).unwrap().replacen(
            "\"poisontrace_recording\":2",
            "\"poisontrace_recording\":3",
            1,
        );
        assert!(matches!(
            read(other.as_bytes(), false),
            Err(RecordingError::Version { found: 3 })
        ));
    }

    #[test]
    fn a_missing_line_in_the_middle_is_noticed() {
        let whole = String::from_utf8(recorded(3)).unwrap();
        let cut: Vec<&str> = whole
            .lines()
            .enumerate()
            .filter(|(n, _)| *n != 2)
            .map(|(_, l)| l)
            .collect();
        let err = read(format!("{}\n", cut.join("\n")).as_bytes(), false).unwrap_err();
        assert!(
            err.to_string().contains("counts 3 events, the file has 2"),
            "{err}"
        );
    }

    #[test]
    fn a_line_without_end_does_not_eat_the_memory() {
        let mut bytes = recorded(0);
        bytes.truncate(bytes.iter().position(|b| *b == b'\n').unwrap() + 1);
        bytes.extend(std::iter::repeat_n(b'x', 1 << 20));
        assert!(matches!(
            read(&bytes, true),
            Err(RecordingError::Line { line: 2, .. })
        ));
    }
}
