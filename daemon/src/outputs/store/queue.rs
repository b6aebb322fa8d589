//! What waits to be written: the newest state of each incident, and events. Bounded, for one VM by half of what is left;
//! what does not fit is refused (incidents, which the correlator keeps) or dropped and counted (events).

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use super::vm_of;
use crate::fair::{Class, may_take};
use poisontrace_report::document::Incident;

/// Bytes of incidents that wait. All that waits is one batch, so that it is also how long a change waits for the one before.
const MAX_BYTES: usize = 1 << 20;
/// Bytes of events that wait: a flood of them must not keep incidents out.
const MAX_EVENT_BYTES: usize = 512 << 10;
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
    /// When the oldest change that is not written yet came.
    pub since: Instant,
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

impl EventRow {
    fn bytes(&self) -> usize {
        self.incident.len() + self.json.len()
    }
}

/// What waits for one VM.
#[derive(Clone, Copy, Default)]
struct Share {
    rows: usize,
    row_bytes: usize,
    event_bytes: usize,
}

/// See the module.
#[derive(Default)]
pub struct Queue {
    pub rows: BTreeMap<String, Row>,
    pub events: Vec<EventRow>,
    shares: BTreeMap<u32, Share>,
    row_bytes: usize,
    event_bytes: usize,
    seq: u64,
}

impl Queue {
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty() && self.events.is_empty()
    }

    /// Bytes of all that waits.
    pub fn bytes(&self) -> usize {
        self.row_bytes + self.event_bytes
    }

    /// Whether one more incident of this VM may come in. A quarter is kept for pages that the kernel has named.
    pub fn takes(&self, vm: u32, class: Class) -> bool {
        let of = |all: usize| match class {
            Class::Named => all,
            Class::Other => all / 4 * 3,
        };
        let free = of(MAX_INCIDENTS).saturating_sub(self.rows.len());
        let free_bytes = of(MAX_BYTES).saturating_sub(self.row_bytes);
        if free == 0 || free_bytes == 0 {
            return false;
        }
        let own = self.shares.get(&vm).copied().unwrap_or_default();
        may_take(own.row_bytes, free_bytes) && may_take(own.rows, free)
    }

    /// How long the change that waits longest has waited.
    pub fn longest_wait(&self) -> Duration {
        let since = self.rows.values().map(|row| row.since).min();
        since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    pub fn put(&mut self, id: String, mut row: Row) {
        self.seq += 1;
        row.seq = self.seq;
        if let Some(before) = self.rows.remove(&id) {
            self.uncount(&id, &before);
            row.seq = before.seq;
            row.since = before.since;
            row.verdicts = joined(before.verdicts, row.verdicts);
        }
        self.insert(id, row);
    }

    fn insert(&mut self, id: String, row: Row) {
        let share = self.shares.entry(vm_of(&id)).or_default();
        share.rows += 1;
        share.row_bytes += row.bytes();
        self.row_bytes += row.bytes();
        self.rows.insert(id, row);
    }

    fn uncount(&mut self, id: &str, row: &Row) {
        self.row_bytes -= row.bytes();
        if let Some(share) = self.shares.get_mut(&vm_of(id)) {
            share.rows -= 1;
            share.row_bytes -= row.bytes();
        }
    }

    /// Takes an event; false: no room.
    pub fn event(&mut self, event: EventRow) -> bool {
        let vm = vm_of(&event.incident);
        let own = self.shares.get(&vm).map_or(0, |share| share.event_bytes);
        if !may_take(own, MAX_EVENT_BYTES.saturating_sub(self.event_bytes)) {
            return false;
        }
        let share = self.shares.entry(vm).or_default();
        share.event_bytes += event.bytes();
        self.event_bytes += event.bytes();
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
                    newer.since = row.since;
                    newer.verdicts = joined(row.verdicts, std::mem::take(&mut newer.verdicts));
                }
                None => self.insert(id, row),
            }
        }
        for event in &old.events {
            self.shares.entry(vm_of(&event.incident)).or_default().event_bytes += event.bytes();
            self.event_bytes += event.bytes();
        }
        let newer = std::mem::replace(&mut self.events, old.events);
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
