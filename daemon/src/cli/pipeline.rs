//! The live pipeline: events through the correlator into the sinks.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs::File,
    io::BufWriter,
    path::Path,
    time::Duration,
};

use super::{Failure, output};
use crate::{
    config::Config,
    correlate::{
        Correlator, IncidentNo,
        report::Update,
        resume::{Meanwhile, State},
    },
    event::{Event, What, recording::Writer, session::Session},
    follow::{Follower, Places},
    guest::CodeReader,
    host::ClockPair,
    identity::{Directory, identity_event},
    incident::model::{Cause, Incident, Outcome},
    sinks::store::{Store, Stored, boot_id},
};

/// See the module.
pub struct Pipeline {
    correlator: Correlator,
    directory: Directory,
    /// Present where guest code may be read.
    code: Option<CodeReader>,
    follower: Follower,
    store: Option<Store>,
    recording: Option<Recording>,
    /// What was last said in the log of each incident.
    said: HashMap<String, (Outcome, Cause)>,
    /// Incidents whose newest state has not been looked at yet.
    changed: BTreeSet<IncidentNo>,
    /// Incidents that the store had no room for.
    unstored: BTreeSet<IncidentNo>,
    /// VMMs of incidents that were taken over, and when they started, clock ticks since boot.
    resumed: BTreeMap<u32, Option<u64>>,
}

struct Recording {
    writer: Writer<BufWriter<File>>,
    failed: bool,
}

/// Incidents whose state is remembered for the log.
const MAX_SAID: usize = 16_384;
/// Incidents of one flush: a report takes some 50 µs, and the ring buffer is to be read meanwhile.
const FLUSHED: usize = 128;
/// How long the end waits for the disk.
const CLOSE: Duration = Duration::from_millis(1500);

impl Pipeline {
    pub fn new(
        session: Session,
        store: Option<Store>,
        recording: Option<&Path>,
        read_guest_code: bool,
        places: Places,
    ) -> Result<Self, Failure> {
        let recording = recording
            .map(|path| create_recording(path, &session))
            .transpose()?;
        Ok(Self {
            correlator: Correlator::new(session),
            directory: Directory::new("/proc"),
            code: read_guest_code.then(CodeReader::default),
            follower: Follower::new(places),
            store,
            recording,
            said: HashMap::new(),
            changed: BTreeSet::new(),
            unstored: BTreeSet::new(),
            resumed: BTreeMap::new(),
        })
    }

    /// Takes over the incidents that a daemon before left open in the store.
    pub fn resume(&mut self, dir: &Path, meanwhile: Meanwhile) {
        let states = Stored::open(dir).and_then(|stored| stored.states(&boot_id().unwrap_or_default()));
        let states = match states {
            Ok(states) => states,
            // Nothing has been stored yet, or the store has just said what is wrong with it.
            Err(_) => return,
        };
        let now = ClockPair::now().monotonic_ns;
        for state in &states {
            match serde_json::from_str::<State>(state) {
                Ok(state) => {
                    self.resumed.insert(state.pid(), state.start_ticks());
                    self.correlator.resume(state, now, meanwhile);
                }
                Err(err) => {
                    tracing::warn!(error = %err, "an open incident of another poisontrace cannot be gone on with");
                }
            }
        }
        if !self.resumed.is_empty() {
            tracing::info!(
                incidents = states.len(),
                ?meanwhile,
                "goes on with the incidents that were open"
            );
        }
    }

    /// Closes the incidents of VMMs that ended while nobody looked: once what the probes sent meanwhile is read.
    pub fn bury(&mut self) {
        let t = ClockPair::now().monotonic_ns;
        for (pid, ticks) in std::mem::take(&mut self.resumed) {
            if self.directory.start_ticks(pid) != ticks {
                self.feed(&Event {
                    t,
                    tid: pid,
                    pid,
                    vcpu: None,
                    what: What::VmmGone,
                });
            }
        }
    }

    /// Takes over the settings that may change while the daemon runs.
    pub fn configure(&mut self, config: &Config) {
        self.correlator
            .late_death(config.incident.late_death_seconds.saturating_mul(1_000_000_000));
    }

    /// Looks for VMs that have started since the last look.
    pub fn look_around(&mut self, now_ns: u64) {
        for (pid, vmm) in self.directory.scan() {
            tracing::debug!(pid, name = vmm.name.as_deref().unwrap_or("?"), "a VM is running");
            self.feed(&identity_event(now_ns, pid, vmm));
        }
    }

    pub fn take(&mut self, events: &[Event]) {
        for event in events {
            if let Some(introduction) = self.directory.introduce(event) {
                self.feed(&introduction);
            }
            self.feed(event);
            if let Some(code) = self.code.as_mut().and_then(|reader| reader.take(event)) {
                self.feed(&code);
            }
        }
    }

    /// What a VMM says next of itself, while its incident is open.
    pub async fn heard(&mut self) -> Event {
        self.follower.next().await
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
        self.correlator.feed(event);
        if let Some(store) = &self.store {
            for (incident, n) in self.correlator.attribution() {
                store.event(&incident, n, event);
            }
        }
    }

    /// Hands what changed to the store and the log, a part at a time. Returns whether there is more.
    pub fn flush(&mut self) -> bool {
        if let Some(recording) = &mut self.recording
            && let (false, Err(err)) = (recording.failed, recording.writer.flush())
        {
            recording.failed = true;
            tracing::error!(error = %err, "the recording cannot be written to; it ends here, the daemon goes on");
        }
        self.changed.extend(self.correlator.take_numbers());
        for _ in 0..FLUSHED {
            let Some(no) = self.changed.pop_first() else { break };
            let Some(update) = self.correlator.report(no) else {
                continue;
            };
            self.say(&update.incident);
            self.follower.update(&update);
            self.keep(no, &update);
        }
        !self.changed.is_empty() || self.catch_up()
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
    fn catch_up(&mut self) -> bool {
        for _ in 0..FLUSHED {
            let room = self.store.as_ref().map_or(0, Store::room);
            if room == 0 {
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

    fn say(&mut self, incident: &Incident) {
        let state = (incident.outcome, incident.cause);
        if self.said.get(&incident.id) == Some(&state) {
            return;
        }
        if self.said.len() >= MAX_SAID {
            self.said.clear();
        }
        self.said.insert(incident.id.clone(), state);
        tracing::warn!(
            incident = incident.id,
            outcome = %incident.outcome,
            cause = %incident.cause,
            confidence = %incident.confidence,
            "{}",
            incident.sentence
        );
    }

    /// The last flush, and the recording's closing line.
    pub fn finish(mut self) -> Result<(), Failure> {
        while let Some(event) = self.follower.waiting() {
            self.feed(&event);
        }
        let until = std::time::Instant::now() + CLOSE;
        while self.flush() && std::time::Instant::now() < until {
            if let Some(store) = &self.store {
                store.settle(Duration::from_millis(100));
            }
        }
        if let Some(store) = self.store.take()
            && !store.close(
                until
                    .saturating_duration_since(std::time::Instant::now())
                    .max(CLOSE / 3),
            )
        {
            tracing::error!("the store could not be written to at the end: the newest changes are lost");
        }
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
