//! Decoded events: what the correlator is fed, whether they come live, from a recording or from elsewhere.

use alloc::{boxed::Box, string::String, vec::Vec};
pub mod container;
pub mod decode;
pub mod log_statement;
pub mod probe;
pub mod session;
pub mod totals;

use serde::{Deserialize, Serialize};

use crate::hex::Hex;

/// One thing that happened on the host.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// CLOCK_MONOTONIC, nanoseconds.
    pub t: u64,
    /// Thread in whose context it happened.
    pub tid: u32,
    /// Its process (thread group).
    pub pid: u32,
    /// vCPU of that thread, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vcpu: Option<u32>,
    /// What happened.
    #[serde(rename = "event")]
    pub what: EventKind,
}

/// What happened. Fields may be added with a default; a kind never changes its meaning within a recording
/// version.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// `memory_failure(pfn, flags)` entered.
    FailureBegin {
        /// Page frame of the host.
        pfn: Hex,
        /// `MF_*` flags of the call.
        flags: u64,
        /// Whether the thread had a vCPU loaded, as within KVM_RUN; `None`: not known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        in_kvm_run: Option<bool>,
    },
    /// `memory_failure_event`, in the running kernel's own words.
    FailureAction {
        /// Page frame of the host.
        pfn: Hex,
        /// Type of the page, in the kernel's terms (`mm/memory-failure.c`).
        page_type: String,
        /// Result of the recovery, in the kernel's terms.
        result: String,
    },
    /// `memory_failure` returned (0 or negative errno).
    FailureEnd {
        /// Return value.
        ret: i64,
    },
    /// A poisoned page of a running VMM's (`pid` of the event), found when the daemon started.
    #[serde(rename = "preexisting")]
    Preexisting {
        /// Page frame of the host.
        pfn: Hex,
        /// Address in the VMM.
        hva: Hex,
    },
    /// SIGBUS for poison was sent.
    Sigbus {
        /// Address in the VMM.
        hva: Hex,
        /// Action required or optional.
        severity: SigbusSeverity,
        /// log2 of the lost range (`si_addr_lsb`).
        lsb: u32,
        /// Thread that is signalled.
        target_tid: u32,
        /// Its process.
        target_pid: u32,
        /// `force_sig_mceerr`.
        forced: bool,
        /// Name of the thread, as the kernel has it (15 bytes at most).
        comm: String,
    },
    /// A VM exit on a poisoned page.
    PoisonExit(PoisonExit),
    /// The kernel's own totals of a page, replacing those before of this thread and page.
    PageTotals(Box<totals::PageTotals>),
    /// Exit to entry of the host's exits that touch no guest memory, since the arming, replacing that before.
    #[serde(rename = "baseline_exit")]
    BaselineExit {
        /// Kind of the exits.
        kind: totals::BaselineKind,
        /// Their durations.
        time: totals::DurationTotals,
    },
    /// The vCPU entered the guest again after the poison exit that began at `exit_ns`.
    Reentry {
        /// Time of the exit, monotonic nanoseconds.
        exit_ns: u64,
        /// Time of the entry into the guest, monotonic nanoseconds.
        entry_ns: u64,
    },
    /// KVM_SET_MSRS with machine-check MSRs: the banks whose STATUS is valid.
    #[serde(rename = "set_msrs")]
    SetMsrs {
        /// MCG_STATUS.
        mcg_status: Option<Hex>,
        /// Valid banks.
        banks: Vec<Bank>,
        /// The list was longer than a record holds.
        #[serde(default)]
        truncated: bool,
        /// The list could not be read from the VMM.
        #[serde(default)]
        unreadable: bool,
    },
    /// KVM_X86_SET_MCE.
    #[serde(rename = "set_mce")]
    SetMce {
        /// MCG_STATUS.
        mcg_status: Hex,
        /// The bank.
        bank: Bank,
    },
    /// KVM_SET_VCPU_EVENTS with #MC.
    QueueException {
        /// It waits for its injection.
        pending: bool,
        /// It is being injected.
        injected: bool,
    },
    /// #MC entered the guest (`kvm_inj_exception` 18, not reinjected).
    #[serde(rename = "mc_delivered", alias = "mc_injected")]
    Delivered,
    /// The same, with the RIP that it interrupts.
    #[serde(rename = "mc_delivered_at", alias = "mc_injected_at")]
    DeliveredAt {
        /// The guest's RIP.
        rip: Hex,
    },
    /// The guest was left by #MC: the processor reported an error while it ran.
    McExit {
        /// The guest's RIP.
        rip: Option<Hex>,
    },
    /// A bank of the host's processor, of an error that was not corrected.
    HostMce(HostMce),
    /// EDAC reports an error that was not corrected.
    EdacError {
        /// Physical address.
        addr: Hex,
        /// The memory module, as the board labels it.
        label: String,
    },
    /// The firmware reports an error that was not corrected.
    FirmwareError {
        /// Physical address.
        addr: Hex,
    },
    /// The guest read or wrote MCG_STATUS.
    McgStatus {
        /// Whether the guest wrote.
        write: bool,
        /// The value.
        data: Hex,
        /// The thread on which the last #MC entered this vCPU; `None`: this one, or not known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        mc_on: Option<u32>,
    },
    /// KVM_RUN returned to the VMM with a reason that ends a guest.
    UserspaceExit {
        /// `kvm_run.exit_reason`.
        reason: u32,
        /// Error of KVM_RUN; 0: none.
        errno: i32,
        /// Of the page fault that the exit began with, where it is of private memory.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        gpa: Option<Hex>,
    },
    /// The guest wrote to a port that shows its end.
    Pio {
        /// The I/O port.
        port: Hex,
        /// Bytes.
        size: u32,
        /// The value.
        value: Hex,
    },
    /// A vCPU entered the guest at the reset vector.
    VcpuReset {
        /// The guest's RIP.
        rip: Hex,
    },
    /// Exit by triple fault (VMX) or shutdown (SVM).
    TripleFault {
        /// The guest's RIP.
        rip: Hex,
        /// Exit reason.
        reason: u32,
    },
    /// A thread of the VMM ended; `live` threads are left.
    TaskExit {
        /// Wait status.
        exit_code: i32,
        /// Threads of the process that are left; `None`: not known.
        live: Option<i32>,
        /// Name of the thread, as the kernel has it (15 bytes at most).
        comm: String,
    },
    /// The VM was destroyed.
    VmDestroyed,
    /// Registers that the VMM read of its vCPU after a poison exit.
    Sregs(Sregs),
    /// A memslot of the VM, of those that such a read goes by; `n` 0: the first of them.
    MemSlot {
        /// Number of the slot.
        n: u32,
        /// Guest address of its first byte.
        gpa: Hex,
        /// Its size.
        bytes: u64,
        /// Address of its first byte in the VMM.
        hva: Hex,
    },
    /// Bytes at the RIP of a poison exit, read from the guest's memory (`--read-guest-code`), as hex digits.
    GuestCode {
        /// The guest's RIP.
        rip: Hex,
        /// Hex digits, in the order of memory.
        bytes: String,
    },
    /// Who the process is (read from /proc by the live source; `pid` of the event).
    Vmm(Vmm),
    /// Records that the probes could not hand over since the last such event.
    Lost {
        /// How many.
        records: u64,
    },
    /// Runs of the BPF programs that the kernel skipped since the last such event, because another was at work on that
    /// processor (`recursion_misses`).
    RunsMissed {
        /// How many.
        runs: u64,
    },
    /// The kernel's own counters show that the host has poisoned memory (HardwareCorrupted above 0).
    HostMemoryLost,
    /// From here on all probes are at work: exit reasons, triple faults, resets and ports of guests were not seen
    /// before, where the session began on stand-by.
    #[serde(rename = "all_probes_attached")]
    AllProbesAttached,
    /// From here on kvm_exit and kvm_entry are attached, where nothing was before there was poison.
    #[serde(rename = "exit_probes_attached")]
    ExitProbesAttached(AttachDelay),
    /// From here on nothing is attached to kvm_exit and kvm_entry again, until the next poison.
    #[serde(rename = "exit_probes_detached")]
    ExitProbesDetached,
    /// SIGBUS for poison as `signal_generate` shows it: without its address. `gpa`: of the fault that it
    /// answers; `pfn`: of the `memory_failure()` that sent it. `target_pid` 0: whose thread it is is not known.
    #[serde(rename = "sigbus_no_address")]
    SigbusNoAddress {
        /// Action required or optional.
        severity: SigbusSeverity,
        /// Thread that is signalled.
        target_tid: u32,
        /// Its process.
        target_pid: u32,
        /// Name of the thread, as the kernel has it (15 bytes at most).
        comm: String,
        /// GPA of the exit that the signal answers, as KVM has it.
        #[serde(default)]
        gpa: Option<Hex>,
        /// Page frame of the host.
        #[serde(default)]
        pfn: Option<Hex>,
    },
    /// All threads of the VMM that ran its guest have ended; how is not known.
    VmmGone,
    /// The guest's last exit wrote to a reset port (the value was not traced), and it never ran again.
    ResetAsked {
        /// The I/O port.
        port: Hex,
    },
    /// A statement of a log.
    LogStatement(Box<log_statement::LogRecord>),
}

/// What the host's own processor reported (`mce_record`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostMce {
    /// The processor, by the kernel's number.
    pub cpu: Option<u32>,
    /// `None`: the firmware's report, which the kernel hands on under no bank.
    pub bank: Option<u32>,
    /// MCi_STATUS.
    pub status: Hex,
    /// MCi_ADDR.
    pub addr: Hex,
    /// MCi_MISC.
    pub misc: Hex,
    /// MCG_STATUS of the host's processor: bit 0 RIPV, bit 1 EIPV.
    pub mcg_status: Hex,
    /// What ran on it.
    pub context: McContext,
    /// Whose layout STATUS has.
    pub vendor: McVendor,
}

/// Whose layout STATUS has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum McVendor {
    /// Intel.
    Intel,
    /// AMD and Hygon.
    Amd,
    /// Any other, or not known.
    Other,
}

/// What ran on the processor that reported an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum McContext {
    /// A guest: KVM hands the #MC of its guests on with CS 3 and no RIP (`kvm_machine_check`).
    Guest,
    /// A process of the host.
    User,
    /// The host's kernel.
    Kernel,
    /// None was interrupted, as when a bank is polled.
    None,
}

/// `si_code` of the SIGBUS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SigbusSeverity {
    /// BUS_MCEERR_AO (5).
    ActionOptional,
    /// BUS_MCEERR_AR (4).
    ActionRequired,
}

/// A VM exit on poison. Times are CLOCK_MONOTONIC nanoseconds; `None` where no probe saw the moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PoisonExit {
    /// Time of the exit, monotonic nanoseconds.
    pub exit_ns: Option<u64>,
    /// Time of the page fault in KVM, monotonic nanoseconds.
    pub fault_ns: Option<u64>,
    /// In `get_user_pages_unlocked`, summed over its calls in this exit, nanoseconds.
    pub gup_ns: Option<u64>,
    /// Return value of `get_user_pages_unlocked()`.
    pub gup_ret: Option<i64>,
    /// Time of the SIGBUS, monotonic nanoseconds.
    pub signal_ns: Option<u64>,
    /// Time of the exit to user space, monotonic nanoseconds.
    pub user_ns: Option<u64>,
    /// Time of the entry into the guest, monotonic nanoseconds.
    pub entry_ns: Option<u64>,
    /// The guest's RIP.
    pub rip: Option<Hex>,
    /// With its low bits: which line was touched. Only this guest's own: see `other_address`.
    pub gpa: Option<Hex>,
    /// The address of the fault, where it is not a GPA of this guest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub other_address: Option<OtherAddress>,
    /// Address in the VMM.
    pub hva: Option<Hex>,
    /// Kind of the access.
    pub access: Access,
    /// VMX or SVM: which exit reasons hold.
    pub isa: Isa,
    /// Exit reason.
    pub reason: u32,
    /// `kvm_run.exit_reason`.
    pub user_reason: Option<u32>,
    /// Error of KVM_RUN; 0: none.
    pub user_errno: Option<i32>,
    /// Bytes of the instruction, from the VMCB of a processor with decode assists, as hex digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub insn: Option<String>,
    /// kvm_exit did not see it, as it was not attached or not armed yet: `exit_ns` is when KVM itself noted it (`last_guest_tsc`).
    #[serde(default, skip_serializing_if = "core::ops::Not::not")]
    pub recovered: bool,
}

/// How long exits and entries were not seen after the poison.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachDelay {
    /// From the first record that shows poison (`memory_failure()`, as a rule) until both were attached, nanoseconds.
    pub after_ns: u64,
    /// How far the times of exits that KVM noted itself may be off, nanoseconds; `None`: they were not converted.
    #[serde(default)]
    pub clock_error_ns: Option<u64>,
}

impl PoisonExit {
    /// The line of the 4 KiB page. Every kind of paging leaves the last 12 bits of an address as they are, so any address
    /// of the access shows.
    pub fn line(&self) -> Option<u32> {
        const LINE_SHIFT: u32 = 6;
        const LINES: u64 = 64;
        let ((Some(at), _) | (None, Some(OtherAddress::Virtual(at) | OtherAddress::Nested(at)))) =
            (self.gpa, self.other_address)
        else {
            return None;
        };
        u32::try_from((at.0 >> LINE_SHIFT) % LINES).ok()
    }
}

/// An address that KVM gives in place of a GPA.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OtherAddress {
    /// Guest-virtual: shadow paging.
    Virtual(Hex),
    /// Of a guest that the guest itself runs.
    Nested(Hex),
}

/// Kind of the access that faulted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Access {
    /// A read.
    Read,
    /// A write.
    Write,
    /// An instruction fetch.
    Fetch,
    /// By the walk of the guest's page tables: the instruction did not address the page.
    PageWalk,
    /// A write, or such a walk: SVM counts both as writes, and kernels before 6.1 do not hand out which.
    WriteOrPageWalk,
    /// Not known.
    Unknown,
}

/// Which virtualization extension.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Isa {
    /// Intel.
    Vmx,
    /// AMD.
    Svm,
    /// Not known.
    Unknown,
}

/// A machine-check bank as the VMM wrote it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bank {
    /// Number of the bank.
    pub bank: u32,
    /// MCi_STATUS.
    pub status: Hex,
    /// MCi_ADDR.
    pub addr: Hex,
    /// MCi_MISC.
    pub misc: Hex,
}

/// What a walk of the guest's page tables begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sregs {
    /// CR0.
    pub cr0: Hex,
    /// CR3: root of the page tables.
    pub cr3: Hex,
    /// CR4.
    pub cr4: Hex,
    /// IA32_EFER.
    pub efer: Hex,
    /// CS.L: 64-bit code.
    pub long_code: bool,
}

/// What makes a name of a VM a guess.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NameGuess {
    /// A list of processes of another time, or of one that it does not show: pids are used again.
    AgedList,
    /// A pid that two files show, of which nothing shows that they are of one host.
    BarePid,
    /// Wall clocks that agree, and no key.
    Clock,
}

/// Who a process is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vmm {
    /// Whether it holds a KVM VM; `None` where that could not be read any more.
    pub is_vmm: Option<bool>,
    /// Name of the VM.
    pub name: Option<String>,
    /// What makes that name a guess.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name_guess: Option<NameGuess>,
    /// UUID of the VM.
    pub uuid: Option<String>,
    /// Executable's file name, else comm.
    pub vmm: Option<String>,
    /// The container that it runs in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<Box<container::Container>>,
    /// Field 22 of /proc/PID/stat, clock ticks since boot: shows a reused pid.
    #[serde(default)]
    pub start_ticks: Option<u64>,
}
