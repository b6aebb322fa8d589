//! The verdict: from what was seen to what became of the guest and why. Pure rules, in the order of
//! [`decide`]; each states what it must have seen, and how sure that makes it.

use super::{
    evidence::{End, Evidence, Sign, Told},
    exits::Total,
    logged,
    model::{Cause, Confidence, Flush, FlushVerdict, Outcome, Severity, StormKind},
    storm::storm,
};

/// What became of the guest, why, and how sure that is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub outcome: Outcome,
    pub cause: Cause,
    pub confidence: Confidence,
}

const fn verdict(outcome: Outcome, cause: Cause, confidence: Confidence) -> Verdict {
    Verdict {
        outcome,
        cause,
        confidence,
    }
}

const SIGBUS: i32 = 7;
/// Firecracker's exit status after SIGBUS (`FcExitCode::SIGBUS`).
const FIRECRACKER_SIGBUS: i32 = 149;
/// Canonical upper half: a kernel's RIP.
const KERNEL_HALF: u64 = 1 << 63;

/// Applies the rules. `late_death_ns`: how long after the poison a guest's death still counts as its.
pub fn decide(e: &Evidence, total: &Total, flush: &Flush, late_death_ns: u64) -> Verdict {
    logged::death(e)
        .or_else(|| vmm_death_by_sigbus(e))
        .or_else(|| private_memory(e))
        .or_else(|| guest_death(e, total, flush))
        .or_else(|| own_memory(e))
        .or_else(|| contained(e, late_death_ns))
        .or_else(|| spin(e, total))
        .or_else(|| dropped(e, total))
        .or_else(|| logged::hints(e, total))
        .or_else(|| untouched(e))
        .unwrap_or_else(|| verdict(vmm_outcome(e), Cause::Unknown, Confidence::Possible))
}

fn vmm_exit(e: &Evidence) -> Option<(&End, i32)> {
    e.ends.iter().find_map(|end| match end.sign {
        Sign::VmmExit(status) => Some((end, status)),
        _ => None,
    })
}

/// What the VMM's own end says, where nothing says more of the guest.
fn vmm_outcome(e: &Evidence) -> Outcome {
    match vmm_exit(e) {
        Some((_, status)) if status & 0x7f != 0 => Outcome::VmmKilled,
        Some(_) => Outcome::VmmExited,
        None if e.sign(|sign| *sign == Sign::VmmGone).is_some() => Outcome::VmmExited,
        None => Outcome::Unknown,
    }
}

/// The VMM ended by SIGBUS, or by its own answer to it.
/// - killed by signal 7 without ever telling the guest: it has no handler (`sigbus_unhandled`), unless the
///   signal came from its own user-mode access (`vmm_own_memory`);
/// - killed by signal 7 after a telling: QEMU re-raises a second SIGBUS that comes while one is pending;
/// - exit status 149: Firecracker's handler.
fn vmm_death_by_sigbus(e: &Evidence) -> Option<Verdict> {
    let (_, status) = vmm_exit(e)?;
    let told = !e.told.is_empty();
    if status & 0x7f == SIGBUS {
        return Some(if told {
            verdict(Outcome::VmmKilled, Cause::SecondSigbus, Confidence::Likely)
        } else if e.own_access > 0 && !e.exits.any() {
            verdict(Outcome::VmmKilled, Cause::VmmOwnMemory, Confidence::Likely)
        } else {
            verdict(Outcome::VmmKilled, Cause::SigbusUnhandled, Confidence::Certain)
        });
    }
    if status == FIRECRACKER_SIGBUS << 8 && !told && e.ao_signals + e.ar_signals + e.exit_signals > 0 {
        return Some(verdict(
            Outcome::VmmExited,
            Cause::SigbusUnhandled,
            Confidence::Certain,
        ));
    }
    None
}

/// guest_memfd: KVM_EXIT_MEMORY_FAULT with -EHWPOISON, and no SIGBUS.
fn private_memory(e: &Evidence) -> Option<Verdict> {
    e.sign(|sign| matches!(sign, Sign::MemoryFault(-133)))?;
    let outcome = match vmm_outcome(e) {
        Outcome::Unknown => Outcome::Running,
        other => other,
    };
    Some(verdict(outcome, Cause::GuestMemfd, Confidence::Certain))
}

/// The guest died: it said so (pvpanic), shut down or reset while a #MC was open, or the VMM reset it because
/// a #MC met another.
fn guest_death(e: &Evidence, total: &Total, flush: &Flush) -> Option<Verdict> {
    let panic = |end: &End, seen| panic(e, total, flush, end, seen);
    if let Some(end) = e.sign(|sign| matches!(sign, Sign::Panic | Sign::CrashLoaded)) {
        return Some(panic(end, Confidence::Certain));
    }
    // KVM itself gave up on the guest although the guest did not triple-fault: KVM_X86_SET_MCE met MCIP, or
    // CR4.MCE = 0 (KVM_REQ_TRIPLE_FAULT).
    if let Some(end) = e.sign(|sign| *sign == Sign::KvmShutdown)
        && e.sign(|sign| *sign == Sign::TripleFault).is_none()
        && e.told_ar + e.told_ao > 0
    {
        return Some(refused(end.mc_open, e.delivered));
    }
    // QEMU makes the same test itself, and resets the guest instead of telling it again.
    if e.sign(|sign| *sign == Sign::VcpuReset).is_some() && e.action_required(total) > e.told_ar {
        let mc_open = e
            .sign(|sign| *sign == Sign::VcpuReset)
            .is_some_and(|end| end.mc_open);
        return Some(refused(mc_open, e.delivered));
    }
    let gone = |sign: &Sign| {
        matches!(
            sign,
            Sign::ResetPort(_)
                | Sign::TripleFault
                | Sign::VcpuReset
                | Sign::SystemEvent
                | Sign::InternalError
        )
    };
    if let Some(end) = e.ends.iter().find(|end| gone(&end.sign) && end.mc_open) {
        return Some(panic(end, Confidence::Likely));
    }
    // The VMM ended while the guest was in its #MC handler: the guest's last words are not known.
    let gone = e.sign(|sign| matches!(sign, Sign::VmmExit(_) | Sign::VmmGone));
    if let Some(end) = gone
        && end.mc_open
    {
        return Some(panic(end, Confidence::Possible));
    }
    None
}

fn refused(mc_open: bool, delivered: u64) -> Verdict {
    if mc_open {
        verdict(Outcome::GuestReset, Cause::MceNested, Confidence::Likely)
    } else if delivered == 0 {
        verdict(Outcome::GuestReset, Cause::MceDisabled, Confidence::Likely)
    } else {
        verdict(Outcome::GuestReset, Cause::MceNested, Confidence::Possible)
    }
}

/// Why the guest panicked, by the last thing it was told and where it was. `seen`: how sure the death is.
/// - `mce_overflow`: the bank said OVER: an error before this one had not been read. With a user-space RIP
///   nothing else in the telling is fatal; with a kernel RIP the kernel's own access may be.
/// - `clflush`: action required, a kernel RIP touched the page, and its instruction (or the walk of its lines)
///   was a flush;
/// - `kernel_access`: the same, and not known for a flush.
/// - `fatal_notification`: nothing but an action-optional #MC was ever delivered.
fn panic(e: &Evidence, total: &Total, flush: &Flush, end: &End, seen: Confidence) -> Verdict {
    let last: Option<&Told> = e
        .told
        .iter()
        .rfind(|told| told.t <= end.t && matches!(told.severity, Severity::Ao | Severity::Ar));
    let in_kernel = total.last_rip().map(|rip| rip & KERNEL_HALF != 0);
    let flushed = matches!(
        flush.verdict,
        FlushVerdict::FlushOnly | FlushVerdict::FlushThenAccess
    );
    // A panic outside the handler, after the #MC had been dealt with, has other reasons as well.
    let seen = if end.mc_open { seen } else { Confidence::Possible };
    let (cause, sure) = match last {
        Some(told) if told.severity == Severity::Ar && told.overflow() => match in_kernel {
            Some(false) => (Cause::MceOverflow, Confidence::Certain),
            _ => (Cause::MceOverflow, Confidence::Likely),
        },
        Some(told) if told.severity == Severity::Ar && in_kernel == Some(true) => {
            if flushed {
                (Cause::Clflush, flush.confidence.unwrap_or(Confidence::Possible))
            } else {
                (Cause::KernelAccess, Confidence::Likely)
            }
        }
        Some(told) if told.severity == Severity::Ao && e.delivered > 0 => {
            (Cause::FatalNotification, Confidence::Certain)
        }
        // What it was told was not seen, but the signals were, and where it was.
        None if e.exit_signals > 0 && e.delivered > 0 && in_kernel == Some(true) => {
            if flushed {
                (Cause::Clflush, flush.confidence.unwrap_or(Confidence::Possible))
            } else {
                (Cause::KernelAccess, Confidence::Likely)
            }
        }
        None if e.ao_signals > 0 && e.delivered > 0 && !e.touched() && e.ar_signals + e.exit_signals == 0 => {
            (Cause::FatalNotification, Confidence::Likely)
        }
        _ => (Cause::Unknown, Confidence::Possible),
    };
    verdict(Outcome::GuestPanicked, cause, weaker(seen, sure))
}

/// The VMM's own user-mode access met the poison.
fn own_memory(e: &Evidence) -> Option<Verdict> {
    if e.own_access == 0 || e.exits.any() || e.told_ar > 0 {
        return None;
    }
    let outcome = match vmm_outcome(e) {
        Outcome::Unknown => Outcome::Running,
        other => other,
    };
    Some(verdict(outcome, Cause::VmmOwnMemory, Confidence::Likely))
}

/// Every #MC that entered the guest was handled to its end, and the guest went on. Likely while a late death
/// can still come; certain once that time has passed or the guest has turned itself off in good order.
fn contained(e: &Evidence, late_death_ns: u64) -> Option<Verdict> {
    // A trace without the tellings shows the signal that asked for one.
    let told = e.told_ar > 0 || e.logged.trace && e.ar_signals + e.exit_signals > 0;
    if !told || e.delivered == 0 || e.finished == 0 || !e.open_mc.is_empty() {
        return None;
    }
    let in_order = e.sign(|sign| *sign == Sign::PowerOff).is_some();
    let late = e.last.saturating_sub(e.last_poison) > late_death_ns;
    let confidence = if in_order || late {
        Confidence::Certain
    } else {
        Confidence::Likely
    };
    Some(verdict(Outcome::Survived, Cause::Contained, confidence))
}

/// Signals and exits go on, and the guest is never told: the VMM swallows SIGBUS, or the thread blocks it.
fn spin(e: &Evidence, total: &Total) -> Option<Verdict> {
    let spins = storm(total, e.size()).is_some_and(|storm| storm.kind == StormKind::SameLineSpin);
    let outcome = match vmm_outcome(e) {
        Outcome::Unknown => Outcome::Running,
        ended => ended,
    };
    (e.told.is_empty() && spins).then(|| verdict(outcome, Cause::SigbusSpin, Confidence::Likely))
}

/// KVM_X86_SET_MCE succeeded, the guest ran on, and no #MC ever came.
fn dropped(e: &Evidence, total: &Total) -> Option<Verdict> {
    let by_set_mce = e.told.iter().any(|told| told.via == super::model::Via::SetMce);
    let ran_on = total.page.exit_to_entry.count > 0;
    (by_set_mce && e.delivered == 0 && ran_on)
        .then(|| verdict(Outcome::Unknown, Cause::MceDropped, Confidence::Possible))
}

/// Nobody touched the page: an end of the VMM then has other reasons.
fn untouched(e: &Evidence) -> Option<Verdict> {
    if e.logged.any() && !e.logged.trace && e.ao_signals == 0 {
        // A log does not tell who touched what.
        return None;
    }
    if e.touched()
        || e.told_ar > 0
        || e.logged.told_ar > 0
        || !e.logged.mces.is_empty()
        || e.ar_signals + e.exit_signals > 0
        || e.delivered > 0
    {
        return None;
    }
    Some(match vmm_outcome(e) {
        Outcome::Unknown if e.sign(|sign| *sign == Sign::PowerOff).is_some() => {
            verdict(Outcome::Unaffected, Cause::NotTouched, Confidence::Certain)
        }
        Outcome::Unknown => verdict(Outcome::Running, Cause::NotTouched, Confidence::Likely),
        Outcome::VmmKilled => verdict(Outcome::VmmKilled, Cause::NotPoison, Confidence::Likely),
        _ => verdict(Outcome::Unaffected, Cause::NotTouched, Confidence::Likely),
    })
}

fn weaker(a: Confidence, b: Confidence) -> Confidence {
    let rank = |c: Confidence| match c {
        Confidence::Certain => 2,
        Confidence::Likely => 1,
        Confidence::Possible => 0,
    };
    if rank(a) < rank(b) { a } else { b }
}
