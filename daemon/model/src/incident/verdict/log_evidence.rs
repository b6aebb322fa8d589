//! Logs as witnesses: deaths that they show, and what they hint at where nothing else is known.
//!
//! The reasons that a kernel gives for its machine check (`arch/x86/kernel/cpu/mce/severity.c`) are its own words.

use alloc::{string::String, vec::Vec};

use super::{Verdict, vmm, weaker};
use crate::{
    event::log_statement::{LogStatement, MceReport},
    incident::{
        bug_check::BugCheckError,
        evidence::Evidence,
        exits::Total,
        log_evidence::{Logged, Shutdown, by_machine_check, init_was_killed},
        mca,
        model::{Cause, Confidence, Outcome, Severity},
        termination::Termination,
    },
};

/// A VMM that ends later than this after its SIGBUS had another reason.
const SIGBUS_KILLS_WITHIN_NS: u64 = 1_000_000_000;

const fn verdict(outcome: Outcome, cause: Cause, confidence: Confidence) -> Option<Verdict> {
    Some(Verdict {
        outcome,
        cause,
        confidence,
    })
}

/// Deaths that a log shows: the host's, the guest's own last words, then the VMM's. What rests on clocks alone is not
/// certain, nor is what came so long after a signal that it may be of another page; where the death was stated before the
/// signal that it would come of, it is not even likely.
pub fn death(e: &Evidence) -> Option<Verdict> {
    let v = shown(e)?;
    let l = &e.logged;
    let most = match (l.effect_first, l.joined_by_clock || l.paired_late) {
        (true, _) => Confidence::Possible,
        (false, true) => Confidence::Likely,
        (false, false) => Confidence::Certain,
    };
    Some(Verdict {
        confidence: weaker(v.confidence, most),
        ..v
    })
}

fn shown(e: &Evidence) -> Option<Verdict> {
    let l = &e.logged;
    if l.host_panic.is_some() || l.host_cut_off() {
        return Some(host_panic(l));
    }
    if l.panic.as_deref().is_some_and(init_was_killed) {
        let signalled = l.guest_signal.as_ref().is_some_and(|(_, pid)| *pid == 1);
        let confidence = if signalled {
            Confidence::Certain
        } else {
            Confidence::Likely
        };
        return verdict(Outcome::GuestPanicked, Cause::InitKilled, confidence);
    }
    if l.panic.is_some() && (!l.mces.is_empty() || l.panic.as_deref().is_some_and(by_machine_check)) {
        return Some(panic(e));
    }
    if l.killed {
        // The kernel states the signal and why it sent it.
        return verdict(Outcome::VmmKilled, Cause::UnmapFailed, Confidence::Certain);
    }
    if l.vmm_sigbus && !by_end_alone(e) {
        return verdict(Outcome::VmmExited, Cause::SigbusUnhandled, Confidence::Certain);
    }
    if l.died_by_sigbus && !by_end_alone(e) {
        // QEMU re-raises a second SIGBUS that comes while one is pending; without a handler it is the first.
        let injection = !l.machine_checks.is_empty() || !e.machine_checks.is_empty();
        let cause = if injection {
            Cause::SecondSigbus
        } else {
            Cause::SigbusUnhandled
        };
        return verdict(Outcome::VmmKilled, cause, Confidence::Likely);
    }
    if l.run_failed {
        // QEMU stops the guest (RUN_STATE_INTERNAL_ERROR) and lives; what its owner did then is another matter.
        return verdict(vmm::outcome(e), Cause::GuestMemfd, Confidence::Certain);
    }
    if let Some(recursive) = l.qmp_reset {
        let cause = if recursive {
            Cause::MceNested
        } else {
            Cause::MceDisabled
        };
        return verdict(Outcome::GuestReset, cause, Confidence::Certain);
    }
    if let Some(recipient) = &l.qmp_fatal {
        return if recipient == "guest" {
            verdict(Outcome::VmmExited, Cause::SigbusUnhandled, Confidence::Likely)
        } else {
            // The same event stands for the memory of a guest without software error recovery.
            verdict(Outcome::VmmExited, Cause::VmmOwnMemory, Confidence::Likely)
        };
    }
    if l.own_fatal {
        // So do the words.
        return verdict(Outcome::VmmExited, Cause::VmmOwnMemory, Confidence::Likely);
    }
    if l.out_of_memory && !l.late_end {
        return verdict(Outcome::VmmKilled, Cause::NotPoison, Confidence::Likely);
    }
    None
}

/// Whether nothing but the VMM's end by SIGBUS is known. SIGBUS has other reasons than poison: a shortage of huge pages, a
/// truncated memory file.
fn by_end_alone(e: &Evidence) -> bool {
    let l = &e.logged;
    let page = e.pfn.is_some() || e.gpa.is_some() || e.hva.is_some();
    let injected = !l.machine_checks.is_empty() || !e.machine_checks.is_empty();
    let of_vmm = l.records.iter().any(|record| {
        matches!(
            record.statement,
            LogStatement::VmmSigbus { .. } | LogStatement::QmpMemoryFailure { .. }
        )
    });
    l.alone && !page && !injected && !of_vmm && l.mces.is_empty() && l.process.is_none() && !l.own_access
}

/// A physical machine's kernel took a machine check that it could not outlive.
/// - `kernel_access`: its own reason names its kernel as the consumer of the error;
/// - `not_poison`: the processor's context was corrupt (PCC), and no bank shows an error of memory; or software injected it.
///
/// Certain where the log shows a physical machine (DMI, EDAC, PPIN) and the kernel states the reason: another bank may have
/// been the one that it died of. Likely at most where the log ends before the panic and the next boot follows. A corrupt
/// context shows nothing without the code of the error, which may be memory's.
fn host_panic(l: &Logged) -> Verdict {
    let reasons: Vec<String> = l
        .host_mces
        .iter()
        .filter_map(|mce| mce.reason.as_ref().map(|reason| reason.to_ascii_lowercase()))
        .collect();
    let states = |words: &str| reasons.iter().any(|reason| reason.contains(words));
    let mut codes = l.host_mces.iter().filter_map(|mce| mce.status).peekable();
    let coded = codes.peek().is_some();
    let corrupt = states("processor context corrupt") || codes.any(|status| status.0 & mca::PCC != 0);
    let (cause, stated) = if l.software_machine_checks() {
        (Cause::NotPoison, false)
    } else if states("area of kernel") || states("in kernel") {
        (Cause::KernelAccess, true)
    } else if corrupt && !l.host_mces.iter().any(MceReport::of_memory) {
        (Cause::NotPoison, coded && states("processor context corrupt"))
    } else {
        (Cause::Unknown, false)
    };
    Verdict {
        outcome: Outcome::HostPanicked,
        cause,
        confidence: match (
            l.physical && stated && coded && l.host_panic.is_some(),
            l.physical || coded,
        ) {
            (true, _) => Confidence::Certain,
            (false, true) => Confidence::Likely,
            // A kernel that runs VMs, and its last words: it may be a guest itself.
            (false, false) => Confidence::Possible,
        },
    }
}

/// A Windows guest stopped. Likely of the poison where it stopped on a machine check, and either its bank is one of memory or a
/// machine check was injected before; a machine check of another kind has the same code, any other code is another matter.
fn bug_check(l: &Logged) -> Verdict {
    let injected = !l.machine_checks.is_empty();
    let (cause, confidence) = match l.bug_check_error {
        Some(BugCheckError::MachineCheck { status: Some(status) }) => {
            let consumed = status & (mca::AR | mca::POISON) != 0;
            match mca::of_memory_controller(status) || consumed {
                true => (Cause::Unknown, Confidence::Likely),
                false if injected => (Cause::Unknown, Confidence::Possible),
                false => (Cause::NotPoison, Confidence::Possible),
            }
        }
        Some(BugCheckError::MachineCheck { status: None }) if injected => {
            (Cause::Unknown, Confidence::Likely)
        }
        _ => (Cause::Unknown, Confidence::Possible),
    };
    Verdict {
        outcome: Outcome::GuestPanicked,
        cause,
        confidence,
    }
}

/// The guest outlived its poison: it was migrated, shut down or died of something else long after.
fn lived_on(l: &Logged) -> Option<Verdict> {
    let handled = l.guest_signal.as_ref().is_some_and(|(_, pid)| *pid != 1);
    if l.late_end && handled {
        return verdict(Outcome::Survived, Cause::Contained, Confidence::Likely);
    }
    if l.late_end {
        return verdict(Outcome::Survived, Cause::Unknown, Confidence::Likely);
    }
    if l.other_panic.is_some() {
        return match handled {
            true => verdict(Outcome::Survived, Cause::Contained, Confidence::Likely),
            false => verdict(Outcome::GuestPanicked, Cause::NotPoison, Confidence::Possible),
        };
    }
    match l.shutdown.as_ref()? {
        Shutdown { reason, .. } if reason == "migrated" => {
            verdict(Outcome::Survived, Cause::Unknown, Confidence::Likely)
        }
        Shutdown { late: true, .. } => verdict(Outcome::Survived, Cause::Unknown, Confidence::Likely),
        // The VMM died, or the guest panicked and libvirt ended it: one word for both.
        Shutdown { reason, .. } if reason == "crashed" => {
            verdict(Outcome::VmmExited, Cause::Unknown, Confidence::Possible)
        }
        Shutdown { .. } => None,
    }
}

/// The verdict of logs about an incident of which nothing else is known.
pub fn hints(e: &Evidence, total: &Total) -> Option<Verdict> {
    let l = &e.logged;
    if l.kernel_panic.is_some() {
        return verdict(Outcome::Unknown, Cause::Unknown, Confidence::Possible);
    }
    if l.bug_check.is_some() && !l.late_end {
        return Some(bug_check(l));
    }
    if l.qmp_panicked || l.panic.is_some() {
        // Without a machine check in its words it may have died of something else.
        return verdict(Outcome::GuestPanicked, Cause::Unknown, Confidence::Possible);
    }
    if l.own_access {
        return verdict(Outcome::Unknown, Cause::VmmOwnMemory, Confidence::Possible);
    }
    if l.own_ignored && l.shutdown.is_none() {
        // QEMU goes on: action optional, for a page that is not its guest's.
        return verdict(Outcome::Running, Cause::VmmOwnMemory, Confidence::Likely);
    }
    if (l.died_by_sigbus || l.vmm_sigbus) && by_end_alone(e) {
        let outcome = match l.died_by_sigbus {
            true => Outcome::VmmKilled,
            false => Outcome::VmmExited,
        };
        return verdict(outcome, Cause::Unknown, Confidence::Possible);
    }
    if l.guest_reset {
        return verdict(Outcome::GuestReset, Cause::Unknown, Confidence::Possible);
    }
    let recovered = l
        .guest_result
        .as_deref()
        .is_some_and(|result| matches!(result, "Recovered" | "Delayed"));
    if recovered && l.guest_signal.as_ref().is_none_or(|(_, pid)| *pid != 1) {
        return verdict(Outcome::Survived, Cause::Contained, Confidence::Likely);
    }
    if let Some(v) = lived_on(l) {
        return Some(v);
    }
    // Gone at once, and nothing was injected: the VMM did not survive its SIGBUS.
    let gone = e.sign(|sign| *sign == Termination::VmmGone);
    if let Some(end) = gone
        && l.trace
        && e.exit_signals > 0
        && e.delivered == 0
        && end.t.saturating_sub(e.last_poison) < SIGBUS_KILLS_WITHIN_NS
    {
        return verdict(Outcome::VmmExited, Cause::SigbusUnhandled, Confidence::Likely);
    }
    // Signalled early, and gone at once: a trace of signals alone does not show why.
    if gone.is_some_and(|end| end.t.saturating_sub(e.last_poison) < SIGBUS_KILLS_WITHIN_NS)
        && l.trace
        && e.ao_signals > 0
        && total.page.exits == 0
        && e.delivered == 0
    {
        return verdict(Outcome::VmmExited, Cause::Unknown, Confidence::Possible);
    }
    // The guest went on after every exit, and nothing was injected.
    let x = &total.page;
    if l.trace && x.exits > 0 && e.delivered == 0 && l.machine_checks.is_empty() && e.ends.is_empty() {
        let went_on = x.exit_to_entry.count == x.exits;
        return went_on
            .then(|| verdict(Outcome::Running, Cause::Unknown, Confidence::Possible))
            .flatten();
    }
    None
}

/// Why the guest panicked, in its kernel's own words (`arch/x86/kernel/cpu/mce/severity.c`), else by the bank.
fn panic(e: &Evidence) -> Verdict {
    let l = &e.logged;
    let reason = l.reason().unwrap_or_default().to_ascii_lowercase();
    let states = |words: &str| reason.contains(words);
    let in_kernel = l.mce().and_then(|mce| mce.cs).map(|cs| cs & 3 == 0);
    let status = l.mce().and_then(|mce| mce.status).map_or(0, |status| status.0);
    let host_told = e.pfn.is_some()
        || !l.machine_checks.is_empty()
        || e.ao_signals + e.ar_signals + e.exit_signals > 0
        || !e.machine_checks.is_empty();
    let corrupt = states("processor context corrupt") || status & mca::PCC != 0;
    let (cause, confidence) = if l.software_machine_checks() || corrupt && !host_told {
        (Cause::NotPoison, Confidence::Likely)
    } else if states("overflowed uncorrected") || states("lost events") {
        (Cause::MceOverflow, Confidence::Certain)
    } else if l.flusher().is_some() {
        (Cause::Clflush, Confidence::Likely)
    } else if states("unrecoverable area of kernel")
        || states("in kernel context")
        || states("fetch error in kernel")
        || states("in kernel and no restart")
    {
        (Cause::KernelAccess, Confidence::Certain)
    } else if states("without mca recovery") {
        (Cause::FatalNotification, Confidence::Likely)
    } else {
        match (mca::severity(status), status & mca::OVER != 0, in_kernel) {
            (Severity::Ar, true, _) => (Cause::MceOverflow, Confidence::Likely),
            (Severity::Ar, false, Some(true)) => (Cause::KernelAccess, Confidence::Likely),
            (Severity::Ao, ..) => (Cause::FatalNotification, Confidence::Likely),
            _ => (Cause::Unknown, Confidence::Possible),
        }
    };
    // A reason whose bank was cut off may be of another report, and a bank that no VMM injects a physical machine's.
    let banked = |(_, mce): &(u64, MceReport)| mce.reason.is_some() && mce.status.is_some();
    let as_injected = |(_, mce): &(u64, MceReport)| mce.by_qemu() && !mce.doubtful;
    let whole = l.mces.iter().any(banked) && (host_told || l.mces.iter().any(as_injected));
    Verdict {
        outcome: Outcome::GuestPanicked,
        cause,
        confidence: match confidence {
            Confidence::Certain if !whole => Confidence::Likely,
            confidence => confidence,
        },
    }
}
