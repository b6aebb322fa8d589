//! Changed incidents that wait for an output, each once, in turns by VM.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use crate::fair::FairQueue;
use poisontrace_model::correlate::IncidentNo;

/// See the module.
#[derive(Default)]
pub struct Waiting {
    /// Since when.
    queue: FairQueue<(IncidentNo, Instant)>,
    all: BTreeSet<IncidentNo>,
}

impl Waiting {
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    pub fn contains(&self, no: IncidentNo) -> bool {
        self.all.contains(&no)
    }

    /// Adds an incident of `vm`; one that waits already keeps its place.
    pub fn insert(&mut self, vm: u32, no: IncidentNo) {
        if self.all.insert(no) {
            self.queue.push(vm, (no, Instant::now()));
        }
    }

    pub fn pop(&mut self) -> Option<IncidentNo> {
        self.pop_of(|_| true)
    }

    /// The next one of those VMs that `may`.
    pub fn pop_of(&mut self, may: impl Fn(u32) -> bool) -> Option<IncidentNo> {
        let (_, (no, _)) = self.queue.pop_of(may)?;
        self.all.remove(&no);
        Some(no)
    }

    /// How long the one that waits longest has waited.
    pub fn longest(&self) -> Duration {
        let since = self.queue.oldest().map(|(_, since)| *since).min();
        since.map_or(Duration::ZERO, |since| since.elapsed())
    }
}
