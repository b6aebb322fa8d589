//! An incident as the verdict leaves it. Its text is written by the report crate; the fields that
//! serialize have the names and meanings of `explain --format json` (`daemon/report/explain.schema.json`).

use alloc::{string::String, vec::Vec};
use serde::{Deserialize, Serialize};

pub use super::terms::*;
use crate::{
    event::container::Container,
    event::{Access, NameGuess, log_statement::LogRecord, totals::BaselineKind},
    hex::Hex,
    incident::{findings::Findings, missing::MissingEvidence, next_steps::NextStep, timeline::TimelineEvent},
};

/// What two sources have in common by which they are taken to speak of one VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Join {
    /// Kind of key (`pid`, `uuid`, ...).
    pub key: String,
    /// Its value; `None`: the clock.
    pub value: Option<String>,
    /// The file, and the line, that was joined to the others by it.
    pub source: String,
    /// The line in it, from 1.
    pub line: Option<u64>,
}

/// One poisoned page (or huge page) in one VM.
#[derive(Clone, Debug, PartialEq)]
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
    /// What the summary states beside the verdict.
    pub findings: Findings,
    /// Where the error came from.
    pub origin: Origin,
    /// Ids of the incidents of other VMs that held the same page of the host (ksm, shared memory).
    pub related_incidents: Vec<String>,
    /// All of them, where more than these.
    pub related_total: Option<u64>,
    /// What to do now, most urgent first.
    pub next_steps: Vec<NextStep>,
    /// SIGBUS to the VMM.
    pub signals: Signals,
    /// Exits on the page.
    pub exits: Exits,
    /// Single exits on the page.
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
    pub joins: Vec<Join>,
    /// The statements that it rests on.
    pub records: Vec<LogRecord>,
    /// What happened when.
    pub timeline: Vec<TimelineEntry>,
    /// Evidence that was absent.
    pub missing: Vec<MissingEvidence>,
}

/// An event of the incident and when it was.
#[derive(Clone, Debug, PartialEq)]
pub struct TimelineEntry {
    /// From the poisoning, nanoseconds; may be negative. `None`: the trace's clock has no unit.
    pub t_ns: Option<i64>,
    /// What happened.
    pub event: TimelineEvent,
}

/// Where the error came from, and the hardware that reported it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Origin {
    /// Kind of origin.
    pub how: OriginKind,
    /// Evidence that it rests on.
    pub basis: OriginBasis,
    /// The host's machine check.
    pub machine_check: Option<OriginMachineCheck>,
    /// The memory module, where a source names it.
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
    /// Number of the processor.
    pub cpu: Option<u32>,
    /// Number of the bank.
    pub bank: Option<u32>,
    /// MCi_STATUS.
    pub status: Option<Hex>,
    /// MCi_ADDR.
    pub addr: Option<Hex>,
    /// MCi_MISC.
    pub misc: Option<Hex>,
    /// Bits 15:0 of STATUS.
    pub mcacod: Option<Hex>,
}

/// A memory module, as the machine labels it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dimm {
    /// Label of the slot.
    pub label: String,
}

/// What the host lost that is no incident of a known VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostEvent {
    /// Page frame of the host.
    pub pfn: Option<Hex>,
    /// Name of the process that was signalled; not known to be a VMM.
    pub process: Option<String>,
    /// Its process number.
    pub pid: Option<u32>,
    /// It shares a VM's memory, by its name: a file system, TPM, disk or switch of the VM ends with it.
    #[serde(default, skip_serializing_if = "core::ops::Not::not")]
    pub vm_helper: bool,
    /// It was killed by SIGBUS.
    #[serde(default, skip_serializing_if = "core::ops::Not::not")]
    pub killed: bool,
    /// Result of the recovery, in the kernel's terms.
    pub action_result: Option<String>,
    /// The memory module, where a source names it.
    pub dimm: Option<Dimm>,
    /// File and line, or the probe.
    pub source: String,
}

/// The guest and its VMM.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Vm {
    /// Name of the VM.
    pub name: Option<String>,
    /// What makes that name a guess; absent: nothing does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name_guess: Option<NameGuess>,
    /// UUID of the VM.
    pub uuid: Option<String>,
    /// Executable of the VMM.
    pub vmm: Option<String>,
    /// Process (thread group) of the VMM on the host.
    pub pid: Option<u32>,
    /// The container that the VMM runs in; absent: it runs in none that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<Container>,
}

/// The page in its three address spaces.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Page {
    /// Page frame of the host.
    pub pfn: Option<Hex>,
    /// Address in the VMM.
    pub hva: Option<Hex>,
    /// Guest page address.
    pub gpa: Option<Hex>,
    /// 4 KiB pages of a huge page that were accessed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gpas: Vec<Hex>,
    /// Size of the page.
    pub size_bytes: Option<u64>,
    /// Type of the page, in the kernel's terms.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// The kernel's recovery action, in its own terms.
    pub action_result: Option<String>,
}

/// SIGBUS to the VMM; `None`: not observable.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Signals {
    /// Action optional (AO).
    pub action_optional: Option<u64>,
    /// Action required (AR).
    pub action_required: Option<u64>,
}

/// Exits on the page; `None`: not observable.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Exits {
    /// How many.
    pub count: Option<u64>,
    /// 64-byte lines that were accessed.
    pub distinct_lines: Option<u64>,
    /// The same as bits.
    pub line_bitmap: Option<Hex>,
    /// RIPs that accessed it.
    pub distinct_rips: Option<u64>,
    /// By kind of access.
    pub by_access: ByAccess,
}

/// Exits by kind of access.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ByAccess {
    /// Reads.
    pub read: Option<u64>,
    /// Writes.
    pub write: Option<u64>,
    /// Instruction fetches.
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
    /// Number of the vCPU.
    pub vcpu: Option<u32>,
    /// With its low bits: which line was touched.
    pub gpa: Option<Hex>,
    /// The guest's RIP.
    pub rip: Option<Hex>,
    /// Kind of the access.
    pub access: Access,
    /// Time in the kernel.
    pub in_kernel_ns: Option<u64>,
    /// Time in gup.
    pub gup_ns: Option<u64>,
    /// From the exit to the next entry.
    pub exit_to_entry_ns: Option<u64>,
}

/// Many exits on one page.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Storm {
    /// What the exits are.
    pub kind: StormKind,
    /// How many.
    pub exits: u64,
    /// 64-byte lines of the page that were accessed.
    pub lines: u64,
    /// From the first to the last exit.
    pub duration_ns: Option<u64>,
    /// Where the vCPU spins, if it does.
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

/// Whether the accesses are cache-line flushes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Flush {
    /// Flush, access, or undetermined.
    pub verdict: FlushVerdict,
    /// Evidence that it rests on.
    pub basis: FlushBasis,
    /// The instruction, if its bytes are known.
    pub instruction: Option<String>,
    /// How sure that is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confidence: Option<Confidence>,
}

/// Durations of the exits.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// From the exit to the next entry.
    pub exit_to_entry: Option<Distribution>,
    /// From the exit to the return to user space, or to the next entry where there is none.
    pub in_kernel: Option<Distribution>,
    /// In `get_user_pages_unlocked()`.
    pub gup: Option<Distribution>,
    /// From the return to user space to the next entry: time in the VMM.
    pub vmm: Option<Distribution>,
    /// `gup.sum / in_kernel.sum`: share of the host-side gup in the in-kernel time.
    pub gup_share: Option<f64>,
    /// Whether the time of gup is exact.
    pub gup_basis: Option<GupBasis>,
    /// `in_kernel.sum / exit_to_entry.sum`, over exits that went back into the guest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_kernel_share: Option<f64>,
    /// `vmm.sum / exit_to_entry.sum`, over the same exits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vmm_share: Option<f64>,
    /// The host's exits that touch no guest memory: the bare way out of the guest and back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub baseline_exit: Option<BaselineTimes>,
    /// 63 exits beside 50 µs.
    pub claim_63_exits: Option<Claim>,
}

/// See [`Latency::baseline_exit`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BaselineTimes {
    /// The cheapest kind of them that was seen.
    pub exits_of: BaselineKind,
    /// From the exit to the next entry.
    pub exit_to_entry: Distribution,
}

/// Nanoseconds; `count` and `sum` are exact.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Distribution {
    /// How many.
    pub count: u64,
    /// The least, nanoseconds.
    pub min: u64,
    /// Median.
    pub p50: u64,
    /// 99th percentile.
    pub p99: u64,
    /// The greatest, nanoseconds.
    pub max: u64,
    /// Their sum, nanoseconds.
    pub sum: u64,
    /// `buckets[n]`: how many of 2^n to 2^(n+1) - 1 ns.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub buckets: Vec<u32>,
}

/// 63 times the mean exit of this incident, compared with the 50 µs claimed on LKML; nanoseconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Claim {
    /// 63 × the mean in-kernel time.
    pub in_kernel_ns: u64,
    /// 63 × the mean exit-to-entry time.
    pub with_vmm_ns: Option<u64>,
    /// Whether `in_kernel_ns` is within 50 µs.
    pub within_50us: bool,
    /// 63 times the mean of `baseline_exit`.
    #[serde(default, alias = "floor_ns", skip_serializing_if = "Option::is_none")]
    pub baseline_exit_ns: Option<u64>,
}

/// Machine checks that the VMM injected; `None`: not observable.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Injections {
    /// Errors injected as AO; broadcast copies not counted.
    pub action_optional: Option<u64>,
    /// Errors injected as AR.
    pub action_required: Option<u64>,
    /// Entries of #MC into the guest, all vCPUs.
    pub delivered: Option<u64>,
    /// vCPUs that received at least one #MC.
    pub vcpus: Option<u64>,
    /// The first 256 injections.
    pub events: Vec<InjectionEvent>,
}

/// One machine check.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InjectionEvent {
    /// From the poisoning, nanoseconds.
    pub t_ns: Option<i64>,
    /// Number of the vCPU.
    pub vcpu: Option<u32>,
    /// By which ioctl, or that a log shows it.
    pub via: Via,
    /// Number of the bank.
    pub bank: Option<u32>,
    /// MCi_STATUS.
    pub status: Option<Hex>,
    /// MCi_ADDR.
    pub addr: Option<Hex>,
    /// MCi_MISC.
    pub misc: Option<Hex>,
    /// MCG_STATUS.
    pub mcg_status: Option<Hex>,
    /// Action required or optional.
    pub severity: Severity,
    /// STATUS.OVER was set.
    pub overflow: Option<bool>,
}
