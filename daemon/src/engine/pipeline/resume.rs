//! Going on with what a daemon before has left open.

use std::path::Path;

use super::Pipeline;
use crate::outputs::store::{StoreError, Stored};
use poisontrace_model::{
    correlate::resume::{State, TotalsContinuity},
    event::{Event, EventKind},
};
use poisontrace_sources::host::machine::{boot_id, clock_pair, started_after};

impl Pipeline {
    /// Takes over the incidents that a daemon before left open in the store in `dir`.
    pub fn resume(&mut self, dir: &Path, continuity: TotalsContinuity) {
        let states = Stored::open(dir).and_then(|stored| stored.states(&boot_id().unwrap_or_default()));
        let states = match states {
            Ok(states) => states,
            // Nothing to resume.
            Err(StoreError::Absent(_)) => return,
            Err(err) => {
                tracing::warn!(error = %err, "cannot resume the open incidents of the store");
                return;
            }
        };
        let now = clock_pair().monotonic_ns;
        for state in &states {
            match serde_json::from_str::<State>(state) {
                Ok(state) => {
                    self.resumed.insert(state.pid(), state.start_ticks());
                    self.correlator.resume(state, now, continuity);
                }
                Err(err) => {
                    tracing::warn!(error = %err, "cannot resume an open incident");
                }
            }
        }
        if !self.resumed.is_empty() {
            tracing::info!(
                incidents = states.len(),
                ?continuity,
                "resumes the open incidents of the store"
            );
        }
    }

    /// Takes the signals of running processes that the daemon before had not stored, and returns them.
    pub fn resume_signals(&mut self, mut signals: Vec<Event>) -> Vec<Event> {
        signals.retain(|signal| {
            let EventKind::Sigbus { target_pid, .. } = signal.what else {
                return false;
            };
            let live = self.live.as_ref();
            let ticks = live.and_then(|live| live.registry.start_ticks(target_pid));
            let its_own = ticks.is_some_and(|ticks| !started_after(ticks, signal.t));
            its_own && !self.correlator.knows_signal(signal)
        });
        self.take(&signals);
        signals
    }

    /// Notes in incidents that are known from the ring buffer alone that nobody watched them since.
    pub fn unwatched(&mut self, continuity: TotalsContinuity) {
        if continuity == TotalsContinuity::Retained {
            self.correlator.unwatched(clock_pair().monotonic_ns);
        }
    }

    /// Closes the incidents of VMMs that exited unobserved; to be called once the probes' records are read.
    pub fn close_exited(&mut self) {
        let t = clock_pair().monotonic_ns;
        for (pid, ticks) in std::mem::take(&mut self.resumed) {
            let now = self.live.as_ref().and_then(|live| live.registry.start_ticks(pid));
            if now != ticks {
                self.feed(&Event {
                    t,
                    tid: pid,
                    pid,
                    vcpu: None,
                    what: EventKind::VmmGone,
                });
            }
        }
    }
}
