//! Where events and incidents go: metrics, log, hook, store, recording. Nothing comes back from here but the store's
//! room.

pub mod changes;
pub mod hook;
pub mod limit;
pub mod log;
pub mod metrics;
pub mod recording;
pub mod store;

use crate::{config::HookEvent, fair::Class};
use changes::{Change, Changes};
use hook::Hook;
use log::IncidentLog;
use metrics::Metrics;
use poisontrace_model::{correlate::report::Update, event::Event};
use poisontrace_report::document::Incident;
use recording::Recording;
use store::Store;

/// Who can have made an incident: by what waits for the hook and for the store takes turns.
pub fn class_of(incident: &Incident) -> Class {
    match incident.page.pfn {
        Some(_) => Class::Named,
        None => Class::Other,
    }
}

/// See the module.
pub struct Outputs {
    pub metrics: Metrics,
    pub log: IncidentLog,
    pub hook: Option<Hook>,
    pub recording: Option<Recording>,
    pub store: Option<Store>,
    changes: Changes,
}

impl Outputs {
    pub fn new(metrics: Metrics) -> Self {
        Self {
            metrics,
            log: IncidentLog::default(),
            hook: None,
            recording: None,
            store: None,
            changes: Changes::default(),
        }
    }

    /// Takes an event before the model does.
    pub fn event(&mut self, event: &Event) {
        if let Some(recording) = &mut self.recording {
            recording.event(event);
        }
        self.metrics.event(event);
    }

    /// Counts an incident as it stands now. Returns what changed since it was counted last.
    pub fn update(&mut self, update: &Update) -> Change {
        self.metrics.update(update);
        self.changes.of(update)
    }

    /// Announces what changed of an incident. The store takes it apart from this, as it may have no room.
    pub fn announce(&mut self, incident: &Incident, change: Change, now_ns: u64) {
        if change.any() {
            self.log.incident(incident, change, now_ns);
            self.trigger(incident, change);
        }
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

    /// Nothing more comes of this incident.
    pub fn forget(&mut self, id: &str) {
        self.metrics.forget(id);
        self.changes.forget(id);
    }
}
