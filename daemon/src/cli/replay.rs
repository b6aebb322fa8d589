//! `poisontrace replay`: recordings through the daemon's own pipeline, with /metrics on. What is served is what was
//! served then, but for what only a live kernel tells: its own counters, the store, the programs' cost.

use std::{
    fs::File,
    io::{self, BufReader},
    path::Path,
    process::ExitCode,
    time::Duration,
};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::{Instant, sleep_until},
};

use super::{
    Failure, Outcome, ReplayArgs, SourceArgs, Speed, logging, output,
    pipeline::{Pipeline, Sinks},
    serving::{self, Serving},
};
use crate::{
    config::Config,
    event::{Event, recording::Reader},
    host::ClockPair,
    http::{Ready, Server},
    sinks::metrics::Metrics,
};

/// Events between two flushes at full speed.
const BATCH: usize = 4096;

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
    let mut sinks = None;
    let last = args.from.len().saturating_sub(1);
    for (n, file) in args.from.iter().enumerate() {
        let mut reader = open(file)?;
        let session = reader.session().clone();
        // Events happen now, whenever they were recorded; what is served says so.
        let first = reader.next_event().map_err(|err| wrong(file, &err))?;
        let clock = ClockPair {
            monotonic_ns: first.as_ref().map_or(0, |event| event.t),
            wall_ns: ClockPair::now().wall_ns,
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
        let mut pipeline = Pipeline::replay(session, carried, clock);
        pipeline.configure(config);
        output::print(&format!("poisontrace: replaying {}\n", file.display()))?;
        if !one(args, file, &mut reader, first, &mut pipeline, &mut outside).await? {
            return Ok(());
        }
        if n == last && args.stay {
            output::print("poisontrace: replayed, still serving\n")?;
            while outside.until(None, &mut pipeline).await {}
            return Ok(());
        }
        sinks = Some(pipeline.into_sinks());
    }
    Ok(())
}

/// One recording. Returns whether to go on with the next.
async fn one(
    args: &ReplayArgs,
    file: &Path,
    reader: &mut Reader<BufReader<File>>,
    first: Option<Event>,
    pipeline: &mut Pipeline,
    outside: &mut Outside,
) -> Result<bool, Failure> {
    let mut next = first;
    let mut due = Instant::now();
    let mut before = next.as_ref().map_or(0, |event| event.t);
    let mut batch = Vec::new();
    while let Some(event) = next {
        let pause = Duration::from_nanos(event.t.saturating_sub(before));
        before = before.max(event.t);
        if args.speed == Speed::Real {
            due += pause.min(Duration::from_secs(args.longest_pause));
            if due > Instant::now() {
                feed(pipeline, &mut batch);
                if !outside.until(Some(due), pipeline).await {
                    return Ok(false);
                }
            }
        } else if batch.len() >= BATCH {
            feed(pipeline, &mut batch);
            if !outside.until(Some(Instant::now()), pipeline).await {
                return Ok(false);
            }
        }
        batch.push(event);
        next = reader.next_event().map_err(|err| wrong(file, &err))?;
    }
    feed(pipeline, &mut batch);
    Ok(true)
}

fn feed(pipeline: &mut Pipeline, batch: &mut Vec<Event>) {
    pipeline.take(batch);
    batch.clear();
    while pipeline.flush() {}
}

impl Outside {
    /// Serves until `due` (`None`: for ever). Returns false where a signal ends the replay.
    async fn until(&mut self, due: Option<Instant>, pipeline: &mut Pipeline) -> bool {
        loop {
            let wait = async {
                match due {
                    Some(due) => sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = wait => return true,
                scrape = self.serving.next() => {
                    // A client that has gone away does not want it any more.
                    let _ = scrape.send(pipeline.scraped(&[], &[]));
                }
                _ = self.interrupt.recv() => return false,
                _ = self.terminate.recv() => return false,
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
