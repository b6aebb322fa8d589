//! What the summary of an incident states beside its verdict: facts that are set only where they were seen.

use alloc::string::String;

use super::bug_check::BugCheckError;

/// See the module.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Findings {
    /// The guest itself accessed the page.
    pub accessed_by_guest: bool,
    /// The guest, its VMM or KVM accessed the page, or an error was injected for it.
    pub accessed: bool,
    /// The page was poisoned before poisontrace started.
    pub preexisting: bool,
    /// The bank that still held an earlier error.
    pub overflowed_bank: Option<u32>,
    /// The VMM skipped injections for a vCPU whose #MC handler had not finished.
    pub injections_skipped: bool,
    /// A #MC for this page was open when the guest accessed another poisoned page.
    pub met_another_page: bool,
    /// Injections could have been seen, so that their absence is a fact.
    pub injection_visible: bool,
    /// KVM shut the vCPU down (KVM_EXIT_SHUTDOWN).
    pub shut_down_by_kvm: bool,
    /// The guest's #MC handler finished.
    pub handled: bool,
    /// A #MC of this page is open.
    pub handler_open: bool,
    /// From the end of the guest's last #MC handler to its death, nanoseconds.
    pub died_after_handling_ns: Option<u64>,
    /// The signal that killed the VMM.
    pub killed_by_signal: Option<i32>,
    /// Exits on the page, and its 64-byte lines that were accessed.
    pub exits: u64,
    /// 64-byte lines of the page that were accessed.
    pub lines: u64,
    /// AR signals to the VMM, where nothing shows that the host lost the page.
    pub signals_alone: u64,
    /// What logs add.
    pub log: LogFindings,
}

/// What logs show beside the verdict.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LogFindings {
    /// Any log mentions it.
    pub any: bool,
    /// An action-required injection was logged.
    pub injected: bool,
    /// Process of the guest that its kernel signalled.
    pub guest_process: Option<(String, u32)>,
    /// The guest's kernel logged that a process accessed the page.
    pub user_access: bool,
    /// The guest's kernel handled the page.
    pub handled_by_guest: bool,
    /// Reason of a kernel's last machine check, in its own words.
    pub reason: Option<String>,
    /// A panic for another reason, in its own words.
    pub other_panic: Option<String>,
    /// Code of a Windows bug check.
    pub bug_check: Option<u64>,
    /// What that bug check names of a machine check.
    pub bug_check_error: Option<BugCheckError>,
    /// A machine check was injected, by a VMM's log or by QMP.
    pub injected_any: bool,
    /// A kernel's panic of a machine check, the host's or a guest's.
    pub kernel_panic: Option<String>,
    /// Memory of the VMM itself is poisoned, and it goes on.
    pub own_ignored: bool,
    /// The host's kernel logged that the VMM itself accessed the page.
    pub own_access: bool,
    /// The VMM's end by SIGBUS.
    pub died_by_sigbus: bool,
    /// The host's kernel killed the VMM for lack of memory.
    pub out_of_memory: bool,
    /// Software of the kernel that panicked injected its machine checks.
    pub software_machine_check: bool,
    /// The host's kernel panicked of an error that its firmware reported.
    pub fatal_by_firmware: bool,
    /// The host's log ends with a machine check, and its next boot follows.
    pub host_cut_off: bool,
    /// QMP alone shows an error that the VMM ignored.
    pub qmp_ignored: bool,
    /// libvirt's reason of the domain's end.
    pub shutdown: Option<String>,
    /// Process on the processor that panicked.
    pub on_cpu: Option<(String, u32)>,
}
