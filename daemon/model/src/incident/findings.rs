//! What the summary of an incident states beside its verdict: facts that are set only where they were seen.

use super::{
    evidence::{End, Evidence, Termination},
    exits::Total,
    limits::SPIN_EXITS,
    model::{Outcome, Severity},
    verdict::{ProbeCoverage, Verdict},
};
use alloc::string::String;

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
    /// A #MC for this page was open when the guest met another poisoned page.
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
    pub lines: u64,
    /// AR signals to the VMM, where nothing shows that the host lost the page.
    pub signals_alone: u64,
    /// What logs add.
    pub log: LogFindings,
}

/// What logs show beside the verdict.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LogFindings {
    /// Any log speaks of it.
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
    /// libvirt's reason of the domain's end.
    pub shutdown: Option<String>,
    /// Process on the processor that panicked.
    pub on_cpu: Option<(String, u32)>,
}

fn of_logs(e: &Evidence) -> LogFindings {
    let l = &e.logged;
    let reasons = l.mces.iter().map(|(_, mce)| mce).chain(&l.host_mces);
    LogFindings {
        any: l.any(),
        injected: l.ar_injections > 0,
        guest_process: l.guest_signal.clone(),
        user_access: l.mces.iter().any(|(_, mce)| mce.user_access),
        handled_by_guest: l.guest_signal.is_some() || l.guest_result.is_some(),
        reason: reasons.filter_map(|mce| mce.reason.clone()).next_back(),
        other_panic: l.other_panic.clone(),
        bug_check: l.bug_check,
        shutdown: l.shutdown.as_ref().map(|shutdown| shutdown.reason.clone()),
        on_cpu: l.on_cpu.clone(),
    }
}

/// The facts of this incident.
pub fn findings(e: &Evidence, total: &Total, v: Verdict, coverage: ProbeCoverage) -> Findings {
    let killed_by_signal = e.ends.iter().find_map(|end| match end.sign {
        Termination::VmmExit(status) => Some(status & 0x7f),
        _ => None,
    });
    Findings {
        accessed_by_guest: e.accessed_by_guest(),
        accessed: e.accessed(),
        preexisting: e.predates,
        overflowed_bank: overflowed_bank(e),
        injections_skipped: e.skips_injections(),
        met_another_page: e.skips_injections() && e.delivered > 0 && total.page.exits < SPIN_EXITS,
        injection_visible: coverage.delivery || coverage.telling,
        shut_down_by_kvm: e.sign(|sign| *sign == Termination::KvmShutdown).is_some(),
        handled: e.finished > 0,
        handler_open: !e.open_mc.is_empty(),
        died_after_handling_ns: died_after_handling(e, v),
        killed_by_signal,
        exits: total.page.exits,
        lines: total.distinct_lines(),
        signals_alone: match e.pfn {
            Some(_) => 0,
            None => e.ar_signals + e.exit_signals,
        },
        log: of_logs(e),
    }
}

fn died_after_handling(e: &Evidence, v: Verdict) -> Option<u64> {
    let died = |end: &&End| {
        matches!(end.sign, Termination::Panic | Termination::CrashLoaded) && end.mine && !end.late
    };
    let end = e.ends.iter().find(died)?;
    let finished = e.last_finished?;
    (v.outcome == Outcome::GuestPanicked && !end.mc_open).then(|| end.t.saturating_sub(finished))
}

fn overflowed_bank(e: &Evidence) -> Option<u32> {
    e.machine_checks
        .iter()
        .rfind(|injection| injection.severity == Severity::Ar && injection.overflow())
        .map(|injection| injection.bank.bank)
        .or_else(|| e.logged.overflowed_bank())
}
