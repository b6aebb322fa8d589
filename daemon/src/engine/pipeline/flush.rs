//! Changed incidents, a part at a time, to the outputs. An incident that the store has no room for waits in the model.

use std::time::{Duration, Instant};

use super::Pipeline;
use crate::{
    failure::Failure,
    outputs::{Outputs, recording::Recording},
};
use poisontrace_model::correlate::IncidentNo;
use poisontrace_report::document::Incident;

/// Incidents of one flush: a report takes some 50 µs, and the ring buffer is to be read meanwhile.
const FLUSHED: usize = 128;
/// The time that they may take: an incident of many vCPUs is a long report, and a scrape waits for it.
const FLUSHING: Duration = Duration::from_millis(5);
/// Ended incidents that stay in memory: totals are read, and logs speak, a little after the end.
const ENDED: usize = 1024;
/// How long the end waits for the disk.
const CLOSE: Duration = Duration::from_millis(1500);

impl Pipeline {
    /// Hands what changed to the sinks, a part at a time. Returns whether there is more.
    pub fn flush(&mut self) -> bool {
        if let Some(recording) = &mut self.outputs.recording {
            recording.flush();
        }
        for no in self.correlator.take_numbers() {
            self.changed.insert(self.correlator.process_of(no), no);
        }
        let until = Instant::now() + FLUSHING;
        for n in 0..FLUSHED {
            // One at least, however slow this machine is.
            if n > 0 && Instant::now() > until {
                break;
            }
            let Some(no) = self.changed.pop() else { break };
            let Some(update) = self.correlator.report(no) else {
                continue;
            };
            let change = self.outputs.update(&update);
            if let Some(live) = &mut self.live {
                live.watcher.update(&update);
            }
            let document = poisontrace_report::document(update.incident);
            self.outputs.announce(&document, change, self.latest_ns);
            self.keep(no, &document);
            if update.closed && !self.ended.contains(&no) {
                self.ended.push_back(no);
            }
        }
        self.release();
        // Both: what is new must not keep what waits for the store from it.
        let behind = self.catch_up(until);
        behind || !self.changed.is_empty()
    }

    /// Drops incidents that have ended and are stored, the earliest end first.
    fn release(&mut self) {
        for _ in ENDED..self.ended.len() {
            let Some(no) = self.ended.pop_front() else { break };
            if self.changed.contains(no) || self.unstored.contains(no) || self.unstored_named.contains(no) {
                self.ended.push_back(no);
            } else if let Some(id) = self.correlator.release(no) {
                self.outputs.forget(&id);
            }
        }
    }

    fn keep(&mut self, no: IncidentNo, incident: &Incident) {
        let Some(store) = &self.outputs.store else { return };
        let vm = self.correlator.process_of(no);
        // Pages that the kernel has named do not wait for all others: no user can make those at will.
        let named = incident.page.pfn.is_some();
        let waiting = match named {
            true => &mut self.unstored_named,
            false => &mut self.unstored,
        };
        // Past those that wait there is no way: their VMs take turns.
        if waiting.is_empty() && store.room(vm, named) > 0 {
            self.store(no, incident);
        } else {
            // It stays where it is, in the correlator, until the store has room.
            waiting.insert(vm, no);
        }
    }

    fn store(&self, no: IncidentNo, incident: &Incident) {
        if let Some(store) = &self.outputs.store {
            let state = self
                .correlator
                .state(no, &incident.id, incident.started_at.as_deref());
            store.put(incident, state, self.correlator.events_of(no));
        }
    }

    /// Hands the store what it had no room for. Returns whether it will soon take more.
    fn catch_up(&mut self, until: Instant) -> bool {
        let Some(store) = &self.outputs.store else {
            return false;
        };
        for n in 0..FLUSHED {
            if n > 0 && Instant::now() > until {
                break;
            }
            let named = self.unstored_named.pop_of(|vm| store.room(vm, true) > 0);
            let next = named.or_else(|| self.unstored.pop_of(|vm| store.room(vm, false) > 0));
            let Some(no) = next else { break };
            if let Some(update) = self.correlator.report(no) {
                self.store(no, &poisontrace_report::document(update.incident));
            }
        }
        self.store_is_behind() && store.health().failing.is_none()
    }

    /// Whether incidents wait for a store that could not take them.
    pub fn store_is_behind(&self) -> bool {
        !self.unstored.is_empty() || !self.unstored_named.is_empty()
    }

    /// Of a replay, once its recording has ended: the sinks, for the next one.
    pub fn into_outputs(mut self) -> Outputs {
        self.close();
        self.outputs
    }

    /// The last flush, and the store's end.
    fn close(&mut self) {
        let until = Instant::now() + CLOSE;
        if let Some(store) = &self.outputs.store {
            store.hurry();
        }
        while self.flush() && Instant::now() < until {
            if let (Some(store), true) = (&self.outputs.store, self.store_is_behind()) {
                store.settle(Duration::from_millis(100));
            }
        }
        if let Some(store) = self.outputs.store.take()
            && !store.close(until.saturating_duration_since(Instant::now()).max(CLOSE / 3))
        {
            tracing::error!("the store could not be written to at the end: the newest changes are lost");
        }
    }

    /// The last flush, and the recording's closing line.
    pub fn finish(mut self) -> Result<(), Failure> {
        while let Some(event) = self.live.as_mut().and_then(|live| live.watcher.waiting()) {
            self.feed(&event);
        }
        self.close();
        self.outputs.recording.take().map_or(Ok(()), Recording::finish)
    }
}
