//! The end of a log that another program writes, rotates and truncates.

use std::{
    fs::{File, Metadata},
    io::{self, Read, Seek, SeekFrom},
    os::unix::fs::MetadataExt as _,
};

use super::place::Place;

/// What is read of what was there before, bytes.
const BEFORE: u64 = 64 * 1024;
/// What is read at one time, bytes: a VMM that floods its log is read slower than it writes.
const AT_ONCE: u64 = 256 * 1024;
/// What is kept of a line.
const MAX_LINE: usize = 64 * 1024;

/// See the module.
pub struct Tail {
    place: Place,
    open: Option<Open>,
    begun: bool,
    line: Vec<u8>,
    number: u64,
}

struct Open {
    file: File,
    identity: (u64, u64),
    at: u64,
}

fn identity(meta: &Metadata) -> (u64, u64) {
    (meta.dev(), meta.ino())
}

impl Tail {
    pub fn new(place: Place) -> Self {
        Self {
            place,
            open: None,
            begun: false,
            line: Vec::new(),
            number: 0,
        }
    }

    /// Hands over the whole lines that have come. Returns whether they were there before the first call.
    pub fn read(&mut self, take: &mut dyn FnMut(u64, &[u8])) -> bool {
        let first = !std::mem::replace(&mut self.begun, true);
        if let Err(err) = self.try_read(first, take)
            && err.kind() != io::ErrorKind::NotFound
        {
            tracing::debug!(path = %self.place.path().display(), "a VMM's log: {err}");
        }
        first
    }

    fn try_read(&mut self, first: bool, take: &mut dyn FnMut(u64, &[u8])) -> io::Result<()> {
        if self.open.is_none() {
            self.open = Some(self.open(first)?);
        }
        self.rest(take)?;
        // Rotated: what is now under the name is another file.
        let now = self.place.find().and_then(|found| found.metadata());
        let now = now.map(|meta| identity(&meta));
        let moved = self
            .open
            .as_ref()
            .is_some_and(|open| now.as_ref().is_ok_and(|now| *now != open.identity));
        if moved {
            self.end_line(take);
            self.open = Some(self.open(false)?);
            self.rest(take)?;
        }
        Ok(())
    }

    /// Opens the file, at its end where what is in it was there before.
    fn open(&self, first: bool) -> io::Result<Open> {
        let mut file = self.place.open()?;
        let meta = file.metadata()?;
        let at = if first {
            meta.len().saturating_sub(BEFORE)
        } else {
            0
        };
        file.seek(SeekFrom::Start(at))?;
        Ok(Open {
            file,
            identity: identity(&meta),
            at,
        })
    }

    fn rest(&mut self, take: &mut dyn FnMut(u64, &[u8])) -> io::Result<()> {
        let Some(open) = &mut self.open else {
            return Ok(());
        };
        if open.file.metadata()?.len() < open.at {
            // Truncated: written anew from its beginning.
            open.at = open.file.seek(SeekFrom::Start(0))?;
            self.line.clear();
        }
        let mut bytes = Vec::new();
        open.at += open.file.by_ref().take(AT_ONCE).read_to_end(&mut bytes)? as u64;
        for part in bytes.split_inclusive(|b| *b == b'\n') {
            let room = MAX_LINE - self.line.len().min(MAX_LINE);
            self.line.extend_from_slice(&part[..part.len().min(room)]);
            if part.ends_with(b"\n") {
                self.end_line(take);
            }
        }
        Ok(())
    }

    fn end_line(&mut self, take: &mut dyn FnMut(u64, &[u8])) {
        if self.line.is_empty() {
            return;
        }
        self.number += 1;
        let line = self.line.strip_suffix(b"\n").unwrap_or(&self.line);
        take(self.number, line.strip_suffix(b"\r").unwrap_or(line));
        self.line.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs::{self, OpenOptions},
        io::Write as _,
    };

    use super::*;

    fn lines(tail: &mut Tail) -> Vec<String> {
        let mut found = Vec::new();
        tail.read(&mut |_, line| found.push(String::from_utf8_lossy(line).into_owned()));
        found
    }

    #[test]
    fn a_log_is_followed_through_rotation_and_truncation() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vm.log");
        let mut tail = Tail::new(Place::Host(path.clone()));
        assert!(lines(&mut tail).is_empty(), "it is not there yet");
        fs::write(&path, "one\ntw").unwrap();
        assert_eq!(lines(&mut tail), ["one"]);
        let mut log = OpenOptions::new().append(true).open(&path).unwrap();
        log.write_all(b"o\nthree\nlast words").unwrap();
        assert_eq!(lines(&mut tail), ["two", "three"]);
        fs::rename(&path, dir.path().join("vm.log.0")).unwrap();
        log.write_all(b" of the old one\n").unwrap();
        fs::write(&path, "new\n").unwrap();
        assert_eq!(lines(&mut tail), ["last words of the old one", "new"]);
        fs::write(&path, "x\n").unwrap();
        assert_eq!(lines(&mut tail), ["x"], "truncated");
        assert!(lines(&mut tail).is_empty());
    }

    #[test]
    fn of_a_long_log_the_end_is_read_and_of_a_flood_a_part_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vm.log");
        fs::write(&path, "0123456789abcde\n".repeat(100_000)).unwrap();
        let mut tail = Tail::new(Place::Host(path.clone()));
        let old = lines(&mut tail);
        assert_eq!(old.len() as u64, BEFORE / 16);
        fs::write(&path, vec![b'x'; 5 << 20]).unwrap();
        for _ in 0..40 {
            assert!(lines(&mut tail).is_empty());
            assert!(tail.line.len() <= MAX_LINE);
        }
    }

    #[test]
    fn what_is_no_file_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        assert!(
            std::process::Command::new("mkfifo")
                .arg(&pipe)
                .status()
                .unwrap()
                .success()
        );
        assert!(lines(&mut Tail::new(Place::Host(pipe))).is_empty());
        assert!(lines(&mut Tail::new(Place::Host(dir.path().to_owned()))).is_empty());
        let link = dir.path().join("link");
        std::os::unix::fs::symlink("/etc/passwd", &link).unwrap();
        assert!(lines(&mut Tail::new(Place::Host(link))).is_empty());
    }
}
