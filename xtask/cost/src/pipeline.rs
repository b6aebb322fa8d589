//! The way through the house on one core: records or a recording, through decode and correlator to what the store is
//! handed (its database has a thread of its own). What is fed is made on the fly, so its length costs no memory.

mod json;
mod records;
mod stream;

use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use poisontrace::correlate::Correlator;
use poisontrace::event::Event;
use poisontrace::event::session::Session;
use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;

use crate::resident_kib;

/// As the daemon hands changes to the store.
const FLUSH: Duration = Duration::from_millis(50);
/// Events between two looks at the clock, as the daemon takes them from the ring buffer.
const BATCH: u64 = 4096;

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Input {
    /// Records as the probes make them
    Records,
    /// Lines of a recording
    Recording,
}

/// One line a tenth of the way, and the last for the whole.
#[derive(Serialize)]
struct Progress {
    events: u64,
    /// Of the core.
    seconds: f64,
    events_per_second: f64,
    resident_kib: u64,
    incidents: usize,
}

pub fn run(input: Input, events: u64) -> Result<()> {
    let mut sink = Sink::new(events);
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
    correlator: Correlator,
    /// Bytes of incidents in the store's form.
    stored: u64,
    events: u64,
    wanted: u64,
    started: Duration,
    flushed: Duration,
}

impl Sink {
    fn new(wanted: u64) -> Self {
        Self {
            correlator: Correlator::new(Session::default()),
            stored: 0,
            events: 0,
            wanted,
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
        if self.events.is_multiple_of((self.wanted / 10).max(1)) {
            self.tell()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        for update in self.correlator.take_changed() {
            self.stored += serde_json::to_string(&update.incident)?.len() as u64;
        }
        self.flushed = used();
        Ok(())
    }

    fn tell(&self) -> Result<()> {
        let seconds = (used() - self.started).as_secs_f64();
        let progress = Progress {
            events: self.events,
            seconds,
            events_per_second: self.events as f64 / seconds,
            resident_kib: resident_kib().context("no VmRSS")?,
            incidents: self.correlator.incidents().len(),
        };
        println!("{}", serde_json::to_string(&progress)?);
        Ok(())
    }

    fn finish(mut self) -> Result<()> {
        self.flush()?;
        ensure!(
            !self.correlator.incidents().is_empty(),
            "the events made no incident"
        );
        Ok(())
    }
}
