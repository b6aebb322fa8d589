//! The sentence, the advice, and what is missing: for people, and for a ticket.

use super::{
    evidence::{Evidence, Sign},
    exits::Total,
    model::{Cause, Flush, FlushBasis, FlushVerdict, Outcome, Severity},
    verdict::Verdict,
};
use crate::event::{OtherAddress, session::Session};

/// The guest as a sentence names it.
fn guest(e: &Evidence) -> String {
    match (&e.vmm.name, &e.vmm.vmm) {
        (Some(name), _) => format!("Guest {name}"),
        (None, Some(vmm)) if e.pid == 0 => format!("The guest of {vmm}"),
        (None, Some(vmm)) => format!("The guest of {vmm} (pid {})", e.pid),
        (None, None) if e.pid == 0 => "The guest".to_owned(),
        (None, None) => format!("The guest of pid {}", e.pid),
    }
}

fn page(e: &Evidence) -> String {
    match (e.gpa, e.pfn) {
        (Some(gpa), Some(pfn)) => format!("guest page {gpa:#x} (host pfn {pfn:#x})"),
        (Some(gpa), None) => format!("guest page {gpa:#x}"),
        (None, Some(pfn)) => format!("host pfn {pfn:#x}"),
        (None, None) => "a page".to_owned(),
    }
}

/// The answer in one sentence.
pub fn sentence(e: &Evidence, total: &Total, v: Verdict) -> String {
    let guest = guest(e);
    let page = page(e);
    let fate = match v.outcome {
        Outcome::GuestPanicked => "panicked",
        Outcome::GuestReset => "was reset",
        Outcome::VmmKilled => "is gone: its VMM was killed",
        Outcome::VmmExited => "is gone: its VMM exited",
        Outcome::Survived => "survived",
        Outcome::Running => "is running",
        Outcome::Unaffected => "was not affected",
        Outcome::Unknown => "met poison, and what became of it is not known",
    };
    match v.cause {
        Cause::Contained => format!(
            "{guest} {fate}: the memory of {page} was lost on the host, the guest was told by a machine check and its kernel handled it to the end."
        ),
        Cause::MceOverflow => {
            let bank =
                overflowed_bank(e).map_or_else(|| "the same bank".to_owned(), |bank| format!("bank {bank}"));
            format!(
                "{guest} {fate}: after the host lost the memory of {page}, the guest touched it and was told of the error while {bank} still held an earlier one (OVER), which its kernel cannot recover from."
            )
        }
        Cause::KernelAccess => format!(
            "{guest} {fate}: its own kernel touched {page}, whose memory the host had lost, and a machine check in the kernel is fatal."
        ),
        Cause::Clflush => {
            format!("{guest} {fate}: its kernel flushed {page}, whose memory the host had lost.")
        }
        Cause::FatalNotification => format!(
            "{guest} {fate}: the notice alone that the host had lost {page} was a fatal machine check to it; nothing in the guest had touched the page."
        ),
        Cause::MceNested => format!(
            "{guest} {fate}: it touched {page}, whose memory the host had lost, while its handler of an earlier machine check had not finished; a second one is not survivable."
        ),
        Cause::MceDisabled => format!(
            "{guest} {fate}: it touched {page}, whose memory the host had lost, with machine checks turned off (CR4.MCE = 0)."
        ),
        Cause::SigbusUnhandled => format!(
            "{guest} {fate} by SIGBUS when {page} was touched, whose memory the host had lost: this VMM does not pass memory errors on to its guest."
        ),
        Cause::SecondSigbus => format!(
            "{guest} {fate} by a second SIGBUS for {page} that came while it was still dealing with the first."
        ),
        Cause::VmmOwnMemory => format!(
            "{guest} {fate}: the VMM itself touched {page}, whose memory the host had lost; the guest did not."
        ),
        Cause::MceDropped => format!(
            "{guest} touched {page}, whose memory the host had lost; the VMM injected a machine check, and KVM dropped it."
        ),
        Cause::GuestMemfd => format!(
            "{guest} {fate}: it touched private memory (guest_memfd) that the host had lost, and KVM_RUN returned EHWPOISON."
        ),
        Cause::SigbusSpin => format!(
            "{guest} {fate}: it touched one line of {page}, whose memory the host had lost, again and again, and was never told ({} exits).",
            total.page.exits
        ),
        Cause::NotTouched => format!(
            "{guest} {fate}: the host lost the memory of {page}, and nothing in the guest has touched it."
        ),
        Cause::NotPoison => {
            format!("{guest} {fate}, but not by the lost memory of {page}: nothing had touched it.")
        }
        Cause::Unknown => format!(
            "{guest} {fate}; the host had lost the memory of {page}. What was seen does not say why: see what is missing."
        ),
    }
}

fn overflowed_bank(e: &Evidence) -> Option<u32> {
    e.told
        .iter()
        .rfind(|told| told.severity == Severity::Ar && told.overflow())
        .map(|told| told.bank.bank)
        .or_else(|| e.logged.overflowed_bank())
}

/// What to do now, most urgent first.
pub fn advice(e: &Evidence, v: Verdict) -> Vec<String> {
    let mut advice = Vec::new();
    match v.outcome {
        Outcome::GuestPanicked | Outcome::GuestReset | Outcome::VmmKilled | Outcome::VmmExited => advice.push(
            "Start the guest again: it gets other memory (a reset inside the same QEMU process remaps the page as well).".to_owned(),
        ),
        // migrate_prepare() in QEMU's migration code, since 9.0: "Can't migrate this vm with hardware poisoned
        // memory"; before that the migration thread read the page.
        Outcome::Running | Outcome::Survived if !e.vmm_gone() => advice.push(
            "Do not live-migrate the guest before it has been reset: QEMU refuses while the guest holds lost memory (9.0 on), and an older QEMU dies of reading the page. Agree on a reboot with its owner; it frees the page.".to_owned(),
        ),
        _ => {}
    }
    match v.cause {
        Cause::MceOverflow => advice.push(
            "Give the guest's CPU model MCA overflow recovery and SUCCOR (QEMU: +overflow-recov,+succor on AMD) so that its kernel can survive the next one.".to_owned(),
        ),
        Cause::FatalNotification => advice.push(
            "The guest's CPU model makes every notice fatal: use one with software error recovery (MCG_SER_P), or a VMM that does not pass action-optional errors on to it.".to_owned(),
        ),
        Cause::SigbusUnhandled => advice.push(
            "This VMM dies with any lost page of its guest: keep its guests off this host until the memory is replaced.".to_owned(),
        ),
        Cause::KernelAccess | Cause::Clflush => advice.push(
            "Keep the guest's console log of the panic: the backtrace says what in its kernel touched the page.".to_owned(),
        ),
        Cause::SigbusSpin => advice.push("Kill the VMM: its vCPU cannot get past this page.".to_owned()),
        _ => {}
    }
    match (e.pfn, v.cause) {
        (_, Cause::NotPoison) => {}
        (Some(pfn), _) => advice.push(format!(
            "Find the DIMM of physical address {:#x} (EDAC, rasdaemon or the BMC's log) and have it replaced if it is not its first.",
            pfn.saturating_mul(4096)
        )),
        (None, _) => advice.push("Look in the host's kernel log for the page (\"Memory failure: 0x…\"), and for its DIMM.".to_owned()),
    }
    advice
}

/// Evidence that was not to be had, and what it would have settled.
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
        flush.verdict == FlushVerdict::Undetermined && e.exits.any(),
        "the bytes of the instruction at the guest's RIP: whether the access was a CLFLUSH or a load",
    );
    note(
        flush.basis == FlushBasis::LineWalk,
        "the bytes of the instruction that walked the page: CLFLUSH, CLWB and loads with a stride of 64 look the same",
    );
    note(
        e.pfn.is_none(),
        "memory_failure() of this page: it was poisoned before the probes were attached, or is not joined; the pfn is not known",
    );
    match e.other_address {
        Some(OtherAddress::Virtual(_)) => note(
            true,
            "the guest's address and line of each exit: under shadow paging (ept=0, npt=0) KVM gives guest-virtual addresses",
        ),
        Some(OtherAddress::Nested(_)) => note(
            true,
            "the guest's address and line of each exit: a guest that this guest runs itself took them, and KVM gives that guest's addresses",
        ),
        None => note(
            e.gpa.is_none(),
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
    if e.lost > 0 {
        note(
            true,
            &format!(
                "{} records of the probes were lost: counts are at least what is shown",
                e.lost
            ),
        );
    }
    for probe in session.probes.iter().filter(|probe| probe.binding.is_none()) {
        if let Some(lost) = &probe.lost {
            let why = probe.why.as_deref().unwrap_or("no reason is known");
            note(true, &format!("probe {} ({why}): {lost}", probe.name));
        }
    }
    missing
}
