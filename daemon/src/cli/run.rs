//! `poisontrace run` and `poisontrace record`: the daemon.

use std::{process::ExitCode, time::Duration};

use aya_log::EbpfLogger;
use tokio::{
    signal::unix::{SignalKind, signal},
    time::{Instant, MissedTickBehavior, interval_at, sleep, sleep_until},
};

use super::{Failure, Outcome, RecordArgs, RunArgs, attach, output, pipeline::Pipeline};
use crate::{host::ClockPair, probes::source::Source, sinks::store::Store};

/// Changes are handed to the store and the log at most this often.
const FLUSH: Duration = Duration::from_millis(50);
/// How often the totals are read while they change.
const STORM: Duration = Duration::from_secs(1);
/// How often new VMs are looked for, and a failed store is tried again.
const LOOK: Duration = Duration::from_secs(10);

pub fn run(args: &RunArgs, log_level: u8) -> Outcome {
    let facts = attach::facts(&args.probes)?;
    let mut attached = attach::probes(facts, log_level, args.guest.read_guest_code)?;
    let store = Store::create(&args.state.state_dir, &attached.session.host)?;
    let pipeline = Pipeline::new(
        attached.session.clone(),
        Some(store),
        args.record.as_deref(),
        args.guest.read_guest_code,
    )?;
    serve(&mut attached, pipeline)
}

pub fn record(args: &RecordArgs, log_level: u8) -> Outcome {
    let facts = attach::facts(&args.probes)?;
    let mut attached = attach::probes(facts, log_level, args.guest.read_guest_code)?;
    let pipeline = Pipeline::new(
        attached.session.clone(),
        None,
        Some(&args.output),
        args.guest.read_guest_code,
    )?;
    serve(&mut attached, pipeline)
}

fn serve(attached: &mut attach::Attached, pipeline: Pipeline) -> Outcome {
    attach::print_probes(&attached.loaded, false)?;
    attach::print_limits(&attached.facts)?;
    attach::print_verdict(&attached.session)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|err| Failure::new(format!("cannot start the event loop: {err}")))?;
    runtime.block_on(events(attached, pipeline))?;
    Ok(ExitCode::SUCCESS)
}

async fn events(attached: &mut attach::Attached, mut pipeline: Pipeline) -> Result<(), Failure> {
    let mut source = Source::new(&mut attached.loaded, attached.decoder.clone())?.watched()?;
    let mut logger = probe_logger(attached);
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut look = interval_at(Instant::now() + LOOK, LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    pipeline.look_around(ClockPair::now().monotonic_ns);
    output::print("poisontrace: ready\n")?;

    // While nothing waits to be flushed there is no timer to wake up for.
    let mut flush_at: Option<Instant> = None;
    // In a storm most exits send no record; their totals are then read every second while they change.
    let mut storming = false;
    loop {
        let storm = async {
            match storming {
                true => sleep(STORM).await,
                false => std::future::pending().await,
            }
        };
        let flush = async {
            match flush_at {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            ready = source.readable_mut() => {
                let mut ready = ready?;
                let events = ready.get_inner_mut().drain();
                if events.is_empty() {
                    // Nothing left: wait for the next record. One that came in between wakes us again.
                    ready.clear_ready();
                    continue;
                }
                pipeline.take(&events);
                flush_logger(&mut logger);
                storming |= source.get_ref().has_totals();
                flush_at.get_or_insert_with(|| Instant::now() + FLUSH);
            }
            () = flush => {
                flush_at = None;
                pipeline.take(&source.get_mut().totals());
                pipeline.flush();
            }
            () = storm => {
                let totals = source.get_mut().totals();
                storming = !totals.is_empty();
                pipeline.take(&totals);
                pipeline.flush();
            }
            _ = look.tick() => {
                storming |= source.get_ref().has_totals();
                pipeline.look_around(ClockPair::now().monotonic_ns);
                flush_logger(&mut logger);
                if pipeline.store_is_behind() {
                    pipeline.flush();
                }
            }
            _ = interrupt.recv() => break,
            _ = terminate.recv() => break,
        }
    }
    tracing::info!("stopping");
    loop {
        let events = source.get_mut().drain();
        if events.is_empty() {
            break;
        }
        pipeline.take(&events);
    }
    pipeline.take(&source.get_mut().totals());
    flush_logger(&mut logger);
    pipeline.finish()
}

type Logger = EbpfLogger<&'static dyn log::Log>;

/// The probes' own diagnostics go to our log, through the `log` facade that aya-log speaks.
fn probe_logger(attached: &mut attach::Attached) -> Option<Logger> {
    match EbpfLogger::init(&mut attached.loaded.ebpf) {
        Ok(logger) => Some(logger),
        Err(err) => {
            tracing::debug!(error = %err, "no diagnostics of the BPF programs");
            None
        }
    }
}

fn flush_logger(logger: &mut Option<Logger>) {
    if let Some(logger) = logger {
        logger.flush();
    }
}
