//! What a file is, by its first bytes and not by its name.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Cursor, IsTerminal as _, Read},
    path::Path,
};

use super::{gzip::Members, problem::Cause, progress::Meter, reformat::utf16};

/// First bytes that are looked at.
const HEAD: usize = 4096;
const READ_AHEAD: usize = 1 << 18;
/// How often a file may have been compressed or encoded.
const MAX_LAYERS: u32 = 2;

/// An opened file.
pub enum Opened {
    Recording(Box<dyn BufRead>),
    Text(Box<dyn BufRead>),
    /// Only a file's: SQLite reads it by itself.
    Sqlite,
}

/// Opens `path` ("-": standard input) and looks what it is.
///
/// # Errors
/// The file cannot be read; the message names the remedy.
pub fn open(path: &Path, meter: &Meter) -> Result<Opened, Cause> {
    if path.as_os_str() == "-" {
        if io::stdin().is_terminal() {
            return Err(Cause::Other(
                "standard input is a terminal: pipe a file into it, or name one".to_owned(),
            ));
        }
        return match sort(meter.of(io::stdin(), None), 0)? {
            Opened::Sqlite => Err(Cause::Other(
                "a SQLite database cannot be read from standard input: name the file".to_owned(),
            )),
            opened => Ok(opened),
        };
    }
    let file = File::open(path).map_err(Cause::Unreadable)?;
    let size = file
        .metadata()
        .ok()
        .filter(std::fs::Metadata::is_file)
        .map(|meta| meta.len());
    sort(meter.of(file, size), 0)
}

/// Looks what `input` is. gzip, in which logs are rotated, is read as what it holds.
///
/// # Errors
/// As [`open`].
pub fn sort(mut input: impl Read + 'static, layers: u32) -> Result<Opened, Cause> {
    let mut head = Vec::with_capacity(HEAD);
    match input.by_ref().take(HEAD as u64).read_to_end(&mut head) {
        Ok(_) => {}
        // Torn: who reads on is given the error again.
        Err(err) if err.kind() == io::ErrorKind::UnexpectedEof && !head.is_empty() => {}
        Err(err) if layers == 0 => return Err(Cause::Unreadable(err)),
        Err(err) => return Err(format!("line 1: {err}").into()),
    }
    if let Some(remedy) = other_program(&head) {
        return Err(Cause::OtherProgram(remedy));
    }
    let sqlite = head.starts_with(b"SQLite format 3\0");
    if sqlite && layers == 0 {
        return Ok(Opened::Sqlite);
    }
    if sqlite {
        return Err(Cause::Other("a compressed SQLite database: unpack it".to_owned()));
    }
    let utf16 = utf16::order(&head);
    let gzip = head.starts_with(b"\x1f\x8b\x08");
    let recording = poisontrace_recording::is_recording(&head);
    if !recording && let Some(why) = parts_of_recording(&head) {
        return Err(why.into());
    }
    let whole = Cursor::new(head).chain(input);
    if gzip && layers < MAX_LAYERS {
        let unpacked: Box<dyn Read> = Box::new(Members::new(whole));
        return sort(unpacked, layers + 1);
    }
    if let Some(order) = utf16.filter(|_| layers < MAX_LAYERS) {
        let text = utf16::Utf8::new(BufReader::with_capacity(READ_AHEAD, whole), order);
        let text: Box<dyn Read> = Box::new(text);
        return sort(text, layers + 1);
    }
    let whole = Box::new(BufReader::with_capacity(READ_AHEAD, whole));
    Ok(if recording {
        Opened::Recording(whole)
    } else {
        Opened::Text(whole)
    })
}

/// A recording that is not whole, or not alone, must not pass for text without poison.
fn parts_of_recording(head: &[u8]) -> Option<String> {
    for (n, line) in head.split(|b| *b == b'\n').enumerate() {
        if n > 0 && poisontrace_recording::is_recording(line) {
            return Some(format!(
                "line {}: a recording begins here, with other text before it: cut that off",
                n + 1
            ));
        }
        if poisontrace_recording::is_event(line) {
            return Some(format!(
                "line {}: an event of a recording whose header is missing: take a whole copy",
                n + 1
            ));
        }
    }
    None
}

/// Formats that another program must turn into text first.
fn other_program(head: &[u8]) -> Option<&'static str> {
    const TAR: &str = "a tar archive: unpack it, and name the files in it";
    const MAGIC: [(&[u8], &str); 12] = [
        (
            b"\x28\xb5\x2f\xfd",
            "compressed by zstd: unpack it, or pipe `zstdcat FILE` into --from -",
        ),
        (
            b"\xfd7zXZ",
            "compressed by xz: unpack it, or pipe `xzcat FILE` into --from -",
        ),
        (
            b"BZh",
            "compressed by bzip2: unpack it, or pipe `bzcat FILE` into --from -",
        ),
        (
            b"PK\x03\x04",
            "a zip archive: unpack it, or pipe `unzip -p FILE` into --from -",
        ),
        (b"PK\x05\x06", "a zip archive without a file in it"),
        (
            b"PK\x07\x08",
            "a part of a zip archive: unpack it with its other parts",
        ),
        (
            b"7z\xbc\xaf\x27\x1c",
            "a 7z archive: unpack it, or pipe `7z e -so FILE` into --from -",
        ),
        (b"Rar!\x1a\x07", "a RAR archive: unpack it"),
        (
            b"\x04\x22\x4d\x18",
            "compressed by lz4: unpack it, or pipe `lz4cat FILE` into --from -",
        ),
        (
            b"PERFILE2",
            "a perf.data file: give the text of `perf script -i FILE`",
        ),
        (
            b"\x17\x08\x44tracing",
            "a trace.dat file: give the text of `trace-cmd report -i FILE`",
        ),
        (
            b"LPKSHHRH",
            "a binary journal: give the text of `journalctl -k --file FILE`",
        ),
    ];
    // POSIX ustar: the magic of a header block.
    if head.get(257..262) == Some(b"ustar") {
        return Some(TAR);
    }
    MAGIC
        .iter()
        .find(|(magic, _)| head.starts_with(magic))
        .map(|(_, remedy)| *remedy)
}
