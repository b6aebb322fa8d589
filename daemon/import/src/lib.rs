//! Evidence that others kept: any mix of files, each known by its content. Traces and recordings are
//! streamed through the correlator; what logs say is little, and is put to it afterwards, on one clock.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod align;
mod alignment_notes;
mod answers;
mod detect;
mod gzip;
mod host_boots;
mod host_events;
mod joins;
mod log;
mod logs;
mod lone;
mod merge;
pub mod origin;
mod platform;
mod problem;
mod progress;
mod rasdaemon;
pub mod reformat;
mod session;
mod speakers;
pub mod text;
pub mod trace;

use std::{
    collections::{BTreeMap, HashMap},
    io::{BufRead, Read},
    path::{Path, PathBuf},
};

use align::Alignment;
use detect::Opened;
use log::Log;
use poisontrace_model::{
    correlate::Correlator,
    event::{
        log_statement::{LogRecord, LogStatement},
        session::Session,
    },
    hex::Hex,
    incident::{
        missing::MissingEvidence,
        model::{Confidence, HostEvent, Incident, Latency},
    },
    text::sanitise,
};
use poisontrace_recording::Reader;
pub use problem::{Cause, Problem};
use progress::Meter;
pub use progress::Reading;
pub use reformat::LooksCut;
use text::clock::Stamp;

/// What the files show.
pub struct Imported {
    /// Host, clocks and probes.
    pub session: Session,
    /// One per poisoned page and VM.
    pub incidents: Vec<Incident>,
    /// Losses of the host outside of known VMs.
    pub host_events: Vec<HostEvent>,
    /// How many more of these the files have.
    pub host_events_left_out: u64,
    /// Files that could not be used, or not to their end: one line each.
    pub problems: Vec<Problem>,
    /// Lines with a known wording that is not whole.
    pub looks_cut: Vec<CutLine>,
}

/// A line that looks cut or wrapped, and its file.
pub struct CutLine {
    /// The file.
    pub file: String,
    /// The line, and why it looks cut.
    pub line: LooksCut,
}

/// How many lines or events are read between two calls of the progress.
const PROGRESS_EVERY: u64 = 65_536;

/// Reads the files ("-": standard input). `attribution_window_s`: how long after the poison a guest's death still counts as
/// its, seconds. `progress` is called with how far the reading is.
///
/// # Errors
/// Where none of the files can be used: the problems.
pub fn read(
    files: &[PathBuf],
    allow_truncated: bool,
    attribution_window_s: u64,
    progress: &mut dyn FnMut(Reading),
) -> Result<Imported, Vec<Problem>> {
    let mut import = Import::new(allow_truncated, files.len() == 1);
    import
        .correlator
        .attribution_window(attribution_window_s.saturating_mul(1_000_000_000));
    for file in files {
        match detect::open(file, &import.meter) {
            Ok(opened) => import.take(file, opened, progress),
            Err(cause) => import.problem(file, cause),
        }
    }
    import.stream(progress);
    import.settle()
}

/// Reads inputs that are no files, each with a name.
///
/// # Errors
/// As [`read`]; a SQLite database is refused, as only a file of it can be read.
pub fn read_inputs<R: Read + 'static>(
    inputs: Vec<(String, R)>,
    allow_truncated: bool,
) -> Result<Imported, Vec<Problem>> {
    let mut import = Import::new(allow_truncated, inputs.len() == 1);
    for (name, input) in inputs {
        let name = PathBuf::from(name);
        match detect::sort(input, 0) {
            Ok(Opened::Sqlite) => import.problem(&name, "a SQLite database that is no file".to_owned()),
            Ok(opened) => import.take(&name, opened, &mut |_| {}),
            Err(cause) => import.problem(&name, cause),
        }
    }
    import.stream(&mut |_| {});
    import.settle()
}

struct Import {
    correlator: Correlator,
    alignment: Alignment,
    recorded: bool,
    /// The trace's clock has no unit.
    unitless: bool,
    alone: bool,
    allow_truncated: bool,
    usable: usize,
    sources: Vec<merge::Source<Box<dyn BufRead>>>,
    logs: Vec<Log>,
    seen: std::collections::BTreeSet<&'static str>,
    problems: Vec<Problem>,
    looks_cut: Vec<CutLine>,
    /// Lines of a kernel without their time.
    torn: Vec<CutLine>,
    notes: Vec<MissingEvidence>,
    meter: Meter,
}

/// Lines of one file that look cut, of which each incident's page shows the text.
const SHOWN_CUT: usize = 3;

/// A file as the answer names it.
fn name(path: &Path) -> String {
    if path.as_os_str() == "-" {
        return "standard input".to_owned();
    }
    let name = path.file_name().unwrap_or(path.as_os_str());
    sanitise(&name.to_string_lossy(), 80)
}

/// Leaves nothing that would be read as a time.
fn without_times(incident: &mut Incident) {
    incident.latency_ns = Latency::default();
    incident.exit_samples.clear();
    if let Some(storm) = &mut incident.storm {
        storm.duration_ns = None;
    }
    for entry in &mut incident.timeline {
        entry.t_ns = None;
    }
    for injection in &mut incident.injections.events {
        injection.t_ns = None;
    }
}

fn cut_line(file: &str, line: &LooksCut) -> MissingEvidence {
    MissingEvidence::CutLine {
        source: file.to_owned(),
        line: line.line,
        text: line.text.clone(),
    }
}

/// Whether the rest of a line could have changed what is known of an incident: it stands in a file that speaks of it, and
/// does not name another page.
fn may_change(cut: &CutLine, incident: &Incident) -> bool {
    if !incident.records.iter().any(|record| record.source == cut.file) {
        return false;
    }
    let page = &incident.page;
    let mine: Vec<u64> = [page.gpa, page.hva, page.pfn.map(|pfn| Hex(pfn.0 << 12))]
        .into_iter()
        .flatten()
        .map(|at| at.0 >> 12)
        .collect();
    let named: Vec<u64> = cut.line.addresses().collect();
    named.is_empty()
        || named
            .iter()
            .any(|at| mine.contains(at) || mine.contains(&(at >> 12)))
}

impl Import {
    fn new(allow_truncated: bool, alone: bool) -> Self {
        Self {
            correlator: Correlator::new(Session::default()),
            alignment: Alignment::default(),
            recorded: false,
            unitless: false,
            alone,
            allow_truncated,
            usable: 0,
            sources: Vec::new(),
            logs: Vec::new(),
            seen: std::collections::BTreeSet::new(),
            problems: Vec::new(),
            looks_cut: Vec::new(),
            torn: Vec::new(),
            notes: Vec::new(),
            meter: Meter::default(),
        }
    }

    /// Among other files a torn one is better than none; alone it is asked about.
    fn torn_is_fine(&self) -> bool {
        self.allow_truncated || !self.alone
    }

    fn problem(&mut self, file: &Path, cause: impl Into<Cause>) {
        self.problems.push(Problem::File {
            file: file.to_owned(),
            cause: cause.into(),
        });
    }

    fn take(&mut self, file: &Path, opened: Opened, progress: &mut dyn FnMut(Reading)) {
        let taken = match opened {
            Opened::Text(input) => {
                let source = merge::Source::new(file.to_owned(), name(file), input);
                return self.sources.push(source);
            }
            Opened::Recording(input) => self.recording(file, input, progress),
            Opened::Sqlite => self.database(file).map_err(Cause::Other),
        };
        match taken {
            Ok(()) => self.usable += 1,
            Err(cause) => self.problem(file, cause),
        }
    }

    fn database(&mut self, file: &Path) -> Result<(), String> {
        let items = rasdaemon::read(file)?;
        let of_pages = |item: &text::Item| matches!(item.statement, LogStatement::HostAction { .. });
        if items.iter().any(of_pages) {
            self.notes.push(MissingEvidence::PageType { source: name(file) });
        }
        self.logs.push(Log::of_host(name(file), items));
        Ok(())
    }

    fn recording(
        &mut self,
        file: &Path,
        input: Box<dyn BufRead>,
        progress: &mut dyn FnMut(Reading),
    ) -> Result<(), Cause> {
        let torn_is_fine = self.torn_is_fine();
        let input: Box<dyn BufRead> = if torn_is_fine {
            Box::new(gzip::Torn(input))
        } else {
            input
        };
        let mut reader = Reader::new(input, torn_is_fine)?;
        if !self.recorded {
            self.recorded = true;
            self.correlator.learn_session(reader.session().clone());
        }
        for number in 1_u64.. {
            if number.is_multiple_of(PROGRESS_EVERY) {
                progress(self.meter.reading());
            }
            match reader.next_event() {
                Ok(Some(event)) => {
                    self.alignment.event(&event);
                    self.correlator.feed(&event);
                }
                Ok(None) => break,
                Err(err) if self.alone => return Err(err.into()),
                Err(err) => {
                    self.problem(file, err);
                    break;
                }
            }
        }
        if reader.truncated() {
            self.notes.push(MissingEvidence::RecordingEnd);
        }
        Ok(())
    }

    fn stream(&mut self, progress: &mut dyn FnMut(Reading)) {
        let sources = std::mem::take(&mut self.sources);
        if sources.is_empty() {
            return;
        }
        let mut merged = merge::Merge::new(sources);
        let mut assembler = trace::Assembler::default();
        let mut next_progress = PROGRESS_EVERY;
        while merged.step(&mut assembler) {
            if !assembler.is_idle() {
                self.feed(&mut assembler);
            }
            if merged.lines() >= next_progress {
                next_progress = merged.lines() + PROGRESS_EVERY;
                progress(self.meter.reading());
            }
        }
        assembler.finish();
        self.feed(&mut assembler);
        if !self.recorded {
            self.unitless = assembler.unitless;
            self.trace_notes(&assembler, merged.overwritten());
        }
        let loose = std::mem::take(&mut assembler.loose);
        if !self.recorded {
            self.seen = assembler.seen;
        } else if !assembler.seen.is_empty() {
            self.notes.push(MissingEvidence::TraceBesideRecording);
        }
        for (file, lines, more) in merged.looks_cut() {
            self.cut_lines(&file, lines, more);
        }
        for (file, mut log, outcome) in merged.finish() {
            let torn = std::mem::take(&mut log.torn);
            self.torn_lines(&log.name, torn);
            match outcome {
                Ok(()) => {
                    self.usable += 1;
                    self.logs.push(log);
                }
                Err(problem) => {
                    let torn = matches!(problem, Cause::Torn { .. });
                    self.problem(&file, problem);
                    if log.useful() && (!torn || self.torn_is_fine()) {
                        if torn {
                            self.notes.push(MissingEvidence::FileEnd {
                                source: log.name.clone(),
                            });
                        }
                        self.usable += 1;
                        self.logs.push(log);
                    }
                }
            }
        }
        if !loose.is_empty() {
            self.logs.push(Log::of_trace(loose));
        }
    }

    /// Lines of a file that look cut or wrapped, and how many more there are.
    fn cut_lines(&mut self, file: &str, lines: Vec<LooksCut>, more: u64) {
        for line in lines.iter().take(SHOWN_CUT) {
            self.notes.push(cut_line(file, line));
        }
        let count = more + lines.len().saturating_sub(SHOWN_CUT) as u64;
        if count > 0 {
            let source = file.to_owned();
            self.notes.push(MissingEvidence::CutLines { count, source });
        }
        self.looks_cut.extend(lines.into_iter().map(|line| CutLine {
            file: file.to_owned(),
            line,
        }));
    }

    /// Lines of a kernel that lost their beginning; their words are whole, so that nobody is asked for the rest of them.
    fn torn_lines(&mut self, file: &str, lines: Vec<LooksCut>) {
        for line in lines {
            let known = |cut: &CutLine| cut.file == file && cut.line.line == line.line;
            if self.looks_cut.iter().any(known) {
                continue;
            }
            if self.torn.len() < SHOWN_CUT {
                self.notes.push(cut_line(file, &line));
            }
            self.torn.push(CutLine {
                file: file.to_owned(),
                line,
            });
        }
    }

    /// What the trace itself counts as lost.
    fn trace_notes(&mut self, assembler: &trace::Assembler, overwritten: u64) {
        if assembler.gaps {
            let lost = (assembler.lost > 0).then_some(assembler.lost);
            self.notes.push(MissingEvidence::TraceEvents { lost });
        }
        if overwritten > 0 {
            let events = overwritten;
            self.notes.push(MissingEvidence::TraceBeginning { events });
        }
        if assembler.unitless {
            self.notes.push(MissingEvidence::TraceClock);
        }
    }

    fn feed(&mut self, assembler: &mut trace::Assembler) {
        for event in assembler.take() {
            // A recording shows the same events, and more exactly.
            if !self.recorded {
                self.alignment.event(&event);
                self.correlator.feed(&event);
            }
        }
    }

    fn settle(mut self) -> Result<Imported, Vec<Problem>> {
        if self.usable == 0 {
            return Err(self.problems);
        }
        self.correlator.settle_walks();
        let logged = logs::read(
            &self.logs,
            &self.correlator.guests(),
            &mut self.alignment,
            self.recorded || !self.seen.is_empty(),
            &mut self.notes,
        );
        if !self.recorded {
            let kernel = logged.kernel.clone();
            let hostname = self.logs.iter().find_map(|log| log.hostname.clone());
            let wall = self.alignment.wall();
            self.correlator
                .learn_session(session::session(&self.seen, kernel, hostname, wall));
        }
        logs::feed(&mut self.correlator, &logged);
        let mut incidents = self.correlator.incidents();
        let evicted = self.correlator.incidents_evicted();
        if evicted > 0 {
            let kept = incidents.len();
            self.problems.push(Problem::Evicted { evicted, kept });
        }
        for incident in &mut incidents {
            if self.unitless {
                without_times(incident);
            }
            let mut cut = self.looks_cut.iter().chain(&self.torn);
            if cut.any(|cut| may_change(cut, incident)) {
                incident.confidence = match incident.confidence {
                    Confidence::Certain => Confidence::Likely,
                    other => other,
                };
            }
            incident.missing.extend(self.notes.iter().cloned());
            incident.missing.extend(year(incident, &logged.dates));
        }
        let mut host_events = logged.host_events;
        let (others, more) = self.correlator.other_processes();
        for event in others {
            let same = |known: &&mut HostEvent| {
                known.pfn.is_some() && (known.pfn, known.pid) == (event.pfn, event.pid)
            };
            if host_events.iter_mut().find(same).is_none() {
                host_events.push(event);
            }
        }
        Ok(Imported {
            session: self.correlator.session().clone(),
            incidents,
            host_events,
            host_events_left_out: logged.host_events_left_out + more,
            problems: self.problems,
            looks_cut: self.looks_cut,
        })
    }
}

/// That the year of an incident is unknown, with its earliest date.
fn year(incident: &Incident, dates: &HashMap<String, BTreeMap<u64, Stamp>>) -> Option<MissingEvidence> {
    if incident.started_at.is_some() {
        return None;
    }
    let of_record = |record: &LogRecord| {
        let stamp = dates.get(&record.source)?.get(&record.line)?;
        Some((stamp.wall?, record.source.clone(), stamp.shown()?))
    };
    let (_, source, date) = incident.records.iter().filter_map(of_record).min()?;
    Some(MissingEvidence::Year { source, date })
}
