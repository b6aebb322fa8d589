//! The way through the house on one core: records or a recording, through decode and correlator into the store. No
//! probes and no file of events: what is fed is made on the fly, so its length costs no memory.

mod json;
mod records;
mod stream;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use poisontrace::correlate::Correlator;
use poisontrace::event::Event;
use poisontrace::event::session::Session;
use poisontrace::sinks::store::Store;
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
    seconds: f64,
    events_per_second: f64,
    resident_kib: u64,
    incidents: usize,
}

pub fn run(input: Input, events: u64) -> Result<()> {
    let folder = std::env::temp_dir().join(format!("poisontrace-bench-{}", std::process::id()));
    let result = feed(input, events, &folder);
    std::fs::remove_dir_all(&folder).ok();
    result
}

fn feed(input: Input, events: u64, folder: &std::path::Path) -> Result<()> {
    let session = Session::default();
    let store = Store::create(folder, &session.host).map_err(|error| anyhow!("{error}"))?;
    let mut sink = Sink::new(session, store, events);
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

struct Sink {
    correlator: Correlator,
    store: Store,
    events: u64,
    wanted: u64,
    started: Instant,
    flushed: Instant,
}

impl Sink {
    fn new(session: Session, store: Store, wanted: u64) -> Self {
        Self {
            correlator: Correlator::new(session),
            store,
            events: 0,
            wanted,
            started: Instant::now(),
            flushed: Instant::now(),
        }
    }

    fn wants_more(&self) -> bool {
        self.events < self.wanted
    }

    fn take(&mut self, event: &Event) -> Result<()> {
        self.correlator.feed(event);
        self.events += 1;
        if self.events.is_multiple_of(BATCH) && self.flushed.elapsed() >= FLUSH {
            self.flush()?;
        }
        if self.events.is_multiple_of((self.wanted / 10).max(1)) {
            self.tell()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        let changed = self.correlator.take_changed();
        let incidents = changed.into_iter().map(|update| update.incident).collect();
        self.store.put(incidents).map_err(|error| anyhow!("{error}"))?;
        self.flushed = Instant::now();
        Ok(())
    }

    fn tell(&self) -> Result<()> {
        let seconds = self.started.elapsed().as_secs_f64();
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
