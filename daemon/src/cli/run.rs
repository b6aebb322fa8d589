//! `poisontrace run` and `poisontrace record`: the daemon.

use std::{path::Path, process::ExitCode, time::Duration};

use aya_log::EbpfLogger;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    task::yield_now,
    time::{Instant, MissedTickBehavior, interval_at, sleep, sleep_until},
};

use super::{
    Failure, Outcome, RecordArgs, RunArgs, SourceArgs, attach,
    kvm::{self, Follower},
    logging, output,
    pipeline::{Pipeline, Sinks},
    serving::{self, Serving},
};
use crate::{
    config::{Config, Layers, needs_restart},
    http::{Ready, Server},
    notify::{self, Beat, Heart},
    pins::{self, Pins},
    probes::{memory::forget_start, source::Source},
    sinks::{
        metrics::Metrics,
        store::{Store, survive_file_size_limit},
    },
    survey::{Found, Survey},
};
use poisontrace_model::event::{Event, What};

/// Changes are handed to the store and the log at most this often.
const FLUSH: Duration = Duration::from_millis(50);
/// The first proof of life is looked for so soon after the start.
const FIRST_PROOF: Duration = Duration::from_secs(2);
/// How often the totals are read while they change.
const STORM: Duration = Duration::from_secs(1);
/// How often new VMs are looked for, and a failed store is tried again.
const LOOK: Duration = Duration::from_secs(10);

pub fn run(args: &RunArgs, source: &SourceArgs) -> Outcome {
    let (layers, config) = args.settings(source)?;
    let log = logging::start(&config.log);
    kvm::wait(|| notify::ready("waiting for KVM"))?;
    let mut attached = attach::probes(
        &args.probes,
        logging::probe_level(config.log.level),
        config.guest.read_code,
        (!args.no_pins)
            .then(|| Pins::take(Path::new(pins::ROOT)))
            .flatten(),
    )?;
    let ready = serving::readiness(|name| attached.loaded.has(name));
    let server = serving::server(&config.web, ready)?;
    attached.give_up_privileges()?;
    let max_vms = config
        .metrics
        .vm_labels
        .then_some(config.metrics.max_vms as usize);
    let mut sinks = Sinks::new(Metrics::new(&attached.session, attached.session.clock, max_vms)?);
    let store = Store::start(
        &config.state_dir,
        &attached.session.host,
        config.store.retention(),
    );
    sinks.log_json = log.to_journal();
    let mut pipeline = Pipeline::live(
        attached.session.clone(),
        sinks,
        Some((store, config.state_dir.clone())),
        args.record.as_deref(),
        config.guest.read_code,
        config.vmm.places(),
    )?;
    pipeline.configure(&config);
    pipeline.resume(&config.state_dir, attached.loaded.meanwhile());
    let settings = Settings { layers, config, log };
    serve(&mut attached, pipeline, server, Some(settings))
}

pub fn record(args: &RecordArgs, source: &SourceArgs) -> Outcome {
    let config = source.layers().read()?;
    let read_code = args.guest.read_guest_code || config.guest.read_code;
    logging::start(&config.log);
    kvm::wait(|| {})?;
    let mut attached = attach::probes(
        &args.probes,
        logging::probe_level(config.log.level),
        read_code,
        None,
    )?;
    attached.give_up_privileges()?;
    let sinks = Sinks::new(Metrics::new(&attached.session, attached.session.clock, None)?);
    let mut pipeline = Pipeline::live(
        attached.session.clone(),
        sinks,
        None,
        Some(&args.output),
        read_code,
        config.vmm.places(),
    )?;
    pipeline.configure(&config);
    serve(&mut attached, pipeline, None, None)
}

/// What SIGHUP reads again.
struct Settings {
    layers: Layers,
    /// As they were at the start.
    config: Config,
    log: logging::Handle,
}

impl Settings {
    /// Takes over what can be changed while running.
    fn reload(&self, pipeline: &mut Pipeline, serving: &Serving) {
        let new = match self.layers.read() {
            Ok(new) => new,
            Err(err) => {
                tracing::error!(error = %err, "the configuration is not taken over; the one before holds");
                return;
            }
        };
        for problem in new.problems() {
            tracing::warn!("{problem}");
        }
        let rest = needs_restart(&self.config, &new);
        if !rest.is_empty() {
            tracing::warn!(
                keys = rest.join(", "),
                "these settings change with a restart only"
            );
        }
        self.log.level(new.log.level);
        pipeline.configure(&new);
        serving.reload();
        tracing::info!("the configuration has been read again");
    }
}

fn serve(
    attached: &mut attach::Attached,
    pipeline: Pipeline,
    server: Option<Server>,
    settings: Option<Settings>,
) -> Outcome {
    attach::print_probes(&attached.loaded, false)?;
    attach::print_limits(&attached.facts)?;
    attach::print_verdict(&attached.session)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|err| Failure::new(format!("cannot start the event loop: {err}")))?;
    runtime.block_on(events(attached, pipeline, server, settings))?;
    Ok(ExitCode::SUCCESS)
}

async fn events(
    attached: &mut attach::Attached,
    mut pipeline: Pipeline,
    server: Option<Server>,
    settings: Option<Settings>,
) -> Result<(), Failure> {
    let mut source = Source::new(&mut attached.loaded, attached.decoder.clone())?.watched()?;
    let mut logger = probe_logger(attached);
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let _file_size_limit = survive_file_size_limit()?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut successor = signal(SignalKind::user_defined1())?;
    let mut look = interval_at(Instant::now() + LOOK, LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut kvm = Follower::new();
    if take_all(&mut pipeline, source.get_mut()) && attached.loaded.on_standby() {
        pipeline.take(&[engage(attached)]);
    }
    pipeline.unwatched(attached.loaded.meanwhile());
    pipeline.bury();
    pipeline.look_around(crate::machine::clock_pair().monotonic_ns);
    pipeline.reconcile();
    let mut survey = attached.survey.take().map(Survey::start).transpose()?;
    if let Some(settings) = &settings {
        pipeline.start_hook(settings.config.hook.clone());
    }
    let mut serving = Serving::start(server)?;
    output::print("poisontrace: ready\n")?;
    notify::ready(&attach::status(&attached.session));
    let mut heart = Heart::default();
    let mut proof = interval_at(Instant::now() + FIRST_PROOF, notify::proof_interval());
    proof.set_missed_tick_behavior(MissedTickBehavior::Delay);
    heart.ask();
    forget_start();

    // While nothing waits to be flushed there is no timer to wake up for. Once, for what a daemon before left.
    let mut flush_at = Some(Instant::now() + FLUSH);
    // In a storm most exits send no record; their totals are then read every second while they change.
    let mut storming = false;
    let mut failed = None;
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
                // Before all else: what it attaches is not seen until then.
                let engaged = attached.loaded.on_standby().then(|| engage(attached));
                pipeline.take(&events);
                pipeline.take(engaged.as_slice());
                flush_logger(&mut logger);
                // A flood leaves no moment in which nothing is ready; the connections are tasks of this thread too.
                yield_now().await;
                storming |= source.get_ref().has_totals();
                flush_at.get_or_insert_with(|| Instant::now() + FLUSH);
            }
            found = next(&mut survey) => {
                pipeline.found(found);
                flush_at.get_or_insert_with(|| Instant::now() + FLUSH);
            }
            heard = pipeline.heard() => {
                pipeline.take(&[heard]);
                flush_at.get_or_insert_with(|| Instant::now() + FLUSH);
            }
            () = flush => {
                flush_at = None;
                pipeline.take(&source.get_mut().totals());
                if pipeline.flush() {
                    flush_at = Some(Instant::now() + FLUSH);
                }
            }
            () = storm => {
                let totals = source.get_mut().totals();
                storming = !totals.is_empty();
                pipeline.take(&totals);
                if pipeline.flush() {
                    flush_at.get_or_insert_with(|| Instant::now() + FLUSH);
                }
            }
            () = kvm.news() => {
                if let Err(reason) = kvm.follow(attached) {
                    failed = Some(reason);
                    break;
                }
                serving.ready(ready(attached, &heart));
            }
            _ = look.tick() => {
                if let Err(reason) = kvm.follow(attached) {
                    failed = Some(reason);
                    break;
                }
                serving.ready(ready(attached, &heart));
                storming |= source.get_ref().has_totals();
                pipeline.look_around(crate::machine::clock_pair().monotonic_ns);
                pipeline.reconcile();
                flush_logger(&mut logger);
                if pipeline.store_is_behind() && pipeline.flush() {
                    flush_at.get_or_insert_with(|| Instant::now() + FLUSH);
                }
            }
            _ = proof.tick() => {
                if heart.judge(source.get_mut().proved_live()) == Beat::Live {
                    pipeline.proved_live();
                }
                serving.ready(ready(attached, &heart));
                heart.ask();
            }
            scrape = serving.next() => {
                pipeline.take(&source.get_mut().totals());
                let rows = attached.loaded.rows().iter();
                pipeline.reattached(rows.map(|row| (row.status().name.as_str(), row.reattached())));
                let untotalled = source.get_ref().untotalled();
                let text = pipeline.scraped(&attached.loaded.probes(), &attached.loaded.costs(), untotalled);
                // A client that has gone away does not want it any more.
                let _ = scrape.send(text);
            }
            _ = hangup.recv() => {
                match &settings {
                    Some(settings) => settings.reload(&mut pipeline, &serving),
                    // A recording that was started on a terminal ends with it.
                    None => break,
                }
            }
            _ = interrupt.recv() => break,
            _ = terminate.recv() => break,
            _ = successor.recv() => {
                if attached.loaded.hand_over() {
                    tracing::info!("what is pinned is left to the daemon that comes next");
                }
                break;
            }
        }
    }
    notify::stopping();
    tracing::info!("stopping");
    take_all(&mut pipeline, source.get_mut());
    flush_logger(&mut logger);
    pipeline.finish()?;
    failed.map_or(Ok(()), Err)
}

/// There is poison: nothing but the daemon's own proof of life is sent before.
fn engage(attached: &mut attach::Attached) -> Event {
    let failed = attached.loaded.engage();
    for why in &failed {
        tracing::error!("a probe that was held back for poison cannot be attached: {why}");
    }
    if failed.is_empty() {
        tracing::info!("there is poison: all probes are at work");
    }
    Event {
        t: crate::machine::clock_pair().monotonic_ns,
        tid: 0,
        pid: 0,
        vcpu: None,
        what: What::Engaged,
    }
}

/// The next page that was lost before the start; for ever pending once all are known.
async fn next(survey: &mut Option<mpsc::Receiver<Found>>) -> Found {
    if let Some(pages) = survey
        && let Some(found) = pages.recv().await
    {
        return found;
    }
    *survey = None;
    std::future::pending().await
}

/// What /-/ready says.
fn ready(attached: &attach::Attached, heart: &Heart) -> Ready {
    match heart.silent() {
        true => Ready::No("the probes do not prove that they run".to_owned()),
        false => serving::readiness(|name| attached.loaded.has(name)),
    }
}

/// All that the probes have sent and counted until now; whether they had sent anything.
fn take_all(pipeline: &mut Pipeline, source: &mut Source) -> bool {
    let mut any = false;
    // A flood may go on for ever.
    for _ in 0..256 {
        let events = source.drain();
        if events.is_empty() {
            break;
        }
        any = true;
        pipeline.take(&events);
    }
    pipeline.take(&source.totals());
    any
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
