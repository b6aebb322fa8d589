//! What the summary of an incident states beside its verdict: facts that are set only where they were seen.

use super::{
    evidence::{End, Evidence, Sign},
    exits::Total,
    limits::SPIN_EXITS,
    model::{Outcome, Severity},
    verdict::{Sight, Verdict},
};

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
}

/// The facts of this incident.
pub fn findings(e: &Evidence, total: &Total, v: Verdict, sight: Sight) -> Findings {
    let killed_by_signal = e.ends.iter().find_map(|end| match end.sign {
        Sign::VmmExit(status) => Some(status & 0x7f),
        _ => None,
    });
    Findings {
        accessed_by_guest: e.met_by_guest(),
        accessed: e.met(),
        preexisting: e.predates,
        overflowed_bank: overflowed_bank(e),
        injections_skipped: e.is_passed_over(),
        met_another_page: e.is_passed_over() && e.delivered > 0 && total.page.exits < SPIN_EXITS,
        injection_visible: sight.delivery || sight.telling,
        shut_down_by_kvm: e.sign(|sign| *sign == Sign::KvmShutdown).is_some(),
        handled: e.finished > 0,
        handler_open: !e.open_mc.is_empty(),
        died_after_handling_ns: died_after_handling(e, v),
        killed_by_signal,
        exits: total.page.exits,
        lines: total.distinct_lines(),
    }
}

fn died_after_handling(e: &Evidence, v: Verdict) -> Option<u64> {
    let died = |end: &&End| matches!(end.sign, Sign::Panic | Sign::CrashLoaded) && end.mine && !end.late;
    let end = e.ends.iter().find(died)?;
    let finished = e.last_finished?;
    (v.outcome == Outcome::GuestPanicked && !end.mc_open).then(|| end.t.saturating_sub(finished))
}

fn overflowed_bank(e: &Evidence) -> Option<u32> {
    e.told
        .iter()
        .rfind(|told| told.severity == Severity::Ar && told.overflow())
        .map(|told| told.bank.bank)
        .or_else(|| e.logged.overflowed_bank())
}
