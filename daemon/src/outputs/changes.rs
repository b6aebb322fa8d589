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
    /// Its outcome, cause or confidence is another than before (not set at the opening).
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

#[cfg(test)]
mod tests {
    use super::*;
    use poisontrace_model::{
        correlate::report,
        event::session::Session,
        incident::{evidence::Evidence, next_steps::Related},
    };

    fn update(outcome: Outcome, closed: bool) -> Update {
        let e = Evidence::new(1, 7, Default::default());
        let mut update = report::update(&e, &Session::default(), Related::default());
        update.incident.outcome = outcome;
        update.closed = closed;
        update
    }

    #[test]
    fn an_incident_opens_once_changes_its_verdict_and_closes_once() {
        let mut changes = Changes::default();
        let change = |changes: &mut Changes, outcome, closed| {
            let change = changes.of(&update(outcome, closed));
            (change.opened, change.verdict, change.closed)
        };
        assert_eq!(
            change(&mut changes, Outcome::Running, false),
            (true, false, false)
        );
        assert_eq!(
            change(&mut changes, Outcome::Running, false),
            (false, false, false)
        );
        assert_eq!(
            change(&mut changes, Outcome::GuestPanicked, false),
            (false, true, false)
        );
        assert_eq!(
            change(&mut changes, Outcome::GuestPanicked, true),
            (false, false, true)
        );
        assert_eq!(
            change(&mut changes, Outcome::GuestPanicked, true),
            (false, false, false)
        );
    }
}
