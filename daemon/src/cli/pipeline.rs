//! The pipeline: events through the correlator into the sinks, live or replayed.

mod restart;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fs::File,
    io::BufWriter,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use super::{Failure, output};
use crate::{
    config::{Config, HookEvent},
    follow::{Follower, Places},
    guest::CodeReader,
    hook::Hook,
    identity::{Directory, identity_event},
    sinks::{
        changes::{Change, Changes, Limit},
        metrics::{Metrics, ProgramCost, kernel::KernelCounters},
        store::Store,
    },
    survey::Found,
};
use poisontrace_model::{
    correlate::{Correlator, IncidentNo, report::Update},
    event::{
        Event, What,
        session::{ProbeStatus, Session},
    },
    hex::Hex,
    host::ClockPair,
    incident::model::Incident,
};
use poisontrace_recording::Writer;

/// See the module.
pub struct Pipeline {
    correlator: Correlator,
    sinks: Sinks,
    recording: Option<Recording>,
    /// Present where the events are this machine's own.
    live: Option<Live>,
    store: Option<Store>,
    /// The store's folder.
    state_dir: PathBuf,
    /// Incidents whose newest state has not been looked at yet.
    changed: BTreeSet<IncidentNo>,
    /// Incidents that the store had no room for.
    unstored: BTreeSet<IncidentNo>,
    /// Incidents of which nothing more is expected, in the order of their ends: one that lasted long was opened early, and
    /// its last totals are still to come.
    ended: VecDeque<IncidentNo>,
    /// VMMs of incidents that were taken over, and when they started, clock ticks since boot.
    resumed: BTreeMap<u32, Option<u64>>,
    /// Time of the latest event.
    latest_ns: u64,
}

/// What only the machine itself can tell.
struct Live {
    directory: Directory,
    /// Present where guest code may be read.
    code: Option<CodeReader>,
    follower: Follower,
}

/// Where incidents go besides the store.
pub struct Sinks {
    pub metrics: Metrics,
    pub hook: Option<Hook>,
    /// Whether the log takes the incident's JSON.
    pub log_json: bool,
    changes: Changes,
    lines: Limit,
}

/// Lines of the log in a burst of incidents; then one a second.
const LOG_BURST: u32 = 20;
/// Incidents of one flush: a report takes some 50 µs, and the ring buffer is to be read meanwhile.
const FLUSHED: usize = 128;
/// The time that they may take: an incident of many vCPUs is a long report, and a scrape waits for it.
const FLUSHING: Duration = Duration::from_millis(5);
/// Ended incidents that stay in memory: totals are read, and logs speak, a little after the end.
const ENDED: usize = 1024;
/// How long the end waits for the disk.
const CLOSE: Duration = Duration::from_millis(1500);

impl Sinks {
    pub fn new(metrics: Metrics) -> Self {
        Self {
            metrics,
            hook: None,
            log_json: false,
            changes: Changes::default(),
            lines: Limit::new(LOG_BURST),
        }
    }
}

struct Recording {
    writer: Writer<BufWriter<File>>,
    failed: bool,
}

impl Pipeline {
    /// Of this machine's events. `recording`: where they are recorded too.
    pub fn live(
        session: Session,
        sinks: Sinks,
        store: Option<(Store, PathBuf)>,
        recording: Option<&Path>,
        read_guest_code: bool,
        places: Places,
    ) -> Result<Self, Failure> {
        let recording = recording
            .map(|path| create_recording(path, &session))
            .transpose()?;
        let live = Live {
            directory: Directory::new("/proc"),
            code: read_guest_code.then(CodeReader::default),
            follower: Follower::new(places),
        };
        Ok(Self {
            recording,
            live: Some(live),
            ..Self::of(session, sinks, store)
        })
    }

    fn of(session: Session, sinks: Sinks, store: Option<(Store, PathBuf)>) -> Self {
        let (store, state_dir) = store.unzip();
        Self {
            correlator: Correlator::new(session),
            sinks,
            recording: None,
            live: None,
            store,
            state_dir: state_dir.unwrap_or_default(),
            changed: BTreeSet::new(),
            unstored: BTreeSet::new(),
            ended: VecDeque::new(),
            resumed: BTreeMap::new(),
            latest_ns: 0,
        }
    }

    /// Of recorded events, whose times `clock` makes those of now.
    pub fn replay(
        session: Session,
        mut sinks: Sinks,
        clock: ClockPair,
        store: Option<(Store, PathBuf)>,
    ) -> Self {
        sinks.metrics.replays(&session, clock);
        Self::of(session, sinks, store)
    }

    /// Runs the trigger hook from now on; to be called on the event loop.
    pub fn start_hook(&mut self, settings: crate::config::Hook) {
        let host = self.correlator.session().host.clone();
        self.sinks.hook = Some(Hook::start(settings, host));
    }

    /// Takes over the settings that may change while the daemon runs.
    pub fn configure(&mut self, config: &Config) {
        self.correlator
            .late_death(config.incident.late_death_seconds.saturating_mul(1_000_000_000));
        if let Some(hook) = &mut self.sinks.hook {
            hook.configure(config.hook.clone());
        }
    }

    /// Looks for VMs that have started since the last look.
    pub fn look_around(&mut self, now_ns: u64) {
        let Some(live) = &mut self.live else { return };
        for (pid, vmm) in live.directory.scan() {
            tracing::debug!(pid, name = vmm.name.as_deref().unwrap_or("?"), "a VM is running");
            self.feed(&identity_event(now_ns, pid, vmm));
        }
    }

    pub fn take(&mut self, events: &[Event]) {
        for event in events {
            let introduction = self
                .live
                .as_mut()
                .and_then(|live| live.directory.introduce(event));
            if let Some(introduction) = introduction {
                self.feed(&introduction);
            }
            self.feed(event);
            let code = self.live.as_mut().and_then(|live| live.code.as_mut());
            if let Some(code) = code.and_then(|reader| reader.take(event)) {
                self.feed(&code);
            }
        }
    }

    /// Takes a page that was lost before the start.
    pub fn found(&mut self, page: Found) {
        let found = Event {
            t: crate::machine::clock_pair().monotonic_ns,
            tid: page.pid,
            pid: page.pid,
            vcpu: None,
            what: What::PoisonFound {
                pfn: Hex(page.pfn),
                hva: Hex(page.hva),
            },
        };
        self.take(&[found]);
    }

    /// What a VMM says next of itself, while its incident is open.
    pub async fn heard(&mut self) -> Event {
        match &mut self.live {
            Some(live) => live.follower.next().await,
            None => std::future::pending().await,
        }
    }

    fn feed(&mut self, event: &Event) {
        tracing::trace!(?event);
        if let Some(recording) = &mut self.recording
            && !recording.failed
            && let Err(err) = recording.writer.event(event)
        {
            recording.failed = true;
            tracing::error!(error = %err, "the recording cannot be written to; it ends here, the daemon goes on");
        }
        self.latest_ns = self.latest_ns.max(event.t);
        self.sinks.metrics.event(event);
        self.correlator.feed(event);
        if let Some(store) = &self.store {
            for (incident, n) in self.correlator.attribution() {
                store.event(&incident, n, event);
            }
        }
    }

    /// Hands what changed to the sinks, a part at a time. Returns whether there is more.
    pub fn flush(&mut self) -> bool {
        if let Some(recording) = &mut self.recording
            && let (false, Err(err)) = (recording.failed, recording.writer.flush())
        {
            recording.failed = true;
            tracing::error!(error = %err, "the recording cannot be written to; it ends here, the daemon goes on");
        }
        self.changed.extend(self.correlator.take_numbers());
        let until = Instant::now() + FLUSHING;
        for n in 0..FLUSHED {
            // One at least, however slow this machine is.
            if n > 0 && Instant::now() > until {
                break;
            }
            let Some(no) = self.changed.pop_first() else { break };
            let Some(update) = self.correlator.report(no) else {
                continue;
            };
            self.sinks.take(&update, self.latest_ns);
            if let Some(live) = &mut self.live {
                live.follower.update(&update);
            }
            self.keep(no, &update);
            if update.closed && !self.ended.contains(&no) {
                self.ended.push_back(no);
            }
        }
        self.release();
        !self.changed.is_empty() || self.catch_up(until)
    }

    /// Lets go of what has ended and is told, first what ended first.
    fn release(&mut self) {
        for _ in ENDED..self.ended.len() {
            let Some(no) = self.ended.pop_front() else { break };
            if self.changed.contains(&no) || self.unstored.contains(&no) {
                self.ended.push_back(no);
            } else if let Some(id) = self.correlator.release(no) {
                self.sinks.metrics.forget(&id);
                self.sinks.changes.forget(&id);
            }
        }
    }

    fn keep(&mut self, no: IncidentNo, update: &Update) {
        let Some(store) = &self.store else { return };
        if store.room() > 0 {
            store.put(
                &update.incident,
                self.correlator.state(no, &update.incident),
                self.correlator.events_of(no),
            );
            self.unstored.remove(&no);
        } else {
            // It stays where it is, in the correlator, until the store has room.
            self.unstored.insert(no);
        }
    }

    /// Hands the store what it had no room for. Returns whether it will soon take more.
    fn catch_up(&mut self, until: Instant) -> bool {
        for n in 0..FLUSHED {
            let room = self.store.as_ref().map_or(0, Store::room);
            if room == 0 || n > 0 && Instant::now() > until {
                break;
            }
            let Some(no) = self.unstored.pop_first() else {
                break;
            };
            if let Some(update) = self.correlator.report(no) {
                self.keep(no, &update);
            }
        }
        !self.unstored.is_empty()
            && self
                .store
                .as_ref()
                .is_some_and(|store| store.health().failing.is_none())
    }

    /// Whether incidents wait for a store that could not take them.
    pub fn store_is_behind(&self) -> bool {
        !self.unstored.is_empty()
    }

    /// The text of /metrics as things stand. `probes`, `costs`: of the BPF programs, where they are this machine's;
    /// `untotalled`: exits on pages that the kernel's totals had no room for.
    pub fn scraped(&mut self, probes: &[ProbeStatus], costs: &[ProgramCost], untotalled: u64) -> String {
        self.flush();
        let metrics = &mut self.sinks.metrics;
        match &self.live {
            Some(live) => {
                metrics.tick(crate::machine::clock_pair().monotonic_ns);
                metrics.tables(
                    live.directory.vms(),
                    self.correlator.forgotten(),
                    &self.correlator.dropped(),
                );
                metrics.tables_beside(untotalled, live.directory.no_room());
                metrics.probes(probes);
                metrics.programs(costs);
            }
            None => metrics.tick(self.latest_ns),
        }
        if let Some(store) = &self.store {
            metrics.store(&self.state_dir, &store.health());
        }
        if let Some(hook) = &mut self.sinks.hook {
            hook.ended().into_iter().for_each(|ended| metrics.hook(ended));
        }
        metrics.process();
        metrics.exposition()
    }

    /// The probes have been proved live, now.
    pub fn proved_live(&self) {
        self.sinks.metrics.proved_live(crate::machine::clock_pair());
    }

    /// How often each row of the probe table was attached again.
    pub fn reattached<'a>(&self, rows: impl Iterator<Item = (&'a str, u64)>) {
        self.sinks.metrics.reattached(rows);
    }

    /// Compares with the kernel's own counters; not more often than events need to arrive.
    pub fn reconcile(&mut self) {
        let unseen = self.sinks.metrics.kernel(&KernelCounters::read(Path::new("/")));
        if unseen > 0 {
            tracing::error!(
                failures = unseen,
                "the kernel has counted memory failures that no probe saw: their guests have no incident (`journalctl -k -g 'Memory failure'` names the pages)"
            );
        }
    }

    /// Of a replay, once its recording has ended: the sinks, for the next one.
    pub fn into_sinks(mut self) -> Sinks {
        self.close();
        self.sinks
    }

    /// The last flush, and the store's end.
    fn close(&mut self) {
        let until = Instant::now() + CLOSE;
        while self.flush() && Instant::now() < until {
            if let (Some(store), false) = (&self.store, self.unstored.is_empty()) {
                store.settle(Duration::from_millis(100));
            }
        }
        if let Some(store) = self.store.take()
            && !store.close(until.saturating_duration_since(Instant::now()).max(CLOSE / 3))
        {
            tracing::error!("the store could not be written to at the end: the newest changes are lost");
        }
    }

    /// The last flush, and the recording's closing line.
    pub fn finish(mut self) -> Result<(), Failure> {
        while let Some(event) = self.live.as_mut().and_then(|live| live.follower.waiting()) {
            self.feed(&event);
        }
        self.close();
        if let Some(recording) = self.recording {
            if recording.failed {
                return Err(Failure::new(
                    "the recording is not whole: it could not be written to",
                ));
            }
            recording
                .writer
                .finish()
                .map_err(|err| Failure::new(format!("the recording's end cannot be written: {err}")))?;
        }
        Ok(())
    }
}

impl Sinks {
    fn take(&mut self, update: &Update, now_ns: u64) {
        self.metrics.update(update);
        let change = self.changes.of(update);
        if change.any() {
            self.say(&update.incident, change, now_ns);
            self.trigger(&update.incident, change);
        }
    }

    /// One line a change of state. The journal's has the whole incident in a field.
    fn say(&mut self, incident: &Incident, change: Change, now_ns: u64) {
        if !self.lines.pass(now_ns) {
            return;
        }
        let held_back = self.lines.held_back();
        if held_back > 0 {
            tracing::warn!(
                changes = held_back,
                "changes of incidents were not logged, there were too many; the store has them"
            );
        }
        let state = match change {
            Change { closed: true, .. } => "close",
            Change { opened: true, .. } => "open",
            _ => "verdict",
        };
        let json = self
            .log_json
            .then(|| serde_json::to_string(incident).unwrap_or_default());
        tracing::warn!(
            state,
            incident = incident.id,
            vm = incident.vm.name,
            outcome = %incident.outcome,
            cause = %incident.cause,
            confidence = %incident.confidence,
            json,
            "{}",
            incident.sentence
        );
    }

    fn trigger(&mut self, incident: &Incident, change: Change) {
        let Some(hook) = &mut self.hook else { return };
        for (is, event) in [
            (change.opened, HookEvent::Open),
            (change.verdict, HookEvent::Verdict),
            (change.closed, HookEvent::Close),
        ] {
            if is {
                hook.trigger(event, incident);
            }
        }
    }
}

fn create_recording(path: &Path, session: &Session) -> Result<Recording, Failure> {
    let file = output::create(path)?;
    let mut writer = Writer::new(BufWriter::new(file), session)
        .map_err(|err| Failure::new(format!("{}: {err}", path.display())))?;
    writer
        .flush()
        .map_err(|err| Failure::new(format!("{}: {err}", path.display())))?;
    Ok(Recording {
        writer,
        failed: false,
    })
}
