//! An incident as the verdict leaves it. Its text is written by the report crate; the fields that
//! serialize have the names and meanings of `explain --format json` (`daemon/report/explain.schema.json`).

use alloc::{string::String, vec::Vec};
use serde::{Deserialize, Serialize};

pub use super::terms::*;
use crate::{
    event::{Access, log_statement::LogRecord, totals::FloorKind},
    hex::Hex,
    incident::{findings::Findings, missing::MissingEvidence, next_steps::NextStep, timeline::TimelineEvent},
};

/// What two sources have in common by which they are taken to speak of one VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Join {
    pub key: String,
    pub value: Option<String>,
    /// The file, and the line, that was joined to the others by it.
    pub source: String,
    pub line: Option<u64>,
}

/// One poisoned page (or huge page) in one VM.
#[derive(Clone, Debug, PartialEq)]
pub struct Incident {
    pub id: String,
    pub started_at: Option<String>,
    pub vm: Vm,
    pub page: Page,
    pub outcome: Outcome,
    pub cause: Cause,
    pub confidence: Confidence,
    /// What the summary states beside the verdict.
    pub findings: Findings,
    pub origin: Origin,
    /// Ids of the incidents of other VMs that held the same page of the host (ksm, shared memory).
    pub related_incidents: Vec<String>,
    /// All of them, where more than these.
    pub related_total: Option<u64>,
    pub next_steps: Vec<NextStep>,
    pub signals: Signals,
    pub exits: Exits,
    pub exit_samples: Vec<ExitSample>,
    pub storm: Option<Storm>,
    pub flush: Flush,
    pub latency_ns: Latency,
    pub injections: Injections,
    /// By what the sources of an answer from logs were joined.
    pub joins: Vec<Join>,
    /// The statements that it rests on.
    pub records: Vec<LogRecord>,
    pub timeline: Vec<TimelineEntry>,
    pub missing: Vec<MissingEvidence>,
}

/// An event of the incident and when it was.
#[derive(Clone, Debug, PartialEq)]
pub struct TimelineEntry {
    /// From the poisoning, nanoseconds; may be negative. `None`: the trace's clock has no unit.
    pub t_ns: Option<i64>,
    pub event: TimelineEvent,
}

/// Where the error came from, and the hardware that reported it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Origin {
    pub how: OriginKind,
    pub basis: OriginBasis,
    pub machine_check: Option<OriginMachineCheck>,
    pub dimm: Option<Dimm>,
    /// Who reported it: a kernel function, a driver, a log.
    pub by: Option<String>,
}

impl Default for Origin {
    fn default() -> Self {
        Self {
            how: OriginKind::Unknown,
            basis: OriginBasis::None,
            machine_check: None,
            dimm: None,
            by: None,
        }
    }
}

/// The bank of the host's processor that reported the error.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OriginMachineCheck {
    pub cpu: Option<u32>,
    pub bank: Option<u32>,
    pub status: Option<Hex>,
    pub addr: Option<Hex>,
    pub misc: Option<Hex>,
    /// Bits 15:0 of STATUS.
    pub mcacod: Option<Hex>,
}

/// A memory module, as the machine labels it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dimm {
    pub label: String,
}

/// What the host lost that is no incident of a known VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostEvent {
    pub pfn: Option<Hex>,
    /// Process that was signalled.
    pub process: Option<String>,
    pub pid: Option<u32>,
    pub action_result: Option<String>,
    pub dimm: Option<Dimm>,
    /// File and line, or the probe.
    pub source: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Vm {
    pub name: Option<String>,
    pub uuid: Option<String>,
    pub vmm: Option<String>,
    pub pid: Option<u32>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Page {
    pub pfn: Option<Hex>,
    pub hva: Option<Hex>,
    pub gpa: Option<Hex>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gpas: Vec<Hex>,
    pub size_bytes: Option<u64>,
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// The kernel's recovery action, in its own terms.
    pub action_result: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Signals {
    pub action_optional: Option<u64>,
    pub action_required: Option<u64>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Exits {
    pub count: Option<u64>,
    pub distinct_lines: Option<u64>,
    pub line_bitmap: Option<Hex>,
    pub distinct_rips: Option<u64>,
    pub by_access: ByAccess,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ByAccess {
    pub read: Option<u64>,
    pub write: Option<u64>,
    pub fetch: Option<u64>,
    /// Accesses by the walk of the guest's page tables.
    #[serde(default)]
    pub page_walk: Option<u64>,
}

/// One exit on the page: the first 256 of them, then every power of two (from a source that shows every exit: at
/// most 512 in even distances).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExitSample {
    /// From the poisoning, nanoseconds.
    pub t_ns: i64,
    pub vcpu: Option<u32>,
    /// With its low bits: which line was touched.
    pub gpa: Option<Hex>,
    pub rip: Option<Hex>,
    pub access: Access,
    pub in_kernel_ns: Option<u64>,
    pub gup_ns: Option<u64>,
    pub exit_to_entry_ns: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Storm {
    pub kind: StormKind,
    pub exits: u64,
    pub lines: u64,
    pub duration_ns: Option<u64>,
    pub spin: Option<Spin>,
    /// Lines that a walk passed and that no exit shows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missing_lines: Option<Hex>,
    /// Exits of a walk whose address is not known, or contradicted by the exits around them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unknown_addresses: Option<u64>,
    /// Of a walk: falls with its holes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confidence: Option<Confidence>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Flush {
    pub verdict: FlushVerdict,
    pub basis: FlushBasis,
    pub instruction: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confidence: Option<Confidence>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    pub exit_to_entry: Option<Distribution>,
    pub in_kernel: Option<Distribution>,
    pub gup: Option<Distribution>,
    pub vmm: Option<Distribution>,
    pub gup_share: Option<f64>,
    pub gup_basis: Option<GupBasis>,
    /// in_kernel.sum / exit_to_entry.sum, over the exits that went back into the guest; vmm.sum likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_kernel_share: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vmm_share: Option<f64>,
    /// The host's exits that touch no guest memory: the bare way out of the guest and back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub baseline_exit: Option<BaselineTimes>,
    pub claim_63_exits: Option<Claim>,
}

/// See [`Latency::baseline_exit`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BaselineTimes {
    /// The cheapest kind of them that was seen.
    pub exits_of: FloorKind,
    pub exit_to_entry: Distribution,
}

/// Nanoseconds; `count` and `sum` are exact.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Distribution {
    pub count: u64,
    pub min: u64,
    pub p50: u64,
    pub p99: u64,
    pub max: u64,
    pub sum: u64,
    /// `buckets[n]`: how many of 2^n to 2^(n+1) - 1 ns.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub buckets: Vec<u32>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Claim {
    pub in_kernel_ns: u64,
    pub with_vmm_ns: Option<u64>,
    pub within_50us: bool,
    /// 63 times the mean of `baseline_exit`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub floor_ns: Option<u64>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Injections {
    pub action_optional: Option<u64>,
    pub action_required: Option<u64>,
    pub delivered: Option<u64>,
    pub vcpus: Option<u64>,
    pub events: Vec<InjectionEvent>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InjectionEvent {
    /// From the poisoning, nanoseconds.
    pub t_ns: Option<i64>,
    pub vcpu: Option<u32>,
    pub via: Via,
    pub bank: Option<u32>,
    pub status: Option<Hex>,
    pub addr: Option<Hex>,
    pub misc: Option<Hex>,
    pub mcg_status: Option<Hex>,
    pub severity: Severity,
    pub overflow: Option<bool>,
}
