//! The VMM ended, or could not go on.

use super::{Verdict, VerdictInput, verdict as of};
use crate::incident::{
    evidence::{Evidence, LastSigbus},
    model::{Cause, Confidence, Outcome},
    termination::Termination,
};

const SIGBUS: i32 = 7;
/// Firecracker's exit status after SIGBUS (`FcExitCode::SIGBUS`).
const FIRECRACKER_SIGBUS: i32 = 149;
/// A VMM's own handler ends it at once: later than this it ended for other reasons, nanoseconds.
const HANDLER_ENDS_WITHIN_NS: u64 = 5_000_000_000;

/// Wait status of the VMM, and when it ended.
fn exit(e: &Evidence) -> Option<(u64, i32)> {
    e.ends.iter().find_map(|end| match end.sign {
        Termination::VmmExit(status) => Some((end.t, status)),
        _ => None,
    })
}

/// The kernel ends the process at once: later than this it ended for other reasons, nanoseconds.
const KILLED_WITHIN_NS: u64 = 5_000_000_000;
const SIGKILL: i32 = 9;

/// `unmap_failed`: the host could not take the page out of use for an access of the VMM's own thread, and the kernel killed
/// the VMM without BUS_MCEERR: SIGBUS (`kill_me_now`), or SIGKILL (`kill_procs`). Must see: `memory_failure()` on a thread of
/// the VMM that failed and sent no such signal, and the VMM's end by one of these within [`KILLED_WITHIN_NS`]. Certain for
/// SIGBUS; a SIGKILL may be anybody's.
pub fn unisolated(case: &VerdictInput) -> Option<Verdict> {
    let failed = case.e.unisolated?;
    let (t, status) = exit(case.e)?;
    if t.saturating_sub(failed.t) > KILLED_WITHIN_NS {
        return None;
    }
    let confidence = match status & 0x7f {
        SIGBUS if case.e.lost == 0 => Confidence::Certain,
        SIGBUS | SIGKILL => Confidence::Likely,
        _ => return None,
    };
    Some(of(Outcome::VmmKilled, Cause::UnmapFailed, confidence))
}

/// The same while the VMM lives: the page is still in use, and its next access meets the error again.
pub fn still_in_use(case: &VerdictInput) -> Option<Verdict> {
    case.e.unisolated?;
    (!case.e.vmm_gone()).then(|| of(Outcome::Running, Cause::UnmapFailed, Confidence::Likely))
}

const fn killed(status: i32) -> bool {
    status & 0x7f != 0
}

/// What the VMM's end shows, where nothing shows more of the guest.
pub fn outcome(e: &Evidence) -> Outcome {
    match exit(e) {
        Some((_, status)) if killed(status) => Outcome::VmmKilled,
        Some(_) => Outcome::VmmExited,
        None if e.vmm_gone() => Outcome::VmmExited,
        None => Outcome::Unknown,
    }
}

/// As [`outcome`]; a VMM whose end was not seen still runs its guest.
pub fn outcome_or_running(e: &Evidence) -> Outcome {
    match outcome(e) {
        Outcome::Unknown => Outcome::Running,
        ended => ended,
    }
}

/// Whether a signal ended the VMM.
pub fn was_killed(e: &Evidence) -> bool {
    exit(e).is_some_and(|(_, status)| killed(status))
}

/// The VMM was ended by the SIGBUS of this page, or by its own answer to it. Must see: its end, and that it did nothing
/// more for its guest after the last SIGBUS that it was sent, which was of this page.
///
/// | its end | and | cause |
/// |---|---|---|
/// | killed by signal 7 | none was pending, it had outlived none before | `sigbus_unhandled`, certain: the default action |
/// | killed by signal 7 | one to the same thread had not been answered | `second_sigbus`, of the page of either: QEMU raises it again (`sigbus_reraise`) |
/// | killed by signal 7 | for its own access, and no exit touched the page | `vmm_own_memory`, likely |
/// | killed by signal 7 | the last SIGBUS had been outlived | `not_poison`: SIGBUS has other reasons (BUS_ADRERR) |
/// | exit status 149 | nothing injected | `sigbus_unhandled`, certain: Firecracker's handler |
/// | another exit status but 0, at once | nothing injected | the same, likely: QEMU's `exit(1)` for a guest without MCG_SER_P |
pub fn by_sigbus(case: &VerdictInput) -> Option<Verdict> {
    let e = case.e;
    let (t, status) = exit(e)?;
    let last = e.last_sigbus?;
    if status & 0x7f == SIGBUS {
        if last.outlived {
            let sure = if e.lost == 0 {
                Confidence::Likely
            } else {
                Confidence::Possible
            };
            return Some(of(Outcome::VmmKilled, Cause::NotPoison, sure));
        }
        if !last.of_this_page {
            // It came while this page's had not been answered.
            let pending = last.one_pending
                && e.pending_sigbus
                    .iter()
                    .any(|(_, pending_sigbus)| pending_sigbus.ran_on.is_none());
            return pending.then(|| of(Outcome::VmmKilled, Cause::SecondSigbus, Confidence::Likely));
        }
        let (cause, confidence) = killed_by(e, &last);
        return Some(of(Outcome::VmmKilled, cause, confidence));
    }
    let at_once = t.saturating_sub(last.t) < HANDLER_ENDS_WITHIN_NS;
    if killed(status) || status == 0 || last.outlived || !last.of_this_page || !at_once {
        return None;
    }
    let own = last.own_access && !e.exits.any();
    let (cause, confidence) = match (own, status >> 8) {
        (true, _) => (Cause::VmmOwnMemory, Confidence::Likely),
        (false, FIRECRACKER_SIGBUS) => (Cause::SigbusUnhandled, Confidence::Certain),
        // An early notice alone makes no VMM end itself, as far as is known.
        (false, _) if e.ar_signals + e.exit_signals == 0 => return None,
        (false, _) => (Cause::SigbusUnhandled, Confidence::Likely),
    };
    Some(of(Outcome::VmmExited, cause, confidence))
}

fn killed_by(e: &Evidence, last: &LastSigbus) -> (Cause, Confidence) {
    if last.own_access && !last.one_pending && !e.exits.any() {
        // A page whose guest address is known is the guest's: then the VMM touched its guest's memory, unprepared.
        return match e.gpa {
            None => (Cause::VmmOwnMemory, Confidence::Likely),
            Some(_) => (Cause::SigbusUnhandled, Confidence::Likely),
        };
    }
    match (last.one_pending, last.handled_before) {
        (true, true) => (Cause::SecondSigbus, Confidence::Certain),
        (true, false) => (Cause::SecondSigbus, Confidence::Likely),
        (false, true) => (Cause::SigbusUnhandled, Confidence::Likely),
        (false, false) => (Cause::SigbusUnhandled, Confidence::Certain),
    }
}

/// guest_memfd: KVM_RUN returned EHWPOISON with KVM_EXIT_MEMORY_FAULT; KVM sends no SIGBUS for it
/// (`kvm_mmu_prepare_memory_fault_exit`). What the VMM makes of it is its own affair: QEMU stops the guest.
pub fn private_memory(case: &VerdictInput) -> Option<Verdict> {
    case.e.private_fault()?;
    Some(of(outcome(case.e), Cause::GuestMemfd, Confidence::Certain))
}

/// The VMM's own user-mode access hit the poisoned page, and it lives on or ended otherwise. Must see: a SIGBUS forced on a
/// thread outside memory_failure(). Denied by an exit on the page, by an injection, and by a known guest address: then the
/// page is the guest's.
pub fn own_memory(case: &VerdictInput) -> Option<Verdict> {
    let e = case.e;
    if e.own_access == 0 || e.exits.any() || !e.machine_checks.is_empty() || e.gpa.is_some() {
        return None;
    }
    Some(of(outcome_or_running(e), Cause::VmmOwnMemory, Confidence::Likely))
}
