//! Evidence that was absent, as types: the report crate words it, and what it would have settled.

use super::recovered::Recovered;
use crate::{
    event::{AttachDelay, probe::ProbeStatus},
    hex::Hex,
};
use alloc::string::String;

/// One piece of evidence that was absent.
#[derive(Clone, Debug, PartialEq)]
pub enum MissingEvidence {
    /// The guest's console log, with its panic message.
    GuestConsole,
    /// The guest has no panic device; the panic is inferred.
    PanicDevice,
    /// CR4 of the vCPU at its access.
    Cr4,
    /// The return value of KVM_X86_SET_MCE.
    SetMceResult,
    /// The VM's memslots: that the page is the VMM's own is inferred.
    Memslots,
    /// `si_code` of the SIGBUS that killed the VMM.
    SigbusCode,
    /// A signal from `memory_failure()`: the page is joined by time alone.
    FailureSignal,
    /// Bytes of the instruction at the guest's RIP.
    InstructionBytes,
    /// Bytes of the instruction that walked the page.
    WalkInstructionBytes,
    /// Exits on these lines (bit n: line n), which the walk by `rip` passed.
    WalkLines {
        /// RIP of the walk.
        rip: Hex,
        /// Bit n: line n.
        lines: u64,
    },
    /// Addresses of exits of the walk by `rip`: not recorded, or contradicted by their neighbours.
    WalkAddresses {
        /// RIP of the walk.
        rip: Hex,
        /// How many.
        exits: u64,
    },
    /// Injections before the host's first SIGBUS.
    EarlierInjections,
    /// `memory_failure()` of this page; the pfn is not known.
    MemoryFailure,
    /// `memory_failure()` of this page: it was poisoned before the probes were attached.
    EarlierMemoryFailure,
    /// The address of a page of guest_memfd.
    PrivatePageAddress,
    /// The GPA: shadow paging shows guest-virtual addresses.
    GpaUnderShadowPaging,
    /// The GPA: a nested (L2) guest took the exits.
    GpaOfNestedGuest,
    /// The GPA: no exit and no injection names it.
    Gpa,
    /// /proc of the VMM, which was gone.
    VmmProcess,
    /// The VM's name: neither command line nor cgroup has one.
    VmName,
    /// The VM's name: none of the files has one.
    VmNameInFiles,
    /// Whether the process that the kernel log names is a VMM.
    IsVmm {
        /// Command and process number.
        process: String,
    },
    /// The exit on the poisoned page.
    PoisonExit,
    /// Exit reasons, resets and ports until the probes that show them were attached, nanoseconds.
    EarlyTermination {
        /// Time before all probes were attached, nanoseconds.
        ns: u64,
    },
    /// kvm_exit's and kvm_entry's times of the exits before these were attached.
    FirstExitTimes {
        /// Which exits, and what of them is known otherwise.
        exits: Recovered,
        /// How long that took, once it was done.
        delay: Option<AttachDelay>,
    },
    /// Records that the probes could not hand over.
    Records {
        /// How many.
        count: u64,
    },
    /// Runs of the probes that the kernel skipped.
    Runs {
        /// How many.
        count: u64,
    },
    /// All probes: the evidence is logs alone.
    Probes,
    /// A probe that this kernel does not offer.
    Probe(ProbeStatus),
    /// The time between the exit and kvm_exit, which kernels before 6.6 emit late on SVM.
    LateSvmExit,
    /// The machine-check bank as it was injected.
    InjectedBank,
    /// The guest's end, or that it lives.
    Ending,
    /// The rest of a recording that was cut off.
    RecordingEnd,
    /// The rest of a compressed file that was cut off.
    FileEnd {
        /// Name of the file.
        source: String,
    },
    /// Events that the tracer itself lost; `None`: it does not count them.
    TraceEvents {
        /// How many; `None`: the tracer does not count them.
        lost: Option<u64>,
    },
    /// The beginning of a trace, overwritten in the tracer's ring.
    TraceBeginning {
        /// How many.
        events: u64,
    },
    /// Durations: the trace's clock has no unit.
    TraceClock,
    /// A trace beside a recording of the same events was not used.
    TraceBesideRecording,
    /// The page's type: rasdaemon numbers the types as one kernel did.
    PageType {
        /// File that it is from.
        source: String,
    },
    /// Later statements of a log that has too many to keep.
    Statements {
        /// How many.
        count: u64,
        /// File that it is from.
        source: String,
    },
    /// A line with a known wording that is not whole.
    CutLine {
        /// File that it is from.
        source: String,
        /// Line of the file, from 1.
        line: u64,
        /// The line, as it can be shown.
        text: String,
    },
    /// More lines of a file that look cut or wrapped.
    CutLines {
        /// How many.
        count: u64,
        /// File that it is from.
        source: String,
    },
    /// The year: the dates of a log have none.
    Year {
        /// File that it is from.
        source: String,
        /// The first date of the incident, as the log writes it.
        date: String,
    },
    /// How well the clock of a source is aligned to the others.
    Clock(ClockNote),
}

/// How well the clock of a source is known.
#[derive(Clone, Debug, PartialEq)]
pub struct ClockNote {
    /// File that it is from.
    pub source: String,
    /// How well it is known.
    pub alignment: ClockAlignment,
}

/// See [`ClockNote`].
#[derive(Clone, Debug, PartialEq)]
pub enum ClockAlignment {
    /// By this many events that both sources show, within so many nanoseconds.
    Aligned {
        /// Whose clock it is.
        clock: ClockKind,
        /// Events that both sources show.
        events: u64,
        /// Their largest difference.
        spread_ns: u64,
    },
    /// It shows no event that another source shows.
    Unaligned,
    /// Its lines have no time.
    Untimed,
}

/// Whose clock stamps a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClockKind {
    /// That of the trace.
    Trace,
    /// The host's, since boot.
    HostBoot,
    /// The host's wall clock.
    HostWall,
    /// The host's wall clock, without a year.
    HostWallWithoutYear,
    /// The guest's, since boot.
    GuestBoot,
    /// The guest's wall clock.
    GuestWall,
}

impl MissingEvidence {
    super::terms::kinds! {
        Self::GuestConsole => "guest_console",
        Self::PanicDevice => "panic_device",
        Self::Cr4 => "cr4",
        Self::SetMceResult => "set_mce_result",
        Self::Memslots => "memslots",
        Self::SigbusCode => "sigbus_code",
        Self::FailureSignal => "failure_signal",
        Self::InstructionBytes => "instruction_bytes",
        Self::WalkInstructionBytes => "walk_instruction_bytes",
        Self::WalkLines { .. } => "walk_lines",
        Self::WalkAddresses { .. } => "walk_addresses",
        Self::EarlierInjections => "earlier_injections",
        Self::MemoryFailure => "memory_failure",
        Self::EarlierMemoryFailure => "earlier_memory_failure",
        Self::PrivatePageAddress => "private_page_address",
        Self::GpaUnderShadowPaging => "gpa_under_shadow_paging",
        Self::GpaOfNestedGuest => "gpa_of_nested_guest",
        Self::Gpa => "gpa",
        Self::VmmProcess => "vmm_process",
        Self::VmName => "vm_name",
        Self::VmNameInFiles => "vm_name_in_files",
        Self::IsVmm { .. } => "is_vmm",
        Self::PoisonExit => "poison_exit",
        Self::EarlyTermination { .. } => "early_termination",
        Self::FirstExitTimes { .. } => "first_exit_times",
        Self::Records { .. } => "records",
        Self::Runs { .. } => "runs",
        Self::Probes => "probes",
        Self::Probe { .. } => "probe",
        Self::LateSvmExit => "late_svm_exit",
        Self::InjectedBank => "injected_bank",
        Self::Ending => "ending",
        Self::RecordingEnd => "recording_end",
        Self::FileEnd { .. } => "file_end",
        Self::TraceEvents { .. } => "trace_events",
        Self::TraceBeginning { .. } => "trace_beginning",
        Self::TraceClock => "trace_clock",
        Self::TraceBesideRecording => "trace_beside_recording",
        Self::PageType { .. } => "page_type",
        Self::Statements { .. } => "statements",
        Self::CutLine { .. } => "cut_line",
        Self::CutLines { .. } => "cut_lines",
        Self::Year { .. } => "year",
        Self::Clock(_) => "clock",
    }
}
