//! The document of `explain --format json`, schema version 2 (`explain.schema.json` beside this crate): an incident
//! with its text. It is what the store keeps and what text and HTML are made of, so that English is written once.

use serde::{Deserialize, Deserializer, Serialize};

use poisontrace_model::{
    host::Host,
    incident::model::{
        Cause, Confidence, ExitSample, Exits, Flush, HostEvent, Injections, Join, Lane, Latency, Origin,
        Outcome, Page, Signals, Storm, Vm,
    },
};

use crate::compat;

/// Version of the JSON that is written.
pub const SCHEMA_VERSION: u32 = 2;

/// Incidents of one host.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// Version of the schema.
    pub schema_version: u32,
    /// The host.
    pub host: Host,
    /// One per poisoned page and VM.
    pub incidents: Vec<Incident>,
    /// What the host lost that is no incident of a known VM.
    #[serde(default)]
    pub host_events: Vec<HostEvent>,
    /// How many more of these there are.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub host_events_left_out: u64,
    /// Lines of the files that look cut or wrapped, whether or not an incident could be made of the rest.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<Missing>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl Answer {
    /// The answer about this host.
    pub fn new(host: Host, incidents: Vec<Incident>) -> Self {
        Self {
            schema_version: SCHEMA_VERSION,
            host,
            incidents,
            host_events: Vec::new(),
            host_events_left_out: 0,
            missing: Vec::new(),
        }
    }
}

/// One incident. Field meanings are the schema's.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Incident {
    /// Stable id of the incident.
    pub id: String,
    /// Wall-clock time of the poisoning, RFC 3339.
    pub started_at: Option<String>,
    /// The guest and its VMM.
    pub vm: Vm,
    /// The page in its three address spaces.
    pub page: Page,
    /// What became of the guest.
    pub outcome: Outcome,
    /// Why.
    pub cause: Cause,
    /// How sure the verdict is.
    pub confidence: Confidence,
    /// Outcome, cause and reason, one or two sentences.
    pub summary: String,
    /// Where the error came from.
    pub origin: Origin,
    /// Ids of the incidents of other VMs that held the same page of the host (ksm, shared memory).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub related_incidents: Vec<String>,
    /// Number of all related incidents, where it exceeds the list.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub related_total: Option<u64>,
    /// What to do now, most urgent first.
    pub next_steps: Vec<String>,
    /// SIGBUS to the VMM.
    pub signals: Signals,
    /// Exits on the page.
    pub exits: Exits,
    /// Single exits on the page.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub exit_samples: Vec<ExitSample>,
    /// Repeated exits, if there are many.
    pub storm: Option<Storm>,
    /// Whether the accesses are flushes.
    pub flush: Flush,
    /// Durations of the exits, nanoseconds.
    pub latency_ns: Latency,
    /// Machine checks that the VMM injected.
    pub injections: Injections,
    /// By what the sources of an answer from logs were joined.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub joins: Vec<Join>,
    /// What happened when.
    pub timeline: Vec<TimelineEntry>,
    /// Evidence that was absent.
    pub missing: Vec<Missing>,
    /// `explain --why`: the statements that the answer rests on.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub why: Vec<Why>,
}

/// A statement of a log, an event or a total, and the rule that it supports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Why {
    /// File, or `events`: those of a trace, a recording, the store or the probes.
    pub source: String,
    /// The line in it, from 1.
    pub line: Option<u64>,
    /// Role of who wrote it.
    pub speaker: String,
    /// The key by which its speaker is joined to the others; null: the first of them.
    pub joined_by: Option<String>,
    /// The rule that it supports.
    pub supports: String,
    /// The statement in English.
    pub message: String,
    /// The line of the file, as it can be shown; empty for events and totals.
    pub text: String,
}

/// An event of the incident.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TimelineEntry {
    /// From the poisoning, nanoseconds; may be negative. Null: the trace's clock has no unit.
    pub t_ns: Option<i64>,
    /// Stable name of its kind.
    pub kind: String,
    /// In words.
    pub message: String,
    /// The file that the event is read from, with its own time where its clock is not aligned; null: the probes.
    pub source: Option<String>,
    /// On which side it happened; absent: of poisontrace itself, or not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lane: Option<Lane>,
    /// The guest or its VMM ended by it.
    #[serde(default, skip_serializing_if = "core::ops::Not::not")]
    pub end: bool,
}

/// Evidence that was absent, and what it would have settled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missing {
    /// Stable name of its kind.
    pub kind: String,
    /// In words.
    pub message: String,
}

/// An incident of schema version 2.
#[derive(Deserialize)]
#[serde(remote = "Incident")]
struct Version2 {
    id: String,
    started_at: Option<String>,
    vm: Vm,
    page: Page,
    outcome: Outcome,
    cause: Cause,
    confidence: Confidence,
    summary: String,
    #[serde(default)]
    origin: Origin,
    #[serde(default)]
    related_incidents: Vec<String>,
    #[serde(default)]
    related_total: Option<u64>,
    next_steps: Vec<String>,
    signals: Signals,
    exits: Exits,
    #[serde(default)]
    exit_samples: Vec<ExitSample>,
    storm: Option<Storm>,
    flush: Flush,
    latency_ns: Latency,
    injections: Injections,
    #[serde(default)]
    joins: Vec<Join>,
    timeline: Vec<TimelineEntry>,
    missing: Vec<Missing>,
    #[serde(default)]
    why: Vec<Why>,
}

impl<'de> Deserialize<'de> for Incident {
    /// Reads this version and version 1, which has no field that names its version within an incident.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut value = serde_json::Value::deserialize(deserializer)?;
        if compat::v1::is(&value) {
            compat::v1::upgrade(&mut value);
        }
        Version2::deserialize(value).map_err(serde::de::Error::custom)
    }
}
