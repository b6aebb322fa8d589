//! Incidents in the log: one line a change of state. The journal's has the whole incident in a field.

use super::{changes::Change, limit::Limits};
use poisontrace_report::document::Incident;

/// See the module.
#[derive(Default)]
pub struct IncidentLog {
    /// Whether a line takes the incident's JSON.
    pub json: bool,
    lines: Limits,
}

impl IncidentLog {
    pub fn incident(&mut self, incident: &Incident, change: Change, now_ns: u64) {
        let vm = incident.vm.pid.unwrap_or(0);
        if !self.lines.pass(vm, super::class_of(incident), now_ns) {
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
            .json
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
            incident.summary
        );
    }
}
