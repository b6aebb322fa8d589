//! The verdict: from what was seen to what became of the guest and why. Pure rules, one file a family of causes; each
//! names what it must have seen, what it should see, what denies it, and how sure that makes it.
//!
//! | family | causes |
//! |---|---|
//! | `death` | the guest died: `mce_overflow`, `kernel_access`, `clflush`, `fatal_notification`, `mce_nested`, `mce_disabled`, `not_poison` |
//! | `vmm` | the VMM ended: `sigbus_unhandled`, `second_sigbus`, `vmm_own_memory`, `guest_memfd`, `unmap_failed`, `not_poison` |
//! | `life` | the guest lives, or nothing shows that it died: `contained`, `sigbus_spin`, `mce_nested`, `mce_dropped`, `clflush`, `not_touched` |
//! | `log_evidence` | logs alone: the guest's or the host's panic, `init_killed`, and the causes above as far as logs show them |
//!
//! The first sign of an end decides: what a dead guest's crash kernel or its VMM do afterwards changes nothing.

mod death;
mod life;
mod log_evidence;
mod vmm;

use super::{
    evidence::{End, Evidence},
    exits::Total,
    model::{Cause, Confidence, Flush, Outcome},
    termination::Termination,
};

/// What became of the guest, why, and how sure that is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// What became of the guest.
    pub outcome: Outcome,
    /// Why.
    pub cause: Cause,
    /// How sure the verdict is.
    pub confidence: Confidence,
}

/// What could have been seen at all: where a probe was missing, its silence proves nothing.
#[derive(Clone, Copy, Debug)]
pub struct ProbeCoverage {
    /// `kvm_msr`: that a handler finished.
    pub handler_end: bool,
    /// `kvm_inj_exception`: that a #MC entered the guest.
    pub delivery: bool,
    /// The ioctls by which a VMM injects.
    pub injection: bool,
    /// Exits of a guest.
    pub exits: bool,
}

/// Everything that the rules read.
#[derive(Clone, Copy)]
struct VerdictInput<'a> {
    e: &'a Evidence,
    total: &'a Total,
    flush: &'a Flush,
    coverage: ProbeCoverage,
}

const fn verdict(outcome: Outcome, cause: Cause, confidence: Confidence) -> Verdict {
    Verdict {
        outcome,
        cause,
        confidence,
    }
}

/// Applies the rules.
pub fn decide(e: &Evidence, total: &Total, flush: &Flush, coverage: ProbeCoverage) -> Verdict {
    let case = VerdictInput {
        e,
        total,
        flush,
        coverage,
    };
    unconfirmed(e, by_rules(&case))
}

/// Poison that the kernel has not reported may be a claim: it is never certain, and of a process without a vCPU nothing
/// follows but its own end.
fn unconfirmed(e: &Evidence, v: Verdict) -> Verdict {
    if !e.unconfirmed() {
        return v;
    }
    if !e.claimed() || e.vcpu_seen() {
        return verdict(v.outcome, v.cause, weaker(v.confidence, Confidence::Likely));
    }
    match vmm::outcome_or_running(e) {
        Outcome::Running => verdict(Outcome::Running, Cause::Unknown, Confidence::Possible),
        ended => verdict(ended, Cause::NotPoison, Confidence::Possible),
    }
}

fn by_rules(case: &VerdictInput) -> Verdict {
    let VerdictInput { e, total, .. } = *case;
    let seen = observed(case);
    match log_evidence::death(e) {
        // What was seen for certain needs no witness; where a certain one contradicts it, one of them is wrong.
        Some(logged) => match seen {
            Some(seen) if seen.confidence == Confidence::Certain && seen.cause != Cause::Unknown => {
                if logged.confidence == Confidence::Certain && logged.cause != seen.cause {
                    verdict(seen.outcome, seen.cause, Confidence::Likely)
                } else {
                    seen
                }
            }
            _ => logged,
        },
        None => seen
            .or_else(|| life::walked(case))
            .or_else(|| log_evidence::hints(e, total))
            .or_else(|| life::untouched(case))
            .unwrap_or_else(|| verdict(vmm::outcome(e), Cause::Unknown, Confidence::Possible)),
    }
}

/// What the probes saw.
fn observed(case: &VerdictInput) -> Option<Verdict> {
    // It is the first that is seen of its page, and nothing of it can follow.
    if let Some(verdict) = vmm::private_memory(case) {
        return Some(verdict);
    }
    if let Some(verdict) = vmm::unisolated(case) {
        return Some(verdict);
    }
    let end = deciding(case.e);
    if let Some(end) = end.filter(|end| !of_vmm(&end.sign)) {
        return Some(death::verdict(case, end));
    }
    if closing(case.e).is_some_and(|end| end.sign == Termination::PowerOff)
        && let Some(verdict) = life::closed(case)
    {
        return Some(verdict);
    }
    // What the VMM of a guest that had ended before meets later is of a guest that began anew.
    let sure = match closing(case.e) {
        Some(_) => Confidence::Likely,
        None => Confidence::Certain,
    };
    vmm::by_sigbus(case)
        .map(|v| verdict(v.outcome, v.cause, weaker(v.confidence, sure)))
        .or_else(|| life::closed(case))
        .or_else(|| end.map(|end| death::verdict(case, end)))
        .or_else(|| life::injections_skipped(case))
        .or_else(|| vmm::own_memory(case))
        .or_else(|| life::dropped(case))
        .or_else(|| life::contained(case))
        .or_else(|| life::spin(case))
        .or_else(|| vmm::still_in_use(case))
}

/// The sign by which the guest died, if it died of anything that may be this page.
fn deciding(e: &Evidence) -> Option<&End> {
    for end in &e.ends {
        // A guest that is still in its handler has not outlived its poison, however long that takes.
        if !end.mine {
            continue;
        }
        if closes(end) {
            return None;
        }
        let decides = match end.sign {
            Termination::Panic | Termination::CrashLoaded => true,
            Termination::ResetPort(_)
            | Termination::TripleFault
            | Termination::KvmShutdown
            | Termination::VcpuReset
            | Termination::SystemEvent => end.mc_open || end.refused.is_some() || e.skips_injections(),
            // What ends the VMM of a vCPU that gets no further is somebody else.
            Termination::VmmExit(_) | Termination::VmmGone => {
                end.refused.is_some() || end.mc_open && !e.skips_injections()
            }
            Termination::InternalError
            | Termination::PrivateMemory
            | Termination::VmDestroyed
            | Termination::PowerOff => false,
        };
        if decides {
            return Some(end);
        }
    }
    None
}

/// The sign that the guest turned itself off, or ended when this page's time was over.
fn closing(e: &Evidence) -> Option<&End> {
    e.ends
        .iter()
        .find(|end| end.mine && closes(end) && end.sign != Termination::VmDestroyed)
}

/// A guest that is still in its handler has not outlived its poison, however long that takes.
fn closes(end: &End) -> bool {
    end.sign == Termination::PowerOff || end.late && !end.mc_open
}

const fn of_vmm(sign: &Termination) -> bool {
    matches!(sign, Termination::VmmExit(_) | Termination::VmmGone)
}

fn weaker(a: Confidence, b: Confidence) -> Confidence {
    let rank = |c: Confidence| match c {
        Confidence::Certain => 2,
        Confidence::Likely => 1,
        Confidence::Possible => 0,
    };
    if rank(a) < rank(b) { a } else { b }
}
