//! The guest died.

use super::{Verdict, VerdictInput, verdict as of, weaker};
use crate::incident::{
    evidence::{End, McInjection, Refused},
    model::{Cause, Confidence, FlushVerdict, Outcome, Severity},
    termination::Termination,
};

/// Without `kvm_msr` a handler is taken to be still at work for so long after the #MC came, nanoseconds.
const HANDLER_TAKES_NS: u64 = 10_000_000_000;

/// A panic that a handler leads to comes at once; what takes longest is to print it, nanoseconds.
const AFTERMATH_NS: u64 = 3_000_000_000;

/// Where the vCPU was when it touched the page, by its RIP. Nothing that is traced shows the privilege level.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Canonical upper half: a 64-bit kernel.
    Kernel,
    /// Lower half, and not where 32-bit kernels live.
    User,
    Unknown,
}

fn place(rip: Option<u64>) -> Place {
    match rip {
        Some(rip) if rip >> 63 == 1 => Place::Kernel,
        Some(0x8000_0000..=0xffff_ffff) | None => Place::Unknown,
        Some(_) => Place::User,
    }
}

/// `end`: the first sign of its death.
pub fn verdict(case: &VerdictInput, end: &End) -> Verdict {
    if let Some(refused) = end.refused {
        return not_told(case, end, refused);
    }
    // A triple fault of a vCPU that hit errors again and again, none of which was injected, is no way of its own out of them.
    let by_itself = matches!(end.sign, Termination::Panic | Termination::CrashLoaded);
    if case.e.skips_injections() && !by_itself {
        return of(Outcome::GuestReset, Cause::MceNested, Confidence::Likely);
    }
    match end.sign {
        Termination::Panic | Termination::CrashLoaded => panic(case, end, Confidence::Certain),
        // No panic device: that a guest which starts anew out of its handler panicked before is inferred.
        Termination::ResetPort(_) | Termination::VcpuReset | Termination::SystemEvent => {
            panic(case, end, Confidence::Likely)
        }
        // The #MC found no handler, or one that could not run.
        Termination::TripleFault | Termination::KvmShutdown => {
            let why = panic(case, end, Confidence::Likely);
            of(Outcome::GuestReset, why.cause, why.confidence)
        }
        // The VMM ended while the guest was in its handler: the guest's last messages are not known.
        _ => panic(case, end, Confidence::Possible),
    }
}

/// An error that could not be injected into the vCPU that hit it.
/// - `mce_nested`: must see an action-required signal to a vCPU on which a #MC was open (delivered, MCG_STATUS not
///   written 0 since), nothing was injected for it, and then: the vCPU at the reset vector without a reset by the guest (QEMU),
///   or KVM_EXIT_SHUTDOWN without a triple-fault exit (KVM_X86_SET_MCE).
/// - `mce_disabled`: the same where none was open. Should see CR4.MCE = 0, which a VMM reads after the exit; a guest
///   with an earlier injection had machine checks on, unless that is seen.
///
/// Denied by a reset port, a triple fault, or an injection in between: then nothing was refused.
fn not_told(case: &VerdictInput, end: &End, refused: Refused) -> Verdict {
    let by_exit = matches!(end.sign, Termination::VmmExit(_));
    let outcome = if by_exit {
        Outcome::VmmExited
    } else {
        Outcome::GuestReset
    };
    let (cause, sure) = match (refused.nested, case.e.mce_enabled) {
        (true, Some(false)) => (Cause::MceDisabled, Confidence::Likely),
        (true, _) if case.coverage.handler_end => (Cause::MceNested, Confidence::Certain),
        (true, _) => (Cause::MceNested, Confidence::Possible),
        (false, Some(false)) => (Cause::MceDisabled, Confidence::Certain),
        (false, Some(true)) => (Cause::Unknown, Confidence::Possible),
        (false, None) if case.e.delivered > 0 => (Cause::MceDisabled, Confidence::Possible),
        (false, None) => (Cause::MceDisabled, Confidence::Likely),
    };
    // Exit status 0 is what QEMU with -no-reboot makes of the reset; another VMM may mean anything by it.
    let seen = match (by_exit, refused.nested) {
        (false, _) => Confidence::Certain,
        (true, true) => Confidence::Likely,
        (true, false) => Confidence::Possible,
    };
    of(outcome, cause, weaker(seen, sure))
}

/// Why the guest panicked, by its last machine check and where it was. `seen`: how sure the death is.
/// - `mce_overflow`: the bank had OVER and action required: an error before this one had not been read. Certain with
///   a user-space RIP, where nothing else in the machine check is fatal; with a kernel RIP the access itself may be.
///   A kernel's write is: no store has a fixup (arch/x86/kernel/cpu/mce/severity.c, `error_context()`), so that the bank
///   decides nothing then, and `kernel_access` is likely;
/// - `clflush`: action required, a kernel RIP touched the page, and its instruction (certain) or its walk over the
///   lines (possible) was a flush;
/// - `kernel_access`: the same, and not known for a flush; certain where the instruction is known for none.
/// - `fatal_notification`: nothing but action-optional #MCs was ever injected, and one was delivered; likely where the
///   page was touched as well.
/// - `not_poison`: nothing touched the page, and no #MC entered the guest: it died of something else.
///
/// Denied, and then only possible: the handler had finished before (older kernels clear MCG_STATUS before they find that
/// there is no way on); `unknown` where that was [`AFTERMATH_NS`] ago: a guest may still die of what it lost, or of
/// something else.
fn panic(case: &VerdictInput, end: &End, seen: Confidence) -> Verdict {
    let e = case.e;
    if e.delivered == 0
        && !e.accessed()
        && e.machine_checks
            .iter()
            .all(|injection| injection.severity != Severity::Ar)
    {
        let sure = if case.coverage.delivery && e.lost == 0 {
            Confidence::Likely
        } else {
            Confidence::Possible
        };
        return of(Outcome::GuestPanicked, Cause::NotPoison, sure);
    }
    let recovered = e
        .last_finished
        .is_some_and(|t| end.t.saturating_sub(t) > AFTERMATH_NS);
    if end.handled && recovered {
        return of(Outcome::GuestPanicked, Cause::Unknown, Confidence::Possible);
    }
    let last: Option<&McInjection> = e
        .machine_checks
        .iter()
        .rfind(|injection| injection.t <= end.t && matches!(injection.severity, Severity::Ao | Severity::Ar));
    let rip = last
        .and_then(|injection| injection.rip)
        .or_else(|| case.total.last_rip_before(end.t))
        .or_else(|| e.hardware.consumed.and_then(|consumed| consumed.rip));
    let kernel = place(rip) == Place::Kernel;
    let (cause, sure) = match last {
        Some(injection) if injection.severity == Severity::Ar && injection.overflow() => match place(rip) {
            Place::User => (Cause::MceOverflow, Confidence::Certain),
            Place::Kernel if case.total.writes_only() => (Cause::KernelAccess, Confidence::Likely),
            _ => (Cause::MceOverflow, Confidence::Likely),
        },
        Some(injection) if injection.severity == Severity::Ar && kernel => access(case),
        Some(injection) if injection.severity == Severity::Ao && e.delivered > 0 => {
            if e.accessed_by_guest() {
                (Cause::FatalNotification, Confidence::Likely)
            } else {
                (Cause::FatalNotification, Confidence::Certain)
            }
        }
        // Its machine checks were not seen, but the signals were, and where it was.
        None if (e.exit_signals > 0 || e.hardware.consumed.is_some()) && e.delivered > 0 && kernel => {
            access(case)
        }
        None if e.ao_signals > 0 && e.delivered > 0 && !e.accessed_by_guest() && e.ar_signals == 0 => {
            (Cause::FatalNotification, Confidence::Likely)
        }
        _ => (Cause::Unknown, Confidence::Possible),
    };
    let seen = if in_handler(case, end) {
        seen
    } else {
        Confidence::Possible
    };
    of(Outcome::GuestPanicked, cause, weaker(seen, sure))
}

/// Whether the guest was in its #MC handler at its end.
fn in_handler(case: &VerdictInput, end: &End) -> bool {
    let since = case.e.open_mc.values().max().copied();
    let long = !case.coverage.handler_end
        && since.is_some_and(|since| end.t.saturating_sub(since) > HANDLER_TAKES_NS);
    end.mc_open && !long
}

/// A kernel touched the page: by a flush, or not, as far as its instruction or its walk over the lines shows.
fn access(case: &VerdictInput) -> (Cause, Confidence) {
    let flush = case.flush;
    match flush.verdict {
        FlushVerdict::FlushOnly | FlushVerdict::FlushThenAccess => {
            (Cause::Clflush, flush.confidence.unwrap_or(Confidence::Possible))
        }
        FlushVerdict::NoFlush => (Cause::KernelAccess, Confidence::Certain),
        FlushVerdict::Undetermined => (Cause::KernelAccess, Confidence::Likely),
    }
}
