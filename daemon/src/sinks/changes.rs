//! What is new about an incident since it was last spoken of: for the log and the trigger hook.

use std::collections::BTreeMap;

use poisontrace_model::{
    correlate::report::Update,
    incident::model::{Cause, Confidence, Outcome},
};

/// Incidents that are remembered; the oldest id goes, and is spoken of anew if it changes again.
const MAX_INCIDENTS: usize = 16_384;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// It was not known before.
    pub opened: bool,
    /// Its outcome, cause or confidence is another than before (not told with the opening).
    pub verdict: bool,
    /// Nothing more can come.
    pub closed: bool,
}

impl Change {
    pub fn any(self) -> bool {
        self.opened || self.verdict || self.closed
    }
}

struct Known {
    verdict: (Outcome, Cause, Confidence),
    closed: bool,
}

/// See the module.
#[derive(Default)]
pub struct Changes(BTreeMap<String, Known>);

impl Changes {
    pub fn of(&mut self, update: &Update) -> Change {
        let incident = &update.incident;
        let now = Known {
            verdict: (incident.outcome, incident.cause, incident.confidence),
            closed: update.closed,
        };
        let change = match self.0.get(&incident.id) {
            None => Change {
                opened: true,
                verdict: false,
                closed: now.closed,
            },
            Some(before) => Change {
                opened: false,
                verdict: before.verdict != now.verdict,
                closed: now.closed && !before.closed,
            },
        };
        if change.opened {
            while self.0.len() >= MAX_INCIDENTS {
                self.0.pop_first();
            }
        }
        if change.any() {
            self.0.insert(incident.id.clone(), now);
        }
        change
    }

    /// Nothing more comes of this incident.
    pub fn forget(&mut self, id: &str) {
        self.0.remove(id);
    }
}

/// A rate limit: `burst` at once, then one a second of the events' time. What is held back is counted.
pub struct Limit {
    left: u32,
    burst: u32,
    since_ns: u64,
    held_back: u64,
}

const SECOND_NS: u64 = 1_000_000_000;

impl Limit {
    pub fn new(burst: u32) -> Self {
        Self {
            left: burst,
            burst,
            since_ns: 0,
            held_back: 0,
        }
    }

    /// Whether one more may pass now.
    pub fn pass(&mut self, now_ns: u64) -> bool {
        let seconds = now_ns.saturating_sub(self.since_ns) / SECOND_NS;
        if seconds > 0 {
            self.since_ns = now_ns;
            let more = u32::try_from(seconds).unwrap_or(u32::MAX);
            self.left = self.left.saturating_add(more).min(self.burst);
        }
        if self.left == 0 {
            self.held_back += 1;
            return false;
        }
        self.left -= 1;
        true
    }

    /// How many were held back since the last call.
    pub fn held_back(&mut self) -> u64 {
        std::mem::take(&mut self.held_back)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use poisontrace_model::{correlate::report, event::session::Session, incident::evidence::Evidence};

    fn update(outcome: Outcome, closed: bool) -> Update {
        let e = Evidence::new(1, 7, Default::default());
        let mut update = report::update(&e, &Session::default(), Vec::new());
        update.incident.outcome = outcome;
        update.closed = closed;
        update
    }

    #[test]
    fn an_incident_opens_once_changes_its_verdict_and_closes_once() {
        let mut changes = Changes::default();
        let told = |changes: &mut Changes, outcome, closed| {
            let change = changes.of(&update(outcome, closed));
            (change.opened, change.verdict, change.closed)
        };
        assert_eq!(told(&mut changes, Outcome::Running, false), (true, false, false));
        assert_eq!(told(&mut changes, Outcome::Running, false), (false, false, false));
        assert_eq!(
            told(&mut changes, Outcome::GuestPanicked, false),
            (false, true, false)
        );
        assert_eq!(
            told(&mut changes, Outcome::GuestPanicked, true),
            (false, false, true)
        );
        assert_eq!(
            told(&mut changes, Outcome::GuestPanicked, true),
            (false, false, false)
        );
    }

    #[test]
    fn a_flood_passes_in_a_burst_and_then_once_a_second() {
        let mut limit = Limit::new(3);
        let passed = (0..100).filter(|_| limit.pass(SECOND_NS)).count();
        assert_eq!((passed, limit.held_back()), (3, 97));
        assert!(limit.pass(2 * SECOND_NS) && !limit.pass(2 * SECOND_NS));
        assert_eq!(limit.held_back(), 1);
    }
}
