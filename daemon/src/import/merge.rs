//! Several files of lines at once: trace records in the order of their times, all other lines as they come.

use std::{io::BufRead, path::PathBuf};

use super::{
    lines::Lines,
    logs::Log,
    text::Scanner,
    trace::{Assembler, record},
};

/// A file of lines.
pub struct Source<R> {
    path: PathBuf,
    name: String,
    lines: Lines<R>,
    scanner: Scanner,
    /// Time of the record that waits in `lines`.
    waits: Option<u64>,
    records: u64,
    over: bool,
    problem: Option<String>,
}

impl<R: BufRead> Source<R> {
    pub fn new(path: PathBuf, name: String, input: R) -> Self {
        Self {
            path,
            name,
            lines: Lines::new(input),
            scanner: Scanner::default(),
            waits: None,
            records: 0,
            over: false,
            problem: None,
        }
    }

    /// Reads on to the next trace record; what stands between is scanned.
    fn advance(&mut self, lost: &mut u64) {
        self.waits = None;
        loop {
            match self.lines.advance() {
                Ok(true) => {}
                Ok(false) => break,
                Err(err) => {
                    self.problem = Some(if self.lines.number() == 0 {
                        err.to_string()
                    } else {
                        format!("line {}: {err}", self.lines.number() + 1)
                    });
                    break;
                }
            }
            let line = self.lines.line();
            if let Some(record) = record::parse(line) {
                self.records += 1;
                self.waits = Some(record.t);
                return;
            }
            *lost += lost_events(line);
            self.scanner.line(self.lines.number(), line);
        }
        self.over = true;
    }
}

/// `CPU:1 [LOST 4711 EVENTS]`, as tracefs marks a gap.
fn lost_events(line: &[u8]) -> u64 {
    let Some(at) = memchr::memmem::find(line, b"[LOST ") else {
        return 0;
    };
    let rest = &line[at + 6..];
    let end = rest
        .iter()
        .position(|b| !b.is_ascii_digit())
        .unwrap_or(rest.len());
    record::decimal(&rest[..end])
        .filter(|n| *n < u64::from(u32::MAX))
        .unwrap_or(0)
}

/// The files, merged.
pub struct Merge<R> {
    sources: Vec<Source<R>>,
    begun: bool,
    lost: u64,
}

impl<R: BufRead> Merge<R> {
    pub fn new(sources: Vec<Source<R>>) -> Self {
        Self {
            sources,
            begun: false,
            lost: 0,
        }
    }

    /// Lines read so far.
    pub fn lines(&self) -> u64 {
        self.sources.iter().map(|source| source.lines.number()).sum()
    }

    /// Hands the earliest record to the assembler; `false` when there is none.
    pub fn step(&mut self, assembler: &mut Assembler) -> bool {
        if !self.begun {
            self.begun = true;
            for source in &mut self.sources {
                source.advance(&mut self.lost);
            }
        }
        let earliest = if self.sources.len() == 1 {
            Some(0)
        } else {
            (0..self.sources.len())
                .filter(|n| self.sources[*n].waits.is_some())
                .min_by_key(|n| self.sources[*n].waits)
        };
        let Some(source) = earliest.and_then(|n| self.sources.get_mut(n)) else {
            return false;
        };
        if source.waits.is_none() {
            return false;
        }
        if let Some(record) = record::parse(source.lines.line()) {
            assembler.record(&record);
        }
        source.advance(&mut self.lost);
        assembler.lost = self.lost;
        true
    }

    /// What was found in each file, and whether it could be read.
    pub fn finish(self) -> Vec<(PathBuf, Log, Result<(), String>)> {
        self.sources
            .into_iter()
            .map(|mut source| {
                source.scanner.finish();
                let known = source.scanner.known > 0 || source.records > 0;
                let outcome = match source.problem {
                    Some(problem) => Err(problem),
                    None if !known => Err(format!(
                        "nothing in its {} lines is known: it is not a poisontrace recording, a kernel trace as text, a kernel, VMM or console log, or QMP events",
                        source.lines.number()
                    )),
                    None => Ok(()),
                };
                let log = Log::new(source.name, source.scanner, source.records);
                (source.path, log, outcome)
            })
            .collect()
    }
}
