//! Next steps: from evidence and verdict.

use alloc::vec::Vec;

use crate::{
    hex::Hex,
    incident::{
        evidence::Evidence,
        model::{Cause, OriginKind, Outcome},
        next_steps::{NextStep, Related},
        verdict::Verdict,
    },
};

/// The steps for this verdict.
pub fn next_steps(e: &Evidence, v: Verdict, origin: OriginKind, related: &Related) -> Vec<NextStep> {
    if origin == OriginKind::Claimed {
        // Nothing is known to be wrong with this host's memory.
        return [NextStep::CheckClaim].into();
    }
    if v.outcome == Outcome::HostPanicked {
        return for_the_host(e, v);
    }
    if e.logged.kernel_panic.is_some() && v.outcome == Outcome::Unknown {
        return [NextStep::FindKernel].into();
    }
    if let Some(name) = &e.logged.hypervisor
        && e.pfn.is_none()
    {
        let ask = NextStep::AskPlatform { name: name.clone() };
        return core::iter::once(ask).chain(for_the_cause(e, v)).collect();
    }
    let software = origin == OriginKind::SoftwareInjection;
    let mut steps: Vec<NextStep> = for_the_guest(e, v).into_iter().collect();
    steps.extend(for_the_cause(e, v));
    if !related.named.is_empty() {
        steps.push(NextStep::ExplainRelated {
            ids: related.named.clone(),
            more: related.total.saturating_sub(related.named.len() as u64),
        });
    }
    match (&e.logged.dimm, e.pfn) {
        _ if v.cause == Cause::NotPoison => {}
        // No DIMM is at fault where software poisoned the page.
        _ if software || steps.contains(&NextStep::FindSigbusReason) => {}
        (Some(label), _) => steps.push(NextStep::ReplaceDimm { label: label.clone() }),
        (None, Some(pfn)) => steps.push(NextStep::FindDimm { pfn: Hex(pfn) }),
        (None, None) => steps.push(NextStep::SearchKernelLog),
    }
    steps
}

/// What the host's operator can do; all of its guests are down.
fn for_the_host(e: &Evidence, v: Verdict) -> Vec<NextStep> {
    let mut steps: Vec<NextStep> = [NextStep::RestartGuestsElsewhere].into();
    if e.logged.software_machine_checks() {
        return steps;
    }
    if v.cause == Cause::NotPoison {
        steps.push(NextStep::ExamineProcessor);
        return steps;
    }
    if v.cause == Cause::KernelAccess {
        steps.push(NextStep::KeepHostDump);
    }
    steps.push(match (&e.logged.dimm, e.pfn) {
        (Some(label), _) => NextStep::ReplaceDimm { label: label.clone() },
        (None, Some(pfn)) => NextStep::FindDimm { pfn: Hex(pfn) },
        (None, None) => NextStep::SearchKernelLog,
    });
    steps
}

fn for_the_guest(e: &Evidence, v: Verdict) -> Option<NextStep> {
    match v.outcome {
        Outcome::GuestPanicked | Outcome::GuestReset | Outcome::VmmKilled | Outcome::VmmExited => {
            let name = e.vmm.name.clone();
            let pod_uid = e
                .vmm
                .container
                .as_ref()
                .and_then(|container| container.pod_uid.clone());
            Some(match pod_uid {
                Some(pod_uid) => NextStep::StartGuestOfPod { name, pod_uid },
                None => NextStep::StartGuest { name },
            })
        }
        // migrate_prepare() in QEMU's migration code, since 9.0: "Can't migrate this vm with hardware poisoned
        // memory"; before that the migration thread read the page.
        Outcome::Running if v.cause == Cause::VmmOwnMemory => Some(NextStep::ReplaceVmm),
        Outcome::Running | Outcome::Survived if !e.vmm_gone() => Some(NextStep::DoNotMigrate),
        _ => None,
    }
}

fn for_the_cause(e: &Evidence, v: Verdict) -> Option<NextStep> {
    if e.logged.bug_check.is_some() && v.outcome == Outcome::GuestPanicked {
        return Some(NextStep::KeepMinidump);
    }
    let ended = matches!(v.outcome, Outcome::VmmKilled | Outcome::VmmExited);
    let by_sigbus = e.logged.died_by_sigbus || e.logged.vmm_sigbus;
    Some(match v.cause {
        Cause::Unknown if ended && by_sigbus => NextStep::FindSigbusReason,
        Cause::MceNested if e.skips_injections() && !ended => NextStep::ResetStuckGuest,
        Cause::MceOverflow => NextStep::AddOverflowRecovery,
        Cause::FatalNotification => NextStep::UseErrorRecovery,
        Cause::MceNested => NextStep::FindOtherPages,
        Cause::MceDisabled => NextStep::EnableMachineChecks,
        Cause::SigbusUnhandled => NextStep::AvoidVmm,
        Cause::SecondSigbus => NextStep::FindSimultaneousErrors,
        Cause::VmmOwnMemory if v.outcome == Outcome::Running => return None,
        Cause::VmmOwnMemory => NextStep::LeaveGuestAlone,
        Cause::MceDropped => NextStep::FixMceControls,
        Cause::GuestMemfd => NextStep::RestartPrivateGuest,
        Cause::KernelAccess => NextStep::KeepConsole,
        Cause::Clflush => NextStep::UpdateGuestKernel,
        Cause::SigbusSpin if ended => return None,
        Cause::SigbusSpin => NextStep::KillVmm,
        Cause::UnmapFailed => NextStep::EvacuateHost,
        Cause::NotPoison => NextStep::LookElsewhere,
        Cause::InitKilled | Cause::Contained | Cause::NotTouched | Cause::Unknown => return None,
    })
}
