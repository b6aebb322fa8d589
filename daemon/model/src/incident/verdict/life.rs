//! The guest lives, or nothing shows that this page killed it.

use super::{Verdict, VerdictInput, verdict as of, vmm, weaker};
use crate::incident::{
    model::{Cause, Confidence, FlushVerdict, Outcome, Spin, StormKind},
    storm::storm,
    termination::Termination,
};

/// The guest had ended, or this page's time was over, before it died of anything: what followed is of another life.
/// - `contained`, if all was handled until then;
/// - `not_touched`, if the guest turned itself off and nothing had accessed the page.
///
/// Certain, unless records were lost.
pub fn closed(case: &VerdictInput) -> Option<Verdict> {
    let end = super::closing(case.e)?;
    let confidence = if case.e.lost == 0 {
        Confidence::Certain
    } else {
        Confidence::Likely
    };
    if end.handled {
        return Some(of(Outcome::Survived, Cause::Contained, confidence));
    }
    (end.sign == Termination::PowerOff && !end.accessed)
        .then(|| of(Outcome::Unaffected, Cause::NotTouched, confidence))
}

/// `contained`: every #MC that entered the guest was handled to its end (MCG_STATUS written 0), and no signal waits for
/// an answer. Likely: the guest may still die of what it lost. A VMM that a signal kills afterwards makes it
/// `not_poison`.
pub fn contained(case: &VerdictInput) -> Option<Verdict> {
    let e = case.e;
    if !e.handled() {
        return None;
    }
    if vmm::was_killed(e) {
        return Some(of(Outcome::VmmKilled, Cause::NotPoison, Confidence::Likely));
    }
    Some(of(Outcome::Survived, Cause::Contained, Confidence::Likely))
}

/// `sigbus_spin`: signals and exits go on at one line, and nothing is injected. Certain once the VMM has ended, where
/// the exits did not even return to user space (SIGBUS is blocked or ignored in the vCPU's thread). Denied by an injected action-required
/// error, and by a #MC.
pub fn spin(case: &VerdictInput) -> Option<Verdict> {
    let e = case.e;
    let storm = storm(case.total, e.size()).filter(|storm| storm.kind == StormKind::SameLineSpin)?;
    if e.ar_injections > 0 || e.delivered > 0 && case.coverage.delivery {
        return None;
    }
    let in_kernel = storm.spin == Some(Spin::InKernel);
    let confidence = if in_kernel && case.coverage.injection && e.vmm_gone() {
        Confidence::Certain
    } else {
        Confidence::Likely
    };
    Some(of(vmm::outcome_or_running(e), Cause::SigbusSpin, confidence))
}

/// `mce_nested` without a reset: errors hit a vCPU on which a #MC was open, the VMM injected none of them, and the vCPU accesses
/// them again and again. QEMU does so for guests with AMD's machine checks: their STATUS has no AR bit, by which
/// `do_inject_x86_mce` shows what must not be left out while MCG_STATUS.MCIP is set; and a Linux guest whose machine
/// checks are turned off (mce=off) returns from its handler and leaves MCIP set. Likely while the VMM lives: it may still
/// reset its guest.
pub fn injections_skipped(case: &VerdictInput) -> Option<Verdict> {
    let e = case.e;
    if !e.skips_injections() {
        return None;
    }
    let confidence = if e.injections_skipped == 0 {
        // QMP alone: it names skipped early notices in the same way.
        Confidence::Possible
    } else if case.coverage.handler_end && case.coverage.injection && e.lost == 0 && e.vmm_gone() {
        Confidence::Certain
    } else {
        Confidence::Likely
    };
    Some(of(vmm::outcome_or_running(e), Cause::MceNested, confidence))
}

/// `mce_dropped`: KVM_X86_SET_MCE was called with an uncorrected error, and the vCPU entered the guest again without a
/// #MC: KVM returns 0 and does nothing where MCG_CTL or the bank's CTL are not all ones. Should see the ioctl's return
/// value, which nothing shows: an error would look the same. Denied by a delivery.
pub fn dropped(case: &VerdictInput) -> Option<Verdict> {
    let e = case.e;
    (e.dropped > 0 && e.delivered == 0 && case.coverage.delivery)
        .then(|| of(vmm::outcome_or_running(e), Cause::MceDropped, Confidence::Likely))
}

/// `clflush` without a death: one RIP went over the page's lines and nothing was injected, as where the VMM steps over
/// each instruction. As sure as the flush; while the VMM lives, likely at most.
pub fn walked(case: &VerdictInput) -> Option<Verdict> {
    let e = case.e;
    let storm = storm(case.total, e.size()).filter(|storm| storm.kind == StormKind::LineWalk)?;
    let flushed = matches!(
        case.flush.verdict,
        FlushVerdict::FlushOnly | FlushVerdict::FlushThenAccess
    );
    if !flushed || storm.lines < 2 || e.ar_injections > 0 || e.delivered > 0 {
        return None;
    }
    let mut confidence = case.flush.confidence.unwrap_or(Confidence::Possible);
    if !e.vmm_gone() {
        confidence = weaker(confidence, Confidence::Likely);
    }
    Some(of(vmm::outcome_or_running(e), Cause::Clflush, confidence))
}

/// `not_touched`: no exit, no access of the VMM's, no #MC: whatever ends the VMM then has other reasons (`not_poison`
/// where a signal kills it). A log does not show who touched what.
pub fn untouched(case: &VerdictInput) -> Option<Verdict> {
    let e = case.e;
    // Of a page that was lost before the probes were there, they have seen all since.
    if e.logged.any() && !e.logged.trace && e.ao_signals == 0 && !e.predates {
        return None;
    }
    if e.accessed() || e.logged.ar_injections > 0 || !e.logged.mces.is_empty() {
        return None;
    }
    let confidence = match e.predates || e.logged.trace && !case.coverage.exits {
        // What was before the probes, or is in no trace, nobody saw.
        true => Confidence::Possible,
        false => Confidence::Likely,
    };
    Some(match vmm::outcome(e) {
        Outcome::Unknown => of(Outcome::Running, Cause::NotTouched, confidence),
        Outcome::VmmKilled => of(Outcome::VmmKilled, Cause::NotPoison, confidence),
        _ => of(Outcome::Unaffected, Cause::NotTouched, confidence),
    })
}
