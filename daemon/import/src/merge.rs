//! Several files of lines at once: trace records in the order of their times, all other lines as they come.

use std::{
    io::{self, BufRead},
    path::PathBuf,
};

use super::{
    log::Log,
    problem::Cause,
    reformat::{LooksCut, Reader},
    text::Scanner,
    trace::{
        Assembler,
        record::{self, Record},
    },
};
use poisontrace_model::text::counted;

/// Lines without a record that are read before the caller is asked again.
const LINES_AT_ONCE: u32 = 16_384;

/// A file of lines.
pub struct Source<R> {
    path: PathBuf,
    name: String,
    lines: Reader<R>,
    scanner: Scanner,
    /// Time of the record that waits in `lines`.
    waits: Option<u64>,
    records: u64,
    over: bool,
    problem: Option<Cause>,
    /// Since the record before: events that the tracer lost, where it counts them.
    gap: Option<u64>,
    /// Events that the ring had overwritten when the trace was read.
    overwritten: u64,
}

impl<R: BufRead> Source<R> {
    pub fn new(path: PathBuf, name: String, input: R) -> Self {
        Self {
            path,
            name,
            lines: Reader::new(input),
            scanner: Scanner::default(),
            waits: None,
            records: 0,
            over: false,
            problem: None,
            gap: None,
            overwritten: 0,
        }
    }

    /// Reads on to the next trace record, or as many lines as are read at once; what stands between is scanned.
    fn advance(&mut self) {
        for _ in 0..LINES_AT_ONCE {
            match self.lines.advance() {
                Ok(true) => {}
                Ok(false) => {
                    self.over = true;
                    return;
                }
                Err(err) => {
                    let line = self.lines.lines_read() + 1;
                    self.problem = Some(match err.kind() {
                        io::ErrorKind::UnexpectedEof => Cause::Torn {
                            line: Some(line),
                            reason: err.to_string(),
                        },
                        _ => Cause::Other(format!("line {line}: {err}")),
                    });
                    self.over = true;
                    return;
                }
            }
            let line = self.lines.line();
            if let Some(record) = record::parse(line).filter(|record| !rasdaemon(record)) {
                self.records += 1;
                self.waits = Some(record.t);
                return;
            }
            if let Some(lost) = gap(line) {
                self.gap = Some(self.gap.unwrap_or(0).saturating_add(lost));
            }
            self.overwritten = self.overwritten.max(overwritten(line).unwrap_or(0));
            self.scanner
                .line_of(self.lines.number(), line, self.lines.origin());
        }
    }
}

/// rasdaemon prints what it reads as a trace does, but its date stands among the fields.
fn rasdaemon(record: &Record<'_>) -> bool {
    match record.name {
        b"memory_failure_event" => memchr::memmem::find(record.fields, b"page_type=").is_some(),
        b"mc_event" | b"mce_record" => true,
        _ => false,
    }
}

/// A gap in the trace, and how many events it is known to hold: `CPU:1 [LOST 4711 EVENTS]` or `[LOST EVENTS]`
/// (`print_trace_line`), `CPU:1 [4711 EVENTS DROPPED]` or `[EVENTS DROPPED]` (trace-cmd).
fn gap(line: &[u8]) -> Option<u64> {
    let rest = line.trim_ascii().strip_prefix(b"CPU:")?;
    let open = memchr::memchr(b'[', rest)?;
    let inner = rest[open + 1..].strip_suffix(b"]")?;
    let count = match inner.strip_prefix(b"LOST ") {
        Some(b"EVENTS") => return Some(0),
        Some(inner) => inner.strip_suffix(b" EVENTS")?,
        None if inner == b"EVENTS DROPPED" => return Some(0),
        None => inner.strip_suffix(b" EVENTS DROPPED")?,
    };
    record::decimal(count).filter(|n| *n < u64::from(u32::MAX))
}

/// `# entries-in-buffer/entries-written: 4838/9999   #P:2`: the difference.
fn overwritten(line: &[u8]) -> Option<u64> {
    let rest = line.strip_prefix(b"# entries-in-buffer/entries-written: ")?;
    let mut numbers = rest.split(|b| matches!(b, b'/' | b' '));
    let kept = record::decimal(numbers.next()?)?;
    record::decimal(numbers.next()?)?.checked_sub(kept)
}

/// Records of one time that several files show: one trace may stand in two files, or in two dialects.
#[derive(Default)]
struct Twins {
    t: u64,
    /// Thread, event and file of each.
    seen: Vec<(u32, Vec<u8>, usize)>,
}

/// Records of one time that are remembered.
const MAX_TWINS: usize = 256;

impl Twins {
    /// Whether another file has shown this record before.
    fn known(&mut self, record: &Record<'_>, file: usize) -> bool {
        if self.t != record.t {
            self.t = record.t;
            self.seen.clear();
        }
        let mut mine = 0;
        let mut others: std::collections::BTreeMap<usize, usize> = std::collections::BTreeMap::new();
        for (tid, name, by) in &self.seen {
            if *tid != record.tid || name != record.name {
                continue;
            }
            match *by == file {
                true => mine += 1,
                false => *others.entry(*by).or_default() += 1,
            }
        }
        if self.seen.len() < MAX_TWINS {
            self.seen.push((record.tid, record.name.to_vec(), file));
        }
        others.values().any(|count| *count > mine)
    }
}

/// The files, merged.
pub struct Merge<R> {
    sources: Vec<Source<R>>,
    twins: Twins,
}

impl<R: BufRead> Merge<R> {
    pub fn new(sources: Vec<Source<R>>) -> Self {
        Self {
            sources,
            twins: Twins::default(),
        }
    }

    /// Lines read so far.
    pub fn lines(&self) -> u64 {
        self.sources.iter().map(|source| source.lines.lines_read()).sum()
    }

    /// Hands the earliest record to the assembler, or reads on for it; `false` when there is none.
    pub fn step(&mut self, assembler: &mut Assembler) -> bool {
        for source in &mut self.sources {
            if source.waits.is_none() && !source.over {
                source.advance();
                if source.waits.is_none() && !source.over {
                    return true;
                }
            }
        }
        let alone = self.sources.len() == 1;
        let earliest = if alone {
            Some(0)
        } else {
            (0..self.sources.len())
                .filter(|n| self.sources[*n].waits.is_some())
                .min_by_key(|n| self.sources[*n].waits)
        };
        let Some((file, source)) = earliest.and_then(|n| Some((n, self.sources.get_mut(n)?))) else {
            return false;
        };
        if source.waits.is_none() {
            return false;
        }
        if let Some(lost) = source.gap.take() {
            assembler.gap(lost);
        }
        if let Some(record) = record::parse(source.lines.line())
            && (alone || !self.twins.known(&record, file))
        {
            assembler.record(&record);
        }
        source.waits = None;
        true
    }

    /// Events that the rings had overwritten.
    pub fn overwritten(&self) -> u64 {
        self.sources.iter().map(|source| source.overwritten).sum()
    }

    /// The lines of each file that look cut or wrapped, and how many more there are.
    pub fn looks_cut(&self) -> Vec<(String, Vec<LooksCut>, u64)> {
        let cut = self.sources.iter().map(|source| {
            let (lines, more) = source.lines.notices();
            (source.name.clone(), lines.to_vec(), more)
        });
        cut.filter(|(_, lines, _)| !lines.is_empty()).collect()
    }

    /// What was found in each file, and whether it could be read.
    pub fn finish(self) -> Vec<(PathBuf, Log, Result<(), Cause>)> {
        self.sources
            .into_iter()
            .map(|mut source| {
                source.scanner.finish();
                let known = source.scanner.known > 0 || source.records > 0;
                let outcome = match source.problem {
                    Some(problem) => Err(problem),
                    None if source.lines.lines_read() == 0 => Err(Cause::Other("an empty file".to_owned())),
                    None if !known => Err(Cause::Other(format!(
                        "nothing in its {} is known: it is not a poisontrace recording, a kernel trace as text, a kernel, VMM or console log, or QMP events",
                        counted(source.lines.lines_read(), "line", "lines")
                    ))),
                    None => Ok(()),
                };
                let log = Log::new(source.name, source.scanner, source.records);
                (source.path, log, outcome)
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_known_in_the_words_of_both_tools() {
        for (line, lost) in [
            ("CPU:1 [LOST 4711 EVENTS]", Some(4711)),
            ("CPU:0 [LOST EVENTS]", Some(0)),
            ("CPU:12 [4711 EVENTS DROPPED]", Some(4711)),
            ("CPU:0 [EVENTS DROPPED]", Some(0)),
            ("CPU:0 [LOST -1 EVENTS]", None),
            ("CPU:0 [LOST 99999999999999999999 EVENTS]", None),
            ("the guest said [LOST 4711 EVENTS]", None),
        ] {
            assert_eq!(gap(line.as_bytes()), lost, "{line}");
        }
        let header = b"# entries-in-buffer/entries-written: 4838/9999   #P:2";
        assert_eq!(overwritten(header), Some(5161));
        assert_eq!(overwritten(b"# entries-in-buffer/entries-written: 2/1"), None);
    }

    #[test]
    fn a_trace_that_stands_in_two_files_is_one() {
        let trace = "a-1 [000] ..... 1.000001: kvm_exit: x\n\
                     a-1 [000] ..... 1.000001: kvm_exit: x\n\
                     a-2 [000] ..... 1.000002: kvm_exit: x\n";
        let source = |text: &'static str| Source::new(PathBuf::new(), String::new(), text.as_bytes());
        let count = |sources: Vec<Source<&'static [u8]>>| {
            let mut merge = Merge::new(sources);
            let mut assembler = Assembler::default();
            while merge.step(&mut assembler) {}
            assembler.records
        };
        assert_eq!(count(vec![source(trace)]), 3);
        assert_eq!(count(vec![source(trace), source(trace)]), 3);
        let perf = "a 1 [000] 1.000001: kvm:kvm_exit: x\na 3 [000] 1.000002: kvm:kvm_exit: x\n";
        assert_eq!(count(vec![source(trace), source(perf)]), 4);
    }
}
