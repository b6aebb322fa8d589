//! The event loop: waits for the next thing to do (`EventLoop::next`), then does it (`EventLoop::handle`).

use std::{ops::ControlFlow, path::Path, time::Duration};

use aya_log::EbpfLogger;
use tokio::{
    io::unix::AsyncFd,
    sync::mpsc,
    task::yield_now,
    time::{Instant, sleep_until},
};

use super::{
    attach::{self, Attached},
    forecast,
    forecaster::{Forecaster, Iterator as VcpuReader},
    kvm_module::KvmModuleWatcher,
    pipeline::Pipeline,
    serving::{self, Serving},
    settings::Settings,
    wake::{STORM, Signals, Timers, Wake},
};
use crate::{
    failure::Failure,
    outputs::{metrics::KernelTables, store::survive_file_size_limit},
    service::{
        notify::{self, ProbeHealth, ProbeWatchdog},
        privileges,
    },
    terminal,
};
use poisontrace_http::{Ready, Scrape, Server};
use poisontrace_kernel_facts::plan::HotPath;
use poisontrace_model::{
    event::{AttachDelay, Event, EventKind, SigbusSeverity},
    forecast::Counts,
};
use poisontrace_sources::{
    host::machine::clock_pair,
    inputs::{
        poison_scan::{Found, PoisonScan},
        vm_registry::scan::{Looks, VmScan},
    },
    probes::{load::Loaded, memory::forget_start, source::Source},
};

/// Between the disarming and the detaching.
const DETACH: Duration = Duration::from_secs(30);
/// Batches of records that are read at start and at the end; a flood may go on for ever.
const MAX_BATCHES: usize = 256;

/// Runs until a signal ends it, or KVM comes back in a form that these probes do not fit.
pub async fn run(
    attached: &mut Attached,
    pipeline: Pipeline,
    server: Option<Server>,
    settings: Option<Settings>,
    vcpus: Option<VcpuReader>,
) -> Result<(), Failure> {
    let _file_size_limit = survive_file_size_limit()?;
    let mut events = EventLoop::start(attached, pipeline, server, settings)?;
    events.forecaster = vcpus.map(Forecaster::start).transpose()?;
    let ended = loop {
        let wake = events.next().await?;
        match events.handle(wake).await {
            Ok(ControlFlow::Continue(())) => {}
            Ok(ControlFlow::Break(())) => break Ok(()),
            Err(failure) => break Err(failure),
        }
    };
    events.finish()?;
    ended
}

struct EventLoop<'a> {
    attached: &'a mut Attached,
    source: AsyncFd<Source>,
    logger: Option<Logger>,
    poison_scan: Option<mpsc::Receiver<Found>>,
    vms: Looks,
    kvm: KvmModuleWatcher,
    pipeline: Pipeline,
    serving: Serving,
    /// Present where /metrics is served of this machine.
    forecaster: Option<Forecaster>,
    settings: Option<Settings>,
    /// Runs of the programs that the kernel had skipped when they were last looked at.
    runs_missed: Option<u64>,
    /// No VM held poison when that was last looked at.
    was_quiet: bool,
    watchdog: ProbeWatchdog,
    timers: Timers,
    signals: Signals,
}

impl<'a> EventLoop<'a> {
    fn start(
        attached: &'a mut Attached,
        mut pipeline: Pipeline,
        server: Option<Server>,
        settings: Option<Settings>,
    ) -> Result<Self, Failure> {
        let mut source = Source::new(&mut attached.loaded, attached.decoder.clone())?.watched()?;
        let logger = probe_logger(attached);
        let signals = Signals::new()?;
        let kvm = KvmModuleWatcher::open();
        let kept = pipeline.resume_signals(source.get_ref().kept_signals());
        source.get_mut().pass_over(&kept);
        let poison = take_all(&mut pipeline, source.get_mut());
        // A daemon before left the programs armed, and what it attached for that goes with its own.
        let inherited = attached.loaded.exits_unseen() && attached.loaded.armed();
        if let Some(since_ns) = poison.or_else(|| inherited.then(|| clock_pair().monotonic_ns))
            && attached.loaded.on_standby()
        {
            pipeline.take(&attach_all(attached, since_ns));
        }
        pipeline.unwatched(attached.totals_continuity());
        pipeline.close_exited();
        let mut scan = VmScan::new("/proc");
        pipeline.vms(clock_pair().monotonic_ns, scan.look());
        let vms = scan.start()?;
        pipeline.reconcile();
        let poison_scan = attached.poison_scan.take().map(PoisonScan::start).transpose()?;
        if let Some(settings) = &settings {
            pipeline.start_hook(settings.config.hook.clone());
        }
        let serving = Serving::start(server)?;
        terminal::print("poisontrace: ready\n")?;
        notify::ready(&attach::status(&attached.session));
        let watchdog = ProbeWatchdog::default();
        watchdog.ask();
        forget_start();
        Ok(Self {
            attached,
            source,
            logger,
            poison_scan,
            vms,
            kvm,
            pipeline,
            serving,
            forecaster: None,
            settings,
            watchdog,
            runs_missed: None,
            was_quiet: false,
            timers: Timers::start(),
            signals,
        })
    }

    /// The next thing to do. Dropping it loses nothing: each branch hands over one thing at most.
    async fn next(&mut self) -> Result<Wake, Failure> {
        Ok(tokio::select! {
            ready = self.source.readable() => {
                ready?.retain_ready();
                Wake::Records
            }
            found = next_found(&mut self.poison_scan) => Wake::Preexisting(found),
            look = self.vms.next() => Wake::Vms(look),
            statement = self.pipeline.next_vmm_statement() => Wake::Statement(Box::new(statement)),
            () = at(self.timers.flush_at) => Wake::Flush,
            () = at(self.timers.totals_at) => Wake::Totals,
            () = self.kvm.news() => Wake::Kvm,
            _ = self.timers.rescan.tick() => Wake::Rescan,
            _ = self.timers.heartbeat.tick() => Wake::Heartbeat,
            scrape = self.serving.next() => Wake::Scrape(scrape),
            counts = next_forecast(&mut self.forecaster) => Wake::Forecast(counts),
            wake = self.signals.next() => wake,
        })
    }

    async fn handle(&mut self, wake: Wake) -> Result<ControlFlow<()>, Failure> {
        match wake {
            Wake::Records => self.records().await?,
            Wake::Preexisting(page) => {
                self.pipeline.preexisting(page);
                self.timers.flush_soon();
            }
            Wake::Vms(look) => self.pipeline.vms(clock_pair().monotonic_ns, look),
            Wake::Statement(event) => {
                self.pipeline.take(&[*event]);
                self.timers.flush_soon();
            }
            Wake::Flush => {
                self.timers.flush_at = None;
                self.flush();
            }
            Wake::Totals => {
                self.timers.totals_at = None;
                self.flush();
            }
            Wake::Kvm => self.follow_kvm()?,
            Wake::Rescan => self.rescan()?,
            Wake::Heartbeat => self.heartbeat(),
            Wake::Scrape(scrape) => self.scrape(scrape),
            Wake::Forecast(counts) => self.pipeline.forecast(&counts),
            Wake::Reload => match &self.settings {
                Some(settings) => settings.reload(&mut self.pipeline, &self.serving),
                // A recording that was started on a terminal ends with it.
                None => return Ok(ControlFlow::Break(())),
            },
            Wake::HandOver => {
                if self.attached.loaded.hand_over() {
                    tracing::info!("pinned maps and links are left to the next daemon");
                }
                return Ok(ControlFlow::Break(()));
            }
            Wake::Stop => return Ok(ControlFlow::Break(())),
        }
        Ok(ControlFlow::Continue(()))
    }

    /// One batch of records: from the probes through the engine to the model; a flush brings it to the outputs.
    async fn records(&mut self) -> Result<(), Failure> {
        let mut ready = self.source.readable_mut().await?;
        let events = ready.get_inner_mut().drain();
        if events.is_empty() {
            // Nothing left: wait for the next record. One that came in between wakes us again.
            ready.clear_ready();
            return Ok(());
        }
        drop(ready);
        // Before all else: what it attaches is not seen until then.
        let attached = match self.attached.loaded.on_standby() {
            true => poison_since(&self.attached.loaded, &events)
                .map_or_else(Vec::new, |since_ns| attach_all(self.attached, since_ns)),
            false => Vec::new(),
        };
        self.pipeline.take(&events);
        self.pipeline.take(&attached);
        flush_logger(&mut self.logger);
        // A flood leaves no moment in which nothing is ready; the connections are tasks of this thread too.
        yield_now().await;
        if self.source.get_ref().has_totals() {
            self.timers.totals_later();
        }
        self.timers.flush_soon();
        Ok(())
    }

    fn flush(&mut self) {
        self.take_unannounced();
        self.take_totals();
        if self.pipeline.flush() {
            self.timers.flush_soon();
        }
    }

    /// Records that the programs sent without waking anybody, which only an exit on poison makes.
    fn take_unannounced(&mut self) {
        if self.attached.loaded.on_standby() {
            return;
        }
        let timers = &mut self.timers;
        take_records(&mut self.pipeline, self.source.get_mut(), |_| timers.flush_soon());
    }

    /// They are read again as long as they change.
    fn take_totals(&mut self) {
        let totals = self.source.get_mut().totals();
        if !totals.is_empty() {
            self.timers.totals_at = Some(Instant::now() + STORM);
        }
        self.pipeline.take(&totals);
    }

    fn follow_kvm(&mut self) -> Result<(), Failure> {
        let is_back = self.kvm.follow(self.attached)?;
        if let Some(forecaster) = self.forecaster.as_mut().filter(|_| is_back) {
            forecaster.renew(privileges::attaching(|| forecast::iterator(Path::new("/"))));
        }
        self.serving.ready(self.readiness());
        Ok(())
    }

    fn rescan(&mut self) -> Result<(), Failure> {
        self.follow_kvm()?;
        self.take_unannounced();
        if self.source.get_ref().has_totals() {
            self.timers.totals_later();
        }
        self.vms.ask();
        if let Some(forecaster) = &mut self.forecaster {
            forecaster.ask_if_due(|| self.pipeline.vmms());
        }
        self.pipeline.reconcile();
        self.look_for_missed_runs();
        self.disarm_if_quiet();
        self.detach_if_disarmed();
        self.attached.loaded.renew_clock();
        flush_logger(&mut self.logger);
        if self.pipeline.store_is_behind() && self.pipeline.flush() {
            self.timers.flush_soon();
        }
        Ok(())
    }

    /// Before there is poison nothing is missed by a run that is skipped.
    fn look_for_missed_runs(&mut self) {
        if self.attached.loaded.on_standby() {
            return;
        }
        let all: u64 = self.attached.loaded.costs().iter().map(|cost| cost.missed).sum();
        let before = self.runs_missed.replace(all).unwrap_or(all);
        let runs = all.saturating_sub(before);
        if runs > 0 {
            tracing::warn!(
                runs,
                "the kernel skipped runs of the probes: another program was at work on that processor"
            );
            self.pipeline.take(&[Event {
                t: clock_pair().monotonic_ns,
                tid: 0,
                pid: 0,
                vcpu: None,
                what: EventKind::RunsMissed { runs },
            }]);
            self.timers.flush_soon();
        }
    }

    /// Twice in a row no VM holds poison: the host is to pay no more than before the first.
    fn disarm_if_quiet(&mut self) {
        let loaded = &self.attached.loaded;
        let quiet = self.poison_scan.is_none()
            && loaded.armed()
            && !self.pipeline.holds_poison(clock_pair().monotonic_ns);
        if !quiet || !std::mem::replace(&mut self.was_quiet, quiet) {
            self.was_quiet = quiet;
            return;
        }
        self.was_quiet = false;
        if let Err(why) = self.attached.loaded.disarm() {
            tracing::warn!("cannot disarm the probes: {why}");
            return;
        }
        // Poison that came meanwhile found them armed, and did not arm them again.
        if take_all(&mut self.pipeline, self.source.get_mut()).is_some() {
            for failed in self.attached.loaded.arm() {
                tracing::error!("cannot arm the probes again: {failed}");
            }
            self.timers.flush_soon();
            return;
        }
        tracing::info!("no VM holds poison any more: the probes are disarmed");
    }

    /// Disarmed for some time: what the next poison attaches is detached. To attach a program right after one was detached takes
    /// milliseconds (`tp_rcu_cond_sync()`, kernel/tracepoint.c), and poison seldom comes alone.
    fn detach_if_disarmed(&mut self) {
        let loaded = &mut self.attached.loaded;
        if loaded.on_standby() || loaded.hot_path() != &HotPath::OnPoison || loaded.armed() {
            self.timers.detach_at = None;
            return;
        }
        let now = Instant::now();
        if *self.timers.detach_at.get_or_insert(now + DETACH) > now {
            return;
        }
        self.timers.detach_at = None;
        let Some(failed) = privileges::attaching(|| loaded.detach_exits()) else {
            return;
        };
        for why in failed {
            tracing::error!("cannot attach a probe that stands by: {why}");
        }
        tracing::info!("kvm_exit and kvm_entry are detached until there is poison");
        self.pipeline.take(&[Event {
            t: clock_pair().monotonic_ns,
            tid: 0,
            pid: 0,
            vcpu: None,
            what: EventKind::ExitProbesDetached,
        }]);
        // Poison that came meanwhile was not worth attaching for, as all was attached still.
        if let Some(since_ns) = take_all(&mut self.pipeline, self.source.get_mut()) {
            let attached = attach_all(self.attached, since_ns);
            self.pipeline.take(&attached);
            self.timers.flush_soon();
        }
    }

    fn heartbeat(&mut self) {
        self.attached.loaded.renew_clock();
        if self.watchdog.evaluate(self.source.get_mut().proved_live()) == ProbeHealth::Live {
            self.pipeline.proved_live();
        }
        self.serving.ready(self.readiness());
        self.watchdog.ask();
    }

    fn scrape(&mut self, scrape: Scrape) {
        self.take_totals();
        let loaded = &self.attached.loaded;
        let rows = loaded.rows().iter();
        self.pipeline
            .reattached(rows.map(|row| (row.status().probe.name(), row.reattached())));
        let source = self.source.get_ref();
        let tables = KernelTables {
            untotalled: source.untotalled(),
            displaced: source.displaced(),
            unproved: source.unproved(),
        };
        let text = self.pipeline.scraped(&loaded.probes(), &loaded.costs(), tables);
        // A client that has gone away does not want it any more.
        let _ = scrape.send(text);
    }

    /// What /-/ready answers.
    fn readiness(&self) -> Ready {
        match self.watchdog.silent() {
            true => Ready::No("the probes do not prove that they run".to_owned()),
            false => serving::readiness(|probe| self.attached.loaded.has(probe)),
        }
    }

    fn finish(mut self) -> Result<(), Failure> {
        notify::stopping();
        tracing::info!("stopping");
        take_all(&mut self.pipeline, self.source.get_mut());
        flush_logger(&mut self.logger);
        self.pipeline.finish()
    }
}

async fn at(deadline: Option<Instant>) {
    match deadline {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// There is poison, of `since_ns` at the latest: nothing but the daemon's own proof of life is sent before.
fn attach_all(attached: &mut Attached, since_ns: u64) -> Vec<Event> {
    let loaded = &mut attached.loaded;
    let event = |what| Event {
        t: clock_pair().monotonic_ns,
        tid: 0,
        pid: 0,
        vcpu: None,
        what,
    };
    let mut events = Vec::new();
    let failed = privileges::attaching(|| {
        if loaded.exits_unseen() {
            let failed = loaded.attach_exits();
            let delay = AttachDelay {
                after_ns: clock_pair().monotonic_ns.saturating_sub(since_ns),
                clock_error_ns: loaded.clock_error_ns(),
            };
            for why in &failed {
                tracing::error!("cannot attach a probe of exits: {why}");
            }
            if failed.is_empty() {
                tracing::info!(
                    after_us = delay.after_ns / 1000,
                    "there is poison: kvm_exit and kvm_entry are attached"
                );
                events.push(event(EventKind::ExitProbesAttached(delay)));
            }
        }
        loaded.attach_reserved()
    });
    for why in &failed {
        tracing::error!("cannot attach a probe that was on stand-by: {why}");
    }
    if failed.is_empty() {
        tracing::info!("there is poison: all probes are at work");
    }
    events.push(event(EventKind::AllProbesAttached));
    events
}

/// The next page that was lost before the start; for ever pending once all are known.
async fn next_found(poison_scan: &mut Option<mpsc::Receiver<Found>>) -> Found {
    if let Some(pages) = poison_scan
        && let Some(found) = pages.recv().await
    {
        return found;
    }
    *poison_scan = None;
    std::future::pending().await
}

async fn next_forecast(forecaster: &mut Option<Forecaster>) -> Counts {
    match forecaster {
        Some(forecaster) => forecaster.next().await,
        None => std::future::pending().await,
    }
}

/// Whether only the kernel can have made this: signals for poison a process can send itself (`hooks/signals.rs`). What the
/// host's hardware reports is poison only where `memory_failure()` follows.
fn shows_poison(event: &Event) -> bool {
    match &event.what {
        EventKind::Sigbus {
            forced,
            severity,
            target_pid,
            ..
        } => {
            let to_itself = *severity == SigbusSeverity::ActionOptional && *target_pid == event.pid;
            !forced && !to_itself
        }
        // A thread of a daemon before is a proof of life that nobody read; what is lost are a tenant's claims, or the programs
        // are armed.
        EventKind::TaskExit { .. }
        | EventKind::Lost { .. }
        | EventKind::SigbusNoAddress { .. }
        | EventKind::HostMce(_)
        | EventKind::EdacError { .. }
        | EventKind::FirmwareError { .. } => false,
        _ => true,
    }
}

/// Since when these events, or else the programs' own flag, show that there is poison.
fn poison_since(loaded: &Loaded, events: &[Event]) -> Option<u64> {
    let shown = events.iter().find(|event| shows_poison(event));
    let armed = || loaded.armed().then(|| clock_pair().monotonic_ns);
    shown.map(|event| event.t).or_else(armed)
}

/// All that the probes have sent and counted until now; since when some of it shows poison.
fn take_all(pipeline: &mut Pipeline, source: &mut Source) -> Option<u64> {
    let mut since = None;
    take_records(pipeline, source, |events| {
        let poison = events.iter().find(|event| shows_poison(event));
        since = since.or(poison.map(|event| event.t));
    });
    pipeline.take(&source.totals());
    since
}

/// The records that the probes have sent until now; `see`: each batch, before it is taken.
fn take_records(pipeline: &mut Pipeline, source: &mut Source, mut see: impl FnMut(&[Event])) {
    for _ in 0..MAX_BATCHES {
        let events = source.drain();
        if events.is_empty() {
            break;
        }
        see(&events);
        pipeline.take(&events);
    }
}

type Logger = EbpfLogger<&'static dyn log::Log>;

/// The probes' own diagnostics go to our log, through the `log` facade that aya-log speaks.
fn probe_logger(attached: &mut Attached) -> Option<Logger> {
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
