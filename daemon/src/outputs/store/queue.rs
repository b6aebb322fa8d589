//! What waits to be written: the newest state of each incident, and events. Bounded; what does not fit is refused
//! (incidents, which the correlator keeps) or dropped and counted (events).

use std::collections::BTreeMap;

use poisontrace_report::document::Incident;

/// Bytes of incidents and events that wait.
const MAX_BYTES: usize = 2 << 20;
/// Incidents that wait.
const MAX_INCIDENTS: usize = 512;
/// Verdicts of one incident between two writes.
const MAX_VERDICTS: usize = 64;

/// A verdict as it was reached.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Verdict {
    /// When (RFC 3339); `None`: before the store kept a history.
    pub at: Option<String>,
    pub outcome: String,
    pub cause: String,
    pub confidence: String,
    pub summary: String,
}

impl Verdict {
    pub fn of(incident: &Incident, at: String) -> Self {
        Self {
            at: Some(at),
            outcome: incident.outcome.to_string(),
            cause: incident.cause.to_string(),
            confidence: incident.confidence.to_string(),
            summary: incident.summary.clone(),
        }
    }

    /// Whether the verdict is the same; the summary may count on.
    pub fn same(&self, other: &Self) -> bool {
        (&self.outcome, &self.cause, &self.confidence) == (&other.outcome, &other.cause, &other.confidence)
    }
}

/// An incident's row.
pub struct Row {
    /// Order of arrival.
    pub seq: u64,
    pub vm: Option<String>,
    pub started_at: Option<String>,
    pub json: String,
    /// What the daemon needs to go on with it after a restart; `None`: nothing more can come.
    pub state: Option<String>,
    pub events_seen: u64,
    pub verdicts: Vec<Verdict>,
}

impl Row {
    fn bytes(&self) -> usize {
        self.json.len() + self.state.as_ref().map_or(0, String::len)
    }
}

/// An event's row: incident, number, JSON.
pub struct EventRow {
    pub incident: String,
    pub n: u64,
    pub json: String,
}

/// See the module.
#[derive(Default)]
pub struct Queue {
    pub rows: BTreeMap<String, Row>,
    pub events: Vec<EventRow>,
    bytes: usize,
    seq: u64,
}

impl Queue {
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty() && self.events.is_empty()
    }

    /// Incidents that may still come in.
    pub fn room(&self) -> usize {
        match self.bytes < MAX_BYTES {
            true => MAX_INCIDENTS.saturating_sub(self.rows.len()),
            false => 0,
        }
    }

    pub fn put(&mut self, id: String, mut row: Row) {
        self.seq += 1;
        row.seq = self.seq;
        self.bytes += row.bytes();
        if let Some(before) = self.rows.remove(&id) {
            self.bytes -= before.bytes();
            row.seq = before.seq;
            row.verdicts = joined(before.verdicts, row.verdicts);
        }
        self.rows.insert(id, row);
    }

    /// Takes an event; false: no room.
    pub fn event(&mut self, event: EventRow) -> bool {
        if self.bytes >= MAX_BYTES {
            return false;
        }
        self.bytes += event.json.len();
        self.events.push(event);
        true
    }

    /// All that waits; the queue is empty then.
    pub fn take(&mut self) -> Self {
        let rest = Self {
            seq: self.seq,
            ..Self::default()
        };
        std::mem::replace(self, rest)
    }

    /// Puts back what could not be written: what has come since is newer.
    pub fn put_back(&mut self, old: Self) {
        for (id, row) in old.rows {
            match self.rows.get_mut(&id) {
                Some(newer) => {
                    newer.seq = row.seq;
                    newer.verdicts = joined(row.verdicts, std::mem::take(&mut newer.verdicts));
                }
                None => {
                    self.bytes += row.bytes();
                    self.rows.insert(id, row);
                }
            }
        }
        let newer = std::mem::replace(&mut self.events, old.events);
        self.bytes += self.events.iter().map(|event| event.json.len()).sum::<usize>();
        self.events.extend(newer);
    }
}

/// One history after the other, without repetitions where they meet.
fn joined(mut first: Vec<Verdict>, then: Vec<Verdict>) -> Vec<Verdict> {
    for verdict in then {
        let full = first.len() >= MAX_VERDICTS;
        match first.last_mut() {
            Some(last) if last.same(&verdict) => last.summary = verdict.summary,
            Some(last) if full => *last = verdict,
            _ => first.push(verdict),
        }
    }
    first
}
