//! The way through the house on one core: records or a recording, through decode and correlator to what the store is
//! handed (its database has a thread of its own). What is fed is made on the fly, so its length costs no memory.

mod json;
mod records;
mod stream;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use poisontrace_model::correlate::Correlator;
use poisontrace_model::event::Event;
use poisontrace_model::event::session::Session;
use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;

/// As the daemon hands changes to the store.
const FLUSH: Duration = Duration::from_millis(50);
/// Events between two looks at the clock, as the daemon takes them from the ring buffer.
const BATCH: u64 = 4096;

#[derive(clap::Args)]
pub struct Options {
    /// Only this
    #[arg(long, value_enum)]
    input: Option<Input>,
    #[arg(long, default_value_t = 100_000_000)]
    events: u64,
    #[arg(long)]
    json: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Input {
    /// Records as the probes make them
    Records,
    /// Lines of a recording
    Recording,
}

/// How far it was after so many events: each power of ten from a million on, and the last.
#[derive(Serialize)]
struct Milestone {
    input: Input,
    events: u64,
    /// Of the core.
    seconds: f64,
    events_per_second: f64,
    resident_kib: u64,
    incidents: usize,
}

const FIRST_MILESTONE: u64 = 1_000_000;

pub fn run(options: &Options) -> Result<()> {
    let mut milestones = Vec::new();
    for input in [Input::Records, Input::Recording] {
        if options.input.is_none_or(|only| only == input) {
            milestones.extend(through(input, options.events)?);
        }
    }
    if let Some(path) = &options.json {
        std::fs::write(path, serde_json::to_string_pretty(&milestones)? + "\n")
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    println!("| from | events | M events a second and core | resident |\n|---|---|---|---|");
    for reached in &milestones {
        println!(
            "| {} | {} M | {:.2} | {:.1} MiB |",
            match reached.input {
                Input::Records => "the probes' records",
                Input::Recording => "a recording",
            },
            (reached.events as f64 / 1e6).round(),
            reached.events_per_second / 1e6,
            reached.resident_kib as f64 / 1024.0
        );
    }
    Ok(())
}

fn through(input: Input, events: u64) -> Result<Vec<Milestone>> {
    let mut sink = Sink::new(input, events);
    match input {
        Input::Records => {
            let mut records = records::Records::new();
            while sink.wants_more() {
                sink.take(&records.next_event()?)?;
            }
        }
        Input::Recording => {
            let mut recording = json::recording(events)?;
            while let Some(event) = recording.next_event().map_err(|error| anyhow!("{error}"))? {
                sink.take(&event)?;
            }
        }
    }
    sink.finish()
}

/// Time that this process has had of its core, whatever else the machine does.
fn used() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(
        time.tv_sec.cast_unsigned(),
        u32::try_from(time.tv_nsec).unwrap_or(0),
    )
}

struct Sink {
    input: Input,
    correlator: Correlator,
    /// Bytes of incidents in the store's form.
    stored: u64,
    events: u64,
    wanted: u64,
    next_milestone: u64,
    milestones: Vec<Milestone>,
    started: Duration,
    flushed: Duration,
}

impl Sink {
    fn new(input: Input, wanted: u64) -> Self {
        Self {
            input,
            correlator: Correlator::new(Session::default()),
            stored: 0,
            events: 0,
            wanted,
            next_milestone: FIRST_MILESTONE,
            milestones: Vec::new(),
            started: used(),
            flushed: used(),
        }
    }

    fn wants_more(&self) -> bool {
        self.events < self.wanted
    }

    fn take(&mut self, event: &Event) -> Result<()> {
        self.correlator.feed(event);
        self.events += 1;
        if self.events.is_multiple_of(BATCH) && used() - self.flushed >= FLUSH {
            self.flush()?;
        }
        if self.events == self.next_milestone {
            self.reached()?;
            self.next_milestone *= 10;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        for update in self.correlator.take_changed() {
            self.stored +=
                serde_json::to_string(&poisontrace_report::document(update.incident))?.len() as u64;
        }
        self.flushed = used();
        Ok(())
    }

    fn reached(&mut self) -> Result<()> {
        let seconds = (used() - self.started).as_secs_f64();
        self.milestones.push(Milestone {
            input: self.input,
            events: self.events,
            seconds,
            events_per_second: self.events as f64 / seconds,
            resident_kib: resident_kib().context("no VmRSS")?,
            incidents: self.correlator.incidents().len(),
        });
        Ok(())
    }

    fn finish(mut self) -> Result<Vec<Milestone>> {
        self.flush()?;
        ensure!(
            !self.correlator.incidents().is_empty(),
            "the events made no incident"
        );
        if self
            .milestones
            .last()
            .is_none_or(|last| last.events != self.events)
        {
            self.reached()?;
        }
        Ok(self.milestones)
    }
}

/// Resident memory of this process, KiB.
fn resident_kib() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().split(' ').next()?.parse().ok()
}
