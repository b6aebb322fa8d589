//! The pipeline: events through the correlator into the sinks, live or replayed.

use std::{
    fs::File,
    io::{self, BufWriter},
    path::{Path, PathBuf},
};

use super::Failure;
use crate::{
    config::{Config, HookEvent},
    correlate::{Correlator, report::Update},
    event::{Event, recording::Writer, session::Session},
    guest::CodeReader,
    hook::Hook,
    host::ClockPair,
    identity::{Directory, identity_event},
    incident::model::Incident,
    sinks::{
        changes::{Change, Changes, Limit},
        metrics::{Metrics, ProgramCost, kernel::KernelCounters},
        store::Store,
    },
};

/// See the module.
pub struct Pipeline {
    correlator: Correlator,
    sinks: Sinks,
    recording: Option<Recording>,
    /// Present where the events are this machine's own.
    live: Option<Live>,
    /// Time of the latest event.
    latest_ns: u64,
}

/// What only the machine itself can tell.
struct Live {
    directory: Directory,
    /// Present where guest code may be read.
    code: Option<CodeReader>,
}

/// Where incidents go.
pub struct Sinks {
    pub metrics: Metrics,
    pub store: Option<(Store, PathBuf)>,
    pub hook: Option<Hook>,
    /// Whether the log takes the incident's JSON.
    pub log_json: bool,
    changes: Changes,
    lines: Limit,
    store_failed: bool,
}

/// Lines of the log in a burst of incidents; then one a second.
const LOG_BURST: u32 = 20;

impl Sinks {
    pub fn new(metrics: Metrics) -> Self {
        Self {
            metrics,
            store: None,
            hook: None,
            log_json: false,
            changes: Changes::default(),
            lines: Limit::new(LOG_BURST),
            store_failed: false,
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
        recording: Option<&Path>,
        read_guest_code: bool,
    ) -> Result<Self, Failure> {
        let recording = recording
            .map(|path| create_recording(path, &session))
            .transpose()?;
        let live = Live {
            directory: Directory::new("/proc"),
            code: read_guest_code.then(CodeReader::default),
        };
        Ok(Self {
            correlator: Correlator::new(session),
            sinks,
            recording,
            live: Some(live),
            latest_ns: 0,
        })
    }

    /// Of recorded events, whose times `clock` makes those of now.
    pub fn replay(session: Session, mut sinks: Sinks, clock: ClockPair) -> Self {
        sinks.metrics.replays(&session, clock);
        Self {
            correlator: Correlator::new(session),
            sinks,
            recording: None,
            live: None,
            latest_ns: 0,
        }
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
    }

    /// Hands what changed to the sinks.
    pub fn flush(&mut self) {
        if let Some(recording) = &mut self.recording
            && let (false, Err(err)) = (recording.failed, recording.writer.flush())
        {
            recording.failed = true;
            tracing::error!(error = %err, "the recording cannot be written to; it ends here, the daemon goes on");
        }
        self.sinks.take(self.correlator.take_changed(), self.latest_ns);
    }

    /// Whether incidents wait for a store that could not be written to.
    pub fn store_is_behind(&self) -> bool {
        self.sinks.store_failed
    }

    /// The text of /metrics as things stand. `costs`: of the BPF programs.
    pub fn scraped(&mut self, costs: &[ProgramCost]) -> String {
        self.flush();
        let metrics = &mut self.sinks.metrics;
        match &self.live {
            Some(live) => {
                metrics.tick(ClockPair::now().monotonic_ns);
                metrics.tables(live.directory.vms(), self.correlator.forgotten());
                metrics.programs(costs);
            }
            None => metrics.tick(self.latest_ns),
        }
        if let Some((_, dir)) = &self.sinks.store {
            metrics.store(dir, !self.sinks.store_failed);
        }
        if let Some(hook) = &mut self.sinks.hook {
            hook.ended().into_iter().for_each(|ended| metrics.hook(ended));
        }
        metrics.process();
        metrics.exposition()
    }

    /// Compares with the kernel's own counters; not more often than events need to arrive.
    pub fn reconcile(&mut self) {
        self.sinks.metrics.kernel(&KernelCounters::read(Path::new("/")));
    }

    /// Of a replay, once its recording has ended: the sinks, for the next one.
    pub fn into_sinks(mut self) -> Sinks {
        self.flush();
        self.sinks
    }

    /// The last flush, and the recording's closing line.
    pub fn finish(mut self) -> Result<(), Failure> {
        self.flush();
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
    fn take(&mut self, updates: Vec<Update>, now_ns: u64) {
        let mut incidents = Vec::with_capacity(updates.len());
        for update in updates {
            self.metrics.update(&update);
            let change = self.changes.of(&update);
            if change.any() {
                self.say(&update.incident, change, now_ns);
                self.trigger(&update.incident, change);
            }
            incidents.push(update.incident);
        }
        self.put(incidents);
    }

    fn put(&mut self, incidents: Vec<Incident>) {
        let Some((store, _)) = &mut self.store else { return };
        match store.put(incidents) {
            Ok(()) if self.store_failed => {
                self.store_failed = false;
                tracing::info!("the store can be written to again; nothing was lost");
            }
            Ok(()) => {}
            Err(err) => {
                if !self.store_failed {
                    tracing::error!(error = %err, "the store cannot be written to; incidents are kept in memory and tried again");
                }
                self.store_failed = true;
            }
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

/// Creates the recording, readable by owner and group: it holds guest addresses.
fn create_recording(path: &Path, session: &Session) -> Result<Recording, Failure> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let file = File::options()
        .write(true)
        .create_new(true)
        .mode(0o640)
        .open(path)
        .map_err(|err| {
            Failure::new(match err.kind() {
                io::ErrorKind::AlreadyExists => {
                    format!("{} exists: name another file, or remove it", path.display())
                }
                _ => format!("cannot create {}: {err}", path.display()),
            })
        })?;
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
