//! `poisontrace replay`: recordings through the daemon's own pipeline, with /metrics on. What is served is what was
//! served then, but for what only a live kernel tells: its own counters, the programs' cost. Nothing is stored unless a
//! folder is named for it, which is never the daemon's own by default.

use std::{
    fs::File,
    io::{self, BufReader},
    path::Path,
    process::ExitCode,
    time::Duration,
};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
    task::yield_now,
    time::{Instant, sleep, sleep_until},
};

use super::{
    Failure, Outcome, ReplayArgs, SourceArgs, Speed, logging, output,
    pipeline::{Pipeline, Sinks},
    serving::{self, Serving},
};
use crate::{
    config::Config,
    http::{Ready, Server},
    sinks::{
        metrics::Metrics,
        store::{Store, survive_file_size_limit},
    },
};
use poisontrace_model::{event::Event, host::ClockPair};
use poisontrace_recording::{Reader, RecordingError};

/// Events between two flushes at full speed.
const BATCH: usize = 256;
/// Between two looks whether the store has room again.
const DISK: Duration = Duration::from_millis(5);

pub fn replay(args: &ReplayArgs, source: &SourceArgs) -> Outcome {
    let mut layers = source.layers();
    args.web.note(&mut layers);
    layers.flag("metrics.vm_labels", args.vm_labels.then_some(true));
    let config = layers.read()?;
    logging::start(&config.log);
    let server = serving::server(&config.web, Ready::Yes)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|err| Failure::new(format!("cannot start the event loop: {err}")))?;
    runtime.block_on(all(args, &config, server))?;
    Ok(ExitCode::SUCCESS)
}

/// What can end a replay, and what it serves meanwhile.
struct Outside {
    serving: Serving,
    interrupt: Signal,
    terminate: Signal,
}

async fn all(args: &ReplayArgs, config: &Config, server: Option<Server>) -> Result<(), Failure> {
    let mut outside = Outside {
        serving: Serving::start(server)?,
        interrupt: signal(SignalKind::interrupt())?,
        terminate: signal(SignalKind::terminate())?,
    };
    let _file_size_limit = survive_file_size_limit()?;
    let mut sinks = None;
    let last = args.from.len().saturating_sub(1);
    for (n, file) in args.from.iter().enumerate() {
        let mut reader = open(file)?;
        let session = reader.session().clone();
        // Events happen now, whenever they were recorded; what is served says so.
        let first = reader.next_event().map_err(|err| wrong(file, &err))?;
        let clock = ClockPair {
            monotonic_ns: first.as_ref().map_or(0, |event| event.t),
            wall_ns: crate::machine::clock_pair().wall_ns,
        };
        let carried = match sinks.take() {
            Some(sinks) => sinks,
            None => {
                let max_vms = config
                    .metrics
                    .vm_labels
                    .then_some(config.metrics.max_vms as usize);
                Sinks::new(Metrics::new(&session, clock, max_vms)?)
            }
        };
        let store = args.state_dir.as_ref().map(|dir| {
            let store = Store::start(dir, &session.host, config.store.retention());
            (store, dir.clone())
        });
        let mut pipeline = Pipeline::replay(session, carried, clock, store);
        pipeline.configure(config);
        output::print(&format!("poisontrace: replaying {}\n", file.display()))?;
        let mut events = read(first, reader)?;
        if !one(args, file, &mut events, &mut pipeline, &mut outside).await? {
            return pipeline.finish();
        }
        if n == last && args.stay {
            output::print("poisontrace: replayed, still serving\n")?;
            let for_ever = std::future::pending::<()>();
            outside.during(for_ever, &mut pipeline).await;
            return pipeline.finish();
        }
        sinks = Some(pipeline.into_sinks());
    }
    Ok(())
}

/// One recording. Returns whether to go on with the next.
async fn one(
    args: &ReplayArgs,
    file: &Path,
    events: &mut Events,
    pipeline: &mut Pipeline,
    outside: &mut Outside,
) -> Result<bool, Failure> {
    let mut due = Instant::now();
    let mut before = None;
    let mut batch = Vec::new();
    let at_once = match args.speed {
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
        if let (Speed::Real, Some(event)) = (args.speed, ready.first()) {
            let pause = Duration::from_nanos(event.t.saturating_sub(before.unwrap_or(event.t)));
            before = before.max(Some(event.t));
            due += pause.min(Duration::from_secs(args.longest_pause));
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
                    let _ = scrape.send(pipeline.scraped(&[], &[], 0));
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
