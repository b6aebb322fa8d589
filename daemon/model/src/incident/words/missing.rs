//! Evidence that was not to be had, and what it would have settled.

use std::fmt::Write as _;

use crate::{
    event::{
        OtherAddress,
        session::{ProbeStatus, Session},
    },
    incident::{
        evidence::{Evidence, Sign},
        exits::Total,
        model::{Cause, Flush, FlushBasis, FlushVerdict, Outcome},
        verdict::Verdict,
        walk::Walk,
    },
};

/// One line each.
pub fn missing(e: &Evidence, total: &Total, flush: &Flush, v: Verdict, session: &Session) -> Vec<String> {
    let mut missing = Vec::new();
    let mut note = |absent: bool, text: &str| {
        if absent {
            missing.push(text.to_owned());
        }
    };
    let died = matches!(v.outcome, Outcome::GuestPanicked | Outcome::GuestReset);
    let panic_seen = e
        .sign(|sign| matches!(sign, Sign::Panic | Sign::CrashLoaded))
        .is_some();
    note(died, "the guest's console: its own words of the death");
    note(
        died && !panic_seen && v.outcome == Outcome::GuestPanicked,
        "pvpanic: the guest has no panic device, so that it panicked is inferred from an unfinished #MC handler",
    );
    note(
        v.cause == Cause::MceDisabled && e.mce_enabled.is_none(),
        "CR4 of the vCPU at the touch (--read-guest-code reads it): whether machine checks were off",
    );
    note(
        v.cause == Cause::MceDropped,
        "the return value of KVM_X86_SET_MCE: whether KVM dropped the machine check or refused it with an error",
    );
    note(
        v.cause == Cause::VmmOwnMemory,
        "the VM's memory slots: that the page was the VMM's own is inferred, as no exit of the guest met it",
    );
    note(
        v.cause == Cause::NotPoison && e.ends.iter().any(|end| end.sign == Sign::VmmExit(7)),
        "si_code of the SIGBUS that killed the VMM: BUS_ADRERR is a shortage of huge pages or a truncated memory file",
    );
    note(
        e.joined_by_time,
        "a signal from memory_failure(): that this is the page of the host that was lost is inferred, as it is the only one that fits",
    );
    note(
        flush.verdict == FlushVerdict::Undetermined && e.exits.any(),
        "the bytes of the instruction at the guest's RIP: whether the access was a CLFLUSH or a load",
    );
    note(
        flush.basis == FlushBasis::LineWalk,
        "the bytes of the instruction that walked the page: CLFLUSH, CLWB and loads with a stride of 64 look the same",
    );
    if let Some(walk) = &total.walk {
        note(walk.missing() != 0, &missing_lines(walk));
        note(walk.unplaced > 0, &unknown_addresses(walk));
    }
    note(
        // Nothing but flushes, and no signal before the first: the guest knew of the page by words that were not heard.
        flush.verdict == FlushVerdict::FlushOnly && e.exits.any() && e.ao_signals + e.own_access == 0,
        "what the VMM told its guest before the host's first SIGBUS (QEMU: `mce` of its monitor): its calls are looked at from then on, so that what made the guest flush the page is not known",
    );
    note(
        e.pfn.is_none() && v.cause != Cause::GuestMemfd,
        "memory_failure() of this page: it was poisoned before the probes were attached, or is not joined; the pfn is not known",
    );
    note(
        e.predates,
        "memory_failure() of this page: it was poisoned before the probes were attached; what it did to the guest until then is not known",
    );
    note(
        v.cause == Cause::GuestMemfd,
        "the address of the private page: KVM sends no signal for it that would name it",
    );
    match e.other_address {
        Some(OtherAddress::Virtual(_)) => note(
            true,
            "the guest's address of the page: under shadow paging (ept=0, npt=0) KVM gives guest-virtual addresses, of which only the line is the page's",
        ),
        Some(OtherAddress::Nested(_)) => note(
            true,
            "the guest's address of the page: a guest that this guest runs itself took the exits, and KVM gives that guest's addresses, of which only the line is the page's",
        ),
        None => note(
            e.gpa.is_none() && v.cause != Cause::GuestMemfd,
            "the guest's address of the page: nothing in the guest has touched it, and it was not told",
        ),
    }
    note(
        e.vmm.is_vmm != Some(true),
        "/proc of the VMM: it was gone before it could be asked for its name",
    );
    note(
        e.vmm.is_vmm == Some(true) && e.vmm.name.is_none(),
        "the VM's name: the VMM's command line and cgroup do not tell one",
    );
    note(
        !e.exits.any() && e.action_required(total) > e.own_access,
        "the exit that met the poison: kvm_exit or kvm_page_fault did not show it; its RIP, line and latency are not known",
    );
    if e.blind_ns > 0 {
        note(
            true,
            &format!(
                "triple faults, resets and ports of the guest in the first {:.1} ms, in which it was told or died: the probes that show them are attached when there is poison",
                e.blind_ns as f64 / 1e6
            ),
        );
    }
    if e.lost > 0 {
        note(
            true,
            &format!(
                "{} records of the probes were lost: counts are at least what is shown",
                e.lost
            ),
        );
    }
    // What the instruction's probe would have told is known by another way.
    let known =
        |probe: &ProbeStatus| probe.name == "instruction" && flush.basis == FlushBasis::InstructionBytes;
    for probe in session
        .probes
        .iter()
        .filter(|probe| probe.binding.is_none() && !known(probe))
    {
        if let Some(lost) = &probe.lost {
            let why = probe.why.as_deref().unwrap_or("no reason is known");
            note(true, &format!("probe {} ({why}): {lost}", probe.name));
        }
    }
    missing
}

fn missing_lines(walk: &Walk) -> String {
    let mut lines = String::new();
    let mut rest = walk.missing();
    while rest != 0 {
        let first = rest.trailing_zeros();
        let run = (rest >> first).trailing_ones();
        let comma = if lines.is_empty() { "" } else { ", " };
        let _ = match run {
            1 => write!(lines, "{comma}{first}"),
            _ => write!(lines, "{comma}{first}-{}", first + run - 1),
        };
        rest &= u64::MAX.checked_shl(first + run).unwrap_or(0);
    }
    format!(
        "the exits on lines {lines} of the page, which the walk by RIP {:#x} passed: lost, or their addresses misread",
        walk.rip
    )
}

fn unknown_addresses(walk: &Walk) -> String {
    format!(
        "the addresses of {} exits of the walk by RIP {:#x}: not recorded, or contradicted by the exits before and after them",
        walk.unplaced, walk.rip
    )
}
