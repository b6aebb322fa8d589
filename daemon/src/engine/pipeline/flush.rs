//! Changed incidents, a part at a time, to the outputs. An incident that the store has no room for waits in the model.

use std::time::{Duration, Instant};

use super::Pipeline;
use crate::{
    failure::Failure,
    fair::Class,
    outputs::{Outputs, class_of, recording::Recording},
};
use poisontrace_model::correlate::IncidentNo;
use poisontrace_report::document::Incident;

/// Incidents of one flush: a report takes some 50 µs, and the ring buffer is to be read meanwhile.
const FLUSHED: usize = 128;
/// The time that they may take: an incident of many vCPUs is a long report, and a scrape waits for it.
const FLUSHING: Duration = Duration::from_millis(5);
/// Ended incidents that stay in memory: totals are read, and logs speak, a little after the end.
const ENDED: usize = 1024;
/// Ended incidents that wait for the store beside those, of pages that the kernel has not named: of as many VMMs as a user
/// likes to start.
const ENDED_UNSTORED: usize = 4096;
/// How long the end waits for the disk.
const CLOSE: Duration = Duration::from_millis(1500);

impl Pipeline {
    /// Hands what changed to the sinks, a part at a time. Returns whether there is more.
    pub fn flush(&mut self) -> bool {
        if let Some(recording) = &mut self.outputs.recording {
            recording.flush();
        }
        for no in self.correlator.take_numbers() {
            // Not reported yet: whose page it is shows then.
            self.changed
                .insert(self.correlator.process_of(no), Class::Other, no);
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

    /// Drops incidents that have ended and are stored, the earliest end first; where too many wait for the store, also such
    /// as no kernel has confirmed.
    fn release(&mut self) {
        let mut given_up = 0;
        for _ in ENDED..self.ended.len() {
            let Some(no) = self.ended.pop_front() else { break };
            let too_many = self.ended.len() >= ENDED + ENDED_UNSTORED;
            let waits = self.changed.contains(no) || self.unstored.contains(no);
            let vm = self.correlator.process_of(no);
            if waits && too_many && self.unstored.give_up(vm, no) {
                given_up += 1;
            } else if waits {
                self.ended.push_back(no);
                continue;
            }
            if let Some(id) = self.correlator.release(no) {
                self.outputs.forget(&id);
            }
        }
        if given_up > 0 && self.given_up == 0 {
            tracing::warn!(
                "more incidents than the store can take, of poison that no kernel has confirmed: of those that ended, the \
                 oldest are dropped before they are stored (poisontrace_incidents_evicted_total counts them)"
            );
        }
        self.given_up += given_up;
    }

    fn keep(&mut self, no: IncidentNo, incident: &Incident) {
        let Some(store) = &self.outputs.store else { return };
        let (vm, class) = (self.correlator.process_of(no), class_of(incident));
        // Past those that wait there is no way: their VMs take turns.
        let first = self.unstored.is_empty_of(class) && !self.unstored.contains(no);
        if first && store.room().takes(vm, class) {
            self.store(no, incident);
        } else {
            // It stays where it is, in the correlator, until the store has room.
            self.unstored.insert(vm, class, no);
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
            let room = store.room();
            let next = self.unstored.pop_of(|vm, class| room.takes(vm, class));
            drop(room);
            let Some(no) = next else { break };
            if let Some(update) = self.correlator.report(no) {
                self.store(no, &poisontrace_report::document(update.incident));
            }
        }
        self.store_is_behind() && store.health().failing.is_none()
    }

    /// Whether incidents wait for a store that could not take them.
    pub fn store_is_behind(&self) -> bool {
        !self.unstored.is_empty()
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
