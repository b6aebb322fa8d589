//! What a file is, by its first bytes and not by its name.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Cursor, IsTerminal as _, Read},
    path::Path,
};

/// First bytes that are looked at.
const HEAD: usize = 4096;
const READ_AHEAD: usize = 1 << 18;

/// An opened file.
pub enum Opened {
    Recording(Box<dyn BufRead>),
    Text(Box<dyn BufRead>),
    Sqlite,
}

/// Opens `path` ("-": standard input) and looks what it is.
///
/// # Errors
/// What cannot be read, in words that say what to do.
pub fn open(path: &Path) -> Result<Opened, String> {
    let stdin = path.as_os_str() == "-";
    let mut input: Box<dyn Read> = if stdin {
        if io::stdin().is_terminal() {
            return Err("standard input is a terminal: pipe a file into it, or name one".to_owned());
        }
        Box::new(io::stdin())
    } else {
        Box::new(File::open(path).map_err(|err| err.to_string())?)
    };
    let mut head = Vec::with_capacity(HEAD);
    input
        .by_ref()
        .take(HEAD as u64)
        .read_to_end(&mut head)
        .map_err(|err| err.to_string())?;
    if let Some(why) = unreadable(&head) {
        return Err(why.to_owned());
    }
    if head.starts_with(b"SQLite format 3\0") {
        return if stdin {
            Err("a SQLite database cannot be read from standard input: name the file".to_owned())
        } else {
            Ok(Opened::Sqlite)
        };
    }
    let recording = head.starts_with(b"{\"poisontrace_recording\"");
    let whole = Box::new(BufReader::with_capacity(
        READ_AHEAD,
        Cursor::new(head).chain(input),
    ));
    Ok(if recording {
        Opened::Recording(whole)
    } else {
        Opened::Text(whole)
    })
}

/// Formats that another program must turn into text first.
fn unreadable(head: &[u8]) -> Option<&'static str> {
    const MAGIC: [(&[u8], &str); 7] = [
        (
            b"\x1f\x8b",
            "line 1: compressed by gzip: unpack it, or pipe `zcat FILE` into --from -",
        ),
        (
            b"\x28\xb5\x2f\xfd",
            "line 1: compressed by zstd: unpack it, or pipe `zstdcat FILE` into --from -",
        ),
        (
            b"\xfd7zXZ",
            "line 1: compressed by xz: unpack it, or pipe `xzcat FILE` into --from -",
        ),
        (
            b"BZh",
            "line 1: compressed by bzip2: unpack it, or pipe `bzcat FILE` into --from -",
        ),
        (
            b"PERFILE2",
            "line 1: a perf.data file: give the text of `perf script -i FILE`",
        ),
        (
            b"\x17\x08\x44tracing",
            "line 1: a trace.dat file: give the text of `trace-cmd report -i FILE`",
        ),
        (
            b"LPKSHHRH",
            "line 1: a binary journal: give the text of `journalctl -k --file FILE`",
        ),
    ];
    MAGIC
        .iter()
        .find(|(magic, _)| head.starts_with(magic))
        .map(|(_, why)| *why)
}
