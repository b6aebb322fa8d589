//! Findings: from evidence and verdict.

use crate::incident::{
    evidence::{End, Evidence},
    exits::Total,
    findings::{Findings, LogFindings},
    limits::SPIN_EXITS,
    model::{Outcome, Severity},
    termination::Termination,
    verdict::{ProbeCoverage, Verdict},
};

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
        bug_check_error: l.bug_check_error,
        injected_any: !l.machine_checks.is_empty() || !e.machine_checks.is_empty(),
        kernel_panic: l.kernel_panic.clone(),
        own_ignored: l.own_ignored,
        own_access: l.own_access,
        died_by_sigbus: l.died_by_sigbus || l.vmm_sigbus,
        out_of_memory: l.out_of_memory,
        software_machine_check: l.software_machine_checks(),
        fatal_by_firmware: l.fatal_by_firmware(),
        host_cut_off: l.host_panic.is_none() && l.host_cut_off(),
        qmp_ignored: l.qmp_ignored,
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
        injection_visible: coverage.delivery || coverage.injection,
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
