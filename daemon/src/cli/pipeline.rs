//! The live pipeline: events through the correlator into the sinks.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, BufWriter},
    path::Path,
};

use super::Failure;
use crate::{
    config::Config,
    correlate::Correlator,
    event::{Event, recording::Writer, session::Session},
    guest::CodeReader,
    identity::{Directory, identity_event},
    incident::model::{Cause, Incident, Outcome},
    sinks::store::Store,
};

/// See the module.
pub struct Pipeline {
    correlator: Correlator,
    directory: Directory,
    /// Present where guest code may be read.
    code: Option<CodeReader>,
    store: Option<Store>,
    recording: Option<Recording>,
    /// What was last said in the log of each incident.
    said: HashMap<String, (Outcome, Cause)>,
    store_failed: bool,
}

struct Recording {
    writer: Writer<BufWriter<File>>,
    failed: bool,
}

/// Incidents whose state is remembered for the log.
const MAX_SAID: usize = 16_384;

impl Pipeline {
    pub fn new(
        session: Session,
        store: Option<Store>,
        recording: Option<&Path>,
        read_guest_code: bool,
    ) -> Result<Self, Failure> {
        let recording = recording
            .map(|path| create_recording(path, &session))
            .transpose()?;
        Ok(Self {
            correlator: Correlator::new(session),
            directory: Directory::new("/proc"),
            code: read_guest_code.then(CodeReader::default),
            store,
            recording,
            said: HashMap::new(),
            store_failed: false,
        })
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
    }

    /// Hands what changed to the store and the log.
    pub fn flush(&mut self) {
        if let Some(recording) = &mut self.recording
            && let (false, Err(err)) = (recording.failed, recording.writer.flush())
        {
            recording.failed = true;
            tracing::error!(error = %err, "the recording cannot be written to; it ends here, the daemon goes on");
        }
        let changed = self.correlator.take_changed();
        let mut incidents = Vec::with_capacity(changed.len());
        for update in changed {
            self.say(&update.incident);
            incidents.push(update.incident);
        }
        let Some(store) = &mut self.store else { return };
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

    /// Whether incidents wait for a store that could not be written to.
    pub fn store_is_behind(&self) -> bool {
        self.store_failed
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
