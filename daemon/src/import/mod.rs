//! Evidence that others kept: any mix of files, each known by its content. Traces and recordings are
//! streamed through the correlator; what logs say is little, and is put to it afterwards, on one clock.

mod align;
mod clock_notes;
mod detect;
mod lines;
mod logs;
mod merge;
mod rasdaemon;
mod session;
mod text;
pub mod trace;

use std::{
    io::BufRead,
    path::{Path, PathBuf},
};

use crate::{
    correlate::Correlator,
    event::{recording::Reader, session::Session},
    incident::model::Incident,
    text::sanitise,
};
use align::Alignment;
use detect::Opened;
use logs::Log;

/// What the files told.
pub struct Imported {
    pub session: Session,
    pub incidents: Vec<Incident>,
    /// Files that could not be used, or not to their end: one line each.
    pub problems: Vec<String>,
}

/// How many lines are read between two calls of the progress.
const PROGRESS_LINES: u64 = 65_536;

/// Reads the files. `late_death_s`: how long after the poison a guest's death still counts as its, seconds.
/// `progress` is told the lines read so far.
///
/// # Errors
/// Where none of the files can be used: the problems.
pub fn read(
    files: &[PathBuf],
    allow_truncated: bool,
    late_death_s: u64,
    progress: &mut dyn FnMut(u64),
) -> Result<Imported, Vec<String>> {
    let mut import = Import::new(allow_truncated, files.len() == 1);
    import
        .correlator
        .late_death(late_death_s.saturating_mul(1_000_000_000));
    for file in files {
        import.open(file);
    }
    import.stream(progress);
    import.settle()
}

struct Import {
    correlator: Correlator,
    alignment: Alignment,
    recorded: bool,
    alone: bool,
    allow_truncated: bool,
    usable: usize,
    sources: Vec<merge::Source<Box<dyn BufRead>>>,
    logs: Vec<Log>,
    seen: std::collections::BTreeSet<&'static str>,
    problems: Vec<String>,
    notes: Vec<String>,
}

/// A file as the answer names it.
fn name(path: &Path) -> String {
    if path.as_os_str() == "-" {
        return "standard input".to_owned();
    }
    let name = path.file_name().unwrap_or(path.as_os_str());
    sanitise(&name.to_string_lossy(), 80)
}

impl Import {
    fn new(allow_truncated: bool, alone: bool) -> Self {
        Self {
            correlator: Correlator::new(Session::default()),
            alignment: Alignment::default(),
            recorded: false,
            alone,
            allow_truncated,
            usable: 0,
            sources: Vec::new(),
            logs: Vec::new(),
            seen: std::collections::BTreeSet::new(),
            problems: Vec::new(),
            notes: Vec::new(),
        }
    }

    fn problem(&mut self, file: &Path, problem: &dyn std::fmt::Display) {
        self.problems.push(format!("{}: {problem}", file.display()));
    }

    fn open(&mut self, file: &Path) {
        match detect::open(file) {
            Ok(Opened::Recording(input)) => match self.recording(file, input) {
                Ok(()) => self.usable += 1,
                Err(problem) => self.problem(file, &problem),
            },
            Ok(Opened::Text(input)) => {
                self.sources
                    .push(merge::Source::new(file.to_owned(), name(file), input))
            }
            Ok(Opened::Sqlite) => match rasdaemon::read(file) {
                Ok(items) => {
                    self.usable += 1;
                    self.logs.push(Log::of_host(name(file), items));
                }
                Err(problem) => self.problem(file, &problem),
            },
            Err(problem) => self.problem(file, &problem),
        }
    }

    fn recording(&mut self, file: &Path, input: Box<dyn BufRead>) -> Result<(), String> {
        // Among other files a torn recording is better than none; alone it is asked about.
        let torn_is_fine = self.allow_truncated || !self.alone;
        let mut reader = Reader::new(input, torn_is_fine).map_err(|err| err.to_string())?;
        if !self.recorded {
            self.recorded = true;
            self.correlator.learn_session(reader.session().clone());
        }
        loop {
            match reader.next_event() {
                Ok(Some(event)) => {
                    self.alignment.event(&event);
                    self.correlator.feed(&event);
                }
                Ok(None) => break,
                Err(err) if self.alone => return Err(err.to_string()),
                Err(err) => {
                    self.problem(file, &err);
                    break;
                }
            }
        }
        if reader.truncated() {
            self.notes
                .push("the end of the recording: what came after it is not known".to_owned());
        }
        Ok(())
    }

    fn stream(&mut self, progress: &mut dyn FnMut(u64)) {
        let sources = std::mem::take(&mut self.sources);
        if sources.is_empty() {
            return;
        }
        let mut merged = merge::Merge::new(sources);
        let mut assembler = trace::Assembler::default();
        let mut next_progress = PROGRESS_LINES;
        while merged.step(&mut assembler) {
            if !assembler.is_idle() {
                self.feed(&mut assembler);
            }
            if merged.lines() >= next_progress {
                next_progress = merged.lines() + PROGRESS_LINES;
                progress(merged.lines());
            }
        }
        assembler.finish();
        self.feed(&mut assembler);
        if assembler.lost > 0 && !self.recorded {
            self.notes.push(format!(
                "{} events that the tracer itself lost: counts are at least what is shown",
                assembler.lost
            ));
        }
        let loose = std::mem::take(&mut assembler.loose);
        if !self.recorded {
            self.seen = assembler.seen;
        } else if !assembler.seen.is_empty() {
            self.notes
                .push("the trace beside the recording is not used: the recording tells the same".to_owned());
        }
        for (file, log, outcome) in merged.finish() {
            match outcome {
                Ok(()) => {
                    self.usable += 1;
                    self.logs.push(log);
                }
                Err(problem) => {
                    self.problem(&file, &problem);
                    if log.useful() {
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

    fn feed(&mut self, assembler: &mut trace::Assembler) {
        for event in assembler.take() {
            // A recording tells of the same events, and more exactly.
            if !self.recorded {
                self.alignment.event(&event);
                self.correlator.feed(&event);
            }
        }
    }

    fn settle(mut self) -> Result<Imported, Vec<String>> {
        if self.usable == 0 {
            return Err(self.problems);
        }
        logs::settle_speakers(&mut self.logs);
        let events = logs::events(
            &self.logs,
            &mut self.alignment,
            self.recorded || !self.seen.is_empty(),
            &mut self.notes,
        );
        if !self.recorded {
            let kernel = self.logs.iter().find_map(Log::host_kernel);
            let hostname = self.logs.iter().find_map(|log| log.hostname.clone());
            let wall = self.alignment.wall();
            self.correlator
                .learn_session(session::session(&self.seen, kernel, hostname, wall));
        }
        for event in &events {
            self.correlator.feed(event);
        }
        let mut incidents = self.correlator.incidents();
        for incident in &mut incidents {
            incident.missing.extend(self.notes.iter().cloned());
        }
        Ok(Imported {
            session: self.correlator.session().clone(),
            incidents,
            problems: self.problems,
        })
    }
}
