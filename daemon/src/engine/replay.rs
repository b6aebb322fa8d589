//! `poisontrace replay`: recordings through the daemon's own pipeline, with /metrics on. What is served is what was
//! served then, but for what only a live kernel has: its own counters, the programs' cost. Nothing is stored unless a
//! folder is named for it, which is never the daemon's own by default.

use std::{
    fs::File,
    io::{self, BufReader},
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
    task::yield_now,
    time::{Instant, sleep, sleep_until},
};

use super::{
    pipeline::Pipeline,
    serving::{self, Serving},
};
use crate::{
    config::Config,
    failure::Failure,
    outputs::{
        Outputs,
        metrics::{KernelTables, Metrics},
        store::{Retention, Store, survive_file_size_limit},
    },
    terminal,
};
use poisontrace_http::{Ready, Server};
use poisontrace_model::{event::Event, host::ClockPair};
use poisontrace_recording::{Reader, RecordingError};
use poisontrace_sources::host::machine;

/// Events between two flushes at full speed.
const BATCH: usize = 256;
/// Between two looks whether the store has room again.
const DISK: Duration = Duration::from_millis(5);

/// What is replayed, and how.
pub struct ReplayOptions {
    pub config: Config,
    /// Whether the log takes each incident's JSON.
    pub log_json: bool,
    /// Recordings, one after the other.
    pub from: Vec<PathBuf>,
    /// Where the incidents are stored; `None`: nowhere.
    pub state_dir: Option<PathBuf>,
    pub speed: Speed,
    /// Longest pause.
    pub max_pause: Duration,
    /// Whether to serve after the last recording, until a signal.
    pub keep_serving: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Speed {
    /// As it happened.
    Real,
    /// As fast as it goes.
    Max,
}

pub fn replay(options: &ReplayOptions) -> Result<(), Failure> {
    let server = serving::server(&options.config.web, Ready::Yes, options.state_dir.as_deref())?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|err| Failure::new(format!("cannot start the event loop: {err}")))?;
    runtime.block_on(all(options, server))
}

/// What can end a replay, and what it serves meanwhile.
struct Outside {
    serving: Serving,
    interrupt: Signal,
    terminate: Signal,
}

async fn all(options: &ReplayOptions, server: Option<Server>) -> Result<(), Failure> {
    let mut outside = Outside {
        serving: Serving::start(server)?,
        interrupt: signal(SignalKind::interrupt())?,
        terminate: signal(SignalKind::terminate())?,
    };
    let _file_size_limit = survive_file_size_limit()?;
    let mut carried = None;
    let last = options.from.len().saturating_sub(1);
    for (n, file) in options.from.iter().enumerate() {
        let mut reader = open(file)?;
        let session = reader.session().clone();
        // Events happen now, whenever they were recorded.
        let first = reader.next_event().map_err(|err| wrong(file, &err))?;
        let clock = ClockPair {
            monotonic_ns: first.as_ref().map_or(0, |event| event.t),
            wall_ns: machine::clock_pair().wall_ns,
        };
        let mut outputs = match carried.take() {
            Some(outputs) => outputs,
            None => {
                let max_vms = options.config.metrics.max_labelled_vms();
                Outputs::new(Metrics::new(&session, clock, max_vms)?)
            }
        };
        outputs.log.json = options.log_json;
        outputs.store = options
            .state_dir
            .as_ref()
            .map(|dir| Store::start(dir, &session.host, Retention::from(&options.config.store)));
        let mut pipeline = Pipeline::replay(session, outputs, clock);
        pipeline.configure(&options.config);
        terminal::print(&format!("poisontrace: replaying {}\n", file.display()))?;
        let mut events = read(first, reader)?;
        if !one(options, file, &mut events, &mut pipeline, &mut outside).await? {
            return pipeline.finish();
        }
        if n == last && options.keep_serving {
            terminal::print("poisontrace: replayed, still serving\n")?;
            let for_ever = std::future::pending::<()>();
            outside.during(for_ever, &mut pipeline).await;
            return pipeline.finish();
        }
        carried = Some(pipeline.into_outputs());
    }
    Ok(())
}

/// One recording. Returns whether to go on with the next.
async fn one(
    options: &ReplayOptions,
    file: &Path,
    events: &mut Events,
    pipeline: &mut Pipeline,
    outside: &mut Outside,
) -> Result<bool, Failure> {
    let mut due = Instant::now();
    let mut before = None;
    let mut batch = Vec::new();
    let at_once = match options.speed {
        Speed::Real => 1,
        Speed::Max => BATCH,
    };
    while let Some(count) = outside
        .during(events.recv_many(&mut batch, at_once), pipeline)
        .await
    {
        if count == 0 {
            return Ok(true);
        }
        let mut ready = Vec::with_capacity(count);
        for event in batch.drain(..) {
            ready.push(event.map_err(|err| wrong(file, &err))?);
        }
        if let (Speed::Real, Some(event)) = (options.speed, ready.first()) {
            let pause = Duration::from_nanos(event.t.saturating_sub(before.unwrap_or(event.t)));
            before = before.max(Some(event.t));
            due += pause.min(options.max_pause);
            if outside.during(sleep_until(due), pipeline).await.is_none() {
                return Ok(false);
            }
        }
        pipeline.take(&ready);
        // The connections are tasks of this thread too, and a recording that is read fast enough never waits.
        yield_now().await;
        // Unlike a kernel, a recording can wait for the disk.
        while pipeline.flush() {
            if outside.during(sleep(DISK), pipeline).await.is_none() {
                return Ok(false);
            }
        }
    }
    Ok(false)
}

type Events = mpsc::Receiver<Result<Event, RecordingError>>;

/// Reads on a thread: a pipe that gives nothing for a while must not keep scrapes and signals waiting.
fn read(first: Option<Event>, mut reader: Reader<BufReader<File>>) -> Result<Events, Failure> {
    let (sender, events) = mpsc::channel(8 * BATCH);
    std::thread::Builder::new()
        .name("recording".to_owned())
        .spawn(move || {
            let mut next = Ok(first);
            while let Some(event) = next.transpose() {
                let last = event.is_err();
                if sender.blocking_send(event).is_err() || last {
                    return;
                }
                next = reader.next_event();
            }
        })?;
    Ok(events)
}

impl Outside {
    /// Serves until `work` is done; `None` where a signal ends the replay before.
    async fn during<T>(&mut self, work: impl Future<Output = T>, pipeline: &mut Pipeline) -> Option<T> {
        tokio::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return Some(done),
                scrape = self.serving.next() => {
                    // A client that has gone away does not want it any more.
                    let _ = scrape.send(pipeline.scraped(&[], &[], KernelTables::default()));
                }
                _ = self.interrupt.recv() => return None,
                _ = self.terminate.recv() => return None,
            }
        }
    }
}

fn open(file: &Path) -> Result<Reader<BufReader<File>>, Failure> {
    let opened = File::open(file).map_err(|err| match err.kind() {
        io::ErrorKind::NotFound => wrong(
            file,
            &"there is no such file: `poisontrace record -o FILE` makes a recording, `run --record FILE` too",
        ),
        _ => wrong(file, &err),
    })?;
    Reader::new(BufReader::new(opened), false).map_err(|err| wrong(file, &err))
}

fn wrong(file: &Path, err: &dyn std::fmt::Display) -> Failure {
    Failure::new(format!("{}: {err}", file.display()))
}
