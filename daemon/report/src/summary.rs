//! The answer in one sentence, made of facts that are set alone.

use poisontrace_model::event::NameGuess;
use poisontrace_model::incident::{
    bug_check::BugCheckError,
    findings::Findings,
    limits::PAGE_SIZE,
    missing::MissingEvidence,
    model::{Cause, Incident, OriginKind, Outcome},
};
use poisontrace_model::text::counted;

/// Outcome, cause and reason, one or two sentences.
pub fn summary(i: &Incident) -> String {
    if i.outcome == Outcome::HostPanicked {
        return host(i);
    }
    let guest = guest(i);
    let page = page(i);
    let fate = fate(i);
    let f = &i.findings;
    if i.origin.how == OriginKind::Claimed {
        return claimed(i, &guest, fate);
    }
    if let Some(text) = f
        .log
        .kernel_panic
        .as_ref()
        .filter(|_| i.outcome == Outcome::Unknown)
    {
        return format!(
            "A kernel panicked on a machine check ({text}). The lines do not show whether it is the host's or a guest's, nor which page it met."
        );
    }
    match i.cause {
        Cause::Contained if f.log.handled_by_guest => handled(i, &guest, fate, &page),
        Cause::Contained if f.accessed_by_guest => {
            format!("{guest} {fate}: it accessed {page}, got a machine check, and its kernel handled it.")
        }
        Cause::Contained => format!(
            "{guest} {fate}: the VMM injected a machine check for {page}, the guest's kernel handled it, and no access to the page was seen."
        ),
        Cause::MceOverflow => {
            let bank = f.overflowed_bank.map_or_else(
                || "the same machine-check bank".to_owned(),
                |bank| format!("machine-check bank {bank}"),
            );
            format!(
                "{guest} {fate}: it {} {page} while {bank} still held an earlier error (OVERFLOW), which its kernel cannot recover from.",
                verb(i)
            )
        }
        Cause::KernelAccess => format!(
            "{guest} {fate}: its kernel {} {page}, and a machine check in kernel mode is fatal.",
            verb(i)
        ),
        Cause::Clflush if matches!(i.outcome, Outcome::GuestPanicked | Outcome::GuestReset) => format!(
            "{guest} {fate}: its kernel flushed {page}, and the machine check of that flush was fatal."
        ),
        Cause::Clflush => format!(
            "{guest} {fate}: it flushed {page} line by line ({} of 64), and {}.",
            f.lines,
            uninjected(f)
        ),
        Cause::FatalNotification => format!(
            "{guest} {fate}: the notification of {page} alone was a fatal machine check to it{}.",
            if f.accessed_by_guest {
                ""
            } else {
                "; no access by the guest was seen"
            }
        ),
        Cause::MceNested if f.met_another_page => format!(
            "{guest} {fate}: its handler of the machine check for {page} had not finished (MCG_STATUS.MCIP set) when it accessed another poisoned page; the VMM skipped that injection, and the vCPU faulted again and again."
        ),
        Cause::MceNested if f.injections_skipped => format!(
            "{guest} {fate}: it accessed {page} while its handler of an earlier machine check had not finished, or had returned without handling it (MCG_STATUS.MCIP set); the VMM skipped the new injection, and the vCPU faulted again and again."
        ),
        Cause::MceNested => format!(
            "{guest} {fate}: {} while its handler of an earlier machine check had not finished; a nested machine check is fatal, so {}.",
            access_or_error(f, &page),
            refusal(f)
        ),
        Cause::MceDisabled => format!(
            "{guest} {fate}: {} with machine checks disabled (CR4.MCE = 0), so {}.",
            access_or_error(f, &page),
            refusal(f)
        ),
        Cause::SigbusUnhandled => format!(
            "{guest} {fate} by SIGBUS {}: it has no handler for the signal, or had none for this one.",
            if f.accessed {
                format!("when {page} was accessed")
            } else {
                format!("that announced {page}")
            }
        ),
        Cause::SecondSigbus => {
            format!("{guest} {fate} by a second SIGBUS ({page}) to a thread that had not handled the first.")
        }
        Cause::VmmOwnMemory if f.log.qmp_ignored && i.outcome == Outcome::Running => format!(
            "{guest} {fate}: its VMM ignored an error in its memory, which it does not report to the guest: the memory is the VMM's own, or that of a guest without software error recovery."
        ),
        Cause::VmmOwnMemory if f.log.own_ignored && i.outcome == Outcome::Running => format!(
            "{guest} {fate}: memory of its VMM itself is poisoned{}, and the VMM went on: it has not accessed the page, and the guest does not have it.",
            i.page.hva.map(|hva| format!(" (hva {hva})")).unwrap_or_default()
        ),
        Cause::VmmOwnMemory if f.log.own_access && i.outcome == Outcome::Unknown => format!(
            "{guest} may be gone: its VMM itself accessed poisoned memory{} and got SIGBUS for it; outcome unknown.",
            i.page.hva.map(|hva| format!(" (hva {hva})")).unwrap_or_default()
        ),
        Cause::VmmOwnMemory => {
            format!("{guest} {fate}: the VMM itself accessed {page}; no access by the guest was seen.")
        }
        Cause::MceDropped => format!(
            "{guest} {fate}: it accessed {page}; the VMM injected a machine check (KVM_X86_SET_MCE), which never entered the guest."
        ),
        Cause::GuestMemfd => format!(
            "{guest} {}: it accessed poisoned private memory (guest_memfd), and KVM_RUN returned EHWPOISON.",
            if i.outcome == Outcome::Unknown {
                "cannot go on"
            } else {
                fate
            }
        ),
        Cause::InitKilled => {
            format!("{guest} {fate}: SIGBUS for {page} killed its init, and Linux panics when init dies.")
        }
        Cause::SigbusSpin => format!(
            "{guest} {fate}: it accessed one line of {page} again and again, and {} ({}).",
            uninjected(f),
            counted(f.exits, "exit", "exits")
        ),
        Cause::UnmapFailed if i.outcome == Outcome::Running => format!(
            "{guest} {fate} and is at risk: it accessed {page}, which the host's kernel could not take out of use; the next access meets the error again."
        ),
        Cause::UnmapFailed => format!(
            "{guest} {fate}{}: it accessed {page}, which the host's kernel could not take out of use, so it killed the VMM without a SIGBUS that the VMM could have passed on.",
            killed_by(f, i.outcome)
        ),
        Cause::NotTouched if f.preexisting => format!(
            "{guest} {fate} and is at risk: {page} was poisoned before poisontrace started, and no access to it has been seen since."
        ),
        Cause::NotTouched => format!("{guest} {fate}: it has {page}, and no access to it was seen."),
        Cause::NotPoison if f.log.bug_check.is_some() => {
            bug_check(i, &guest, fate, f.log.bug_check.unwrap_or(0))
        }
        Cause::NotPoison if f.log.out_of_memory && i.outcome == Outcome::VmmKilled => {
            format!(
                "{guest} ended: the host's kernel killed its VMM for lack of memory (OOM), not because of {page}."
            )
        }
        Cause::NotPoison if f.log.software_machine_check => {
            format!(
                "{guest} {fate} on a machine check that software in its own kernel injected (mce-inject): no memory was lost."
            )
        }
        Cause::NotPoison if f.log.other_panic.is_some() || !has_page(i) => of_no_page(i, &guest, fate),
        Cause::NotPoison => format!(
            "{guest} {fate}{}, but not because of {page}: {}.",
            killed_by(f, i.outcome),
            why_not(f)
        ),
        Cause::Unknown => unknown(i, &guest, fate, &page),
    }
}

/// The host has lost no memory: what shows poison is the process's own.
fn claimed(i: &Incident, guest: &str, fate: &str) -> String {
    let shown = if i.exits.count.is_some_and(|count| count > 0) {
        "its vCPUs met a page that is marked as poisoned"
    } else {
        "its VMM got a SIGBUS for poison"
    };
    format!(
        "{guest} {fate}: {shown}, but this host's kernel has lost no memory (no memory_failure()). The mark is userfaultfd's (as after a live migration) or a failed read of swap, or the VMM sent itself the signal."
    )
}

/// The guest as a sentence names it.
fn guest(i: &Incident) -> String {
    let pid = i.vm.pid;
    match (&i.vm.name, &i.vm.vmm, pid) {
        (Some(name), ..) => match i.vm.name_guess {
            Some(guess) => format!("Guest {name} ({})", name_guess(guess)),
            None => format!("Guest {name}"),
        },
        (None, Some(vmm), Some(pid)) => format!("The guest of {vmm} (pid {pid})"),
        (None, Some(vmm), None) => format!("The guest of {vmm}"),
        (None, None, Some(pid)) => format!("The guest of pid {pid}"),
        (None, None, None) => "The guest".to_owned(),
    }
}

/// Why a name is a guess.
pub fn name_guess(guess: NameGuess) -> &'static str {
    match guess {
        NameGuess::Clock => "a guess by clocks alone",
        NameGuess::BarePid => "a guess by pid: nothing names its host",
        NameGuess::AgedList => "by a process list of unknown age",
    }
}

fn page(i: &Incident) -> String {
    let size = match i.page.size_bytes {
        Some(size) if size >= 1 << 30 => "1 GiB ",
        Some(size) if size > PAGE_SIZE => "2 MiB ",
        _ => "",
    };
    match (i.page.gpa, i.page.pfn) {
        (Some(gpa), Some(pfn)) => format!("poisoned {size}page {gpa} (host pfn {pfn})"),
        (Some(gpa), None) => format!("poisoned {size}page {gpa}"),
        (None, Some(pfn)) => format!("poisoned {size}host page (pfn {pfn})"),
        (None, None) => format!("a poisoned {size}page"),
    }
}

fn fate(i: &Incident) -> &'static str {
    match i.outcome {
        Outcome::GuestPanicked => "panicked",
        Outcome::HostPanicked => "ended with its host, whose kernel panicked",
        Outcome::GuestReset => "was reset",
        Outcome::VmmKilled => "ended: its VMM was killed",
        Outcome::VmmExited => "ended: its VMM exited",
        Outcome::Survived => "survived",
        Outcome::Running if ends_early(i) => "was running when the files end, which are cut off",
        Outcome::Running => "is running",
        Outcome::Unaffected => "was not affected",
        Outcome::Unknown if i.origin.how == OriginKind::Claimed => "may be gone",
        Outcome::Unknown if i.findings.accessed => "accessed poisoned memory; outcome unknown",
        Outcome::Unknown => "has poisoned memory; outcome unknown",
    }
}

/// What came after the part that can be read is not known.
fn ends_early(i: &Incident) -> bool {
    let ends = |missing: &MissingEvidence| {
        matches!(
            missing,
            MissingEvidence::RecordingEnd | MissingEvidence::FileEnd { .. }
        )
    };
    i.missing.iter().any(ends)
}

/// How the guest accessed the page, where all its exits agree.
fn verb(i: &Incident) -> &'static str {
    let x = &i.exits;
    match (x.count, &x.by_access) {
        (Some(n), by) if n > 0 && by.read == Some(n) => "read",
        (Some(n), by) if n > 0 && by.write == Some(n) => "wrote to",
        (Some(n), by) if n > 0 && by.fetch == Some(n) => "executed",
        _ => "accessed",
    }
}

/// A trace that others recorded may lack the events of an injection.
const fn uninjected(f: &Findings) -> &'static str {
    if f.injection_visible {
        "no machine check was injected"
    } else {
        "no recorded event shows an injection"
    }
}

/// An access that nobody saw is not stated: an error that was found but not consumed is refused alike.
fn access_or_error(f: &Findings, page: &str) -> String {
    match f.accessed {
        true => format!("it accessed {page}"),
        false => format!("a machine check for {page} came"),
    }
}

const fn refusal(f: &Findings) -> &'static str {
    if f.shut_down_by_kvm {
        "KVM shut the vCPU down"
    } else {
        "the VMM reset it instead of injecting one"
    }
}

/// The signal that ended the VMM, where the outcome does not name it.
fn killed_by(f: &Findings, outcome: Outcome) -> String {
    match (outcome, f.killed_by_signal) {
        (Outcome::VmmKilled, Some(7)) => " by a SIGBUS for other memory".to_owned(),
        (Outcome::VmmKilled, Some(signal)) => format!(" by signal {signal}"),
        _ => String::new(),
    }
}

const fn why_not(f: &Findings) -> &'static str {
    if f.handled {
        "the guest had handled its machine check"
    } else if f.accessed {
        "the VMM had survived that access"
    } else {
        "no access to it was seen"
    }
}

fn unknown(i: &Incident, guest: &str, fate: &str, page: &str) -> String {
    let f = &i.findings;
    if let Some(ns) = f.died_after_handling_ns {
        return format!(
            "{guest} {fate} {:.1} s after its kernel had handled the machine check for {page}; whether the lost data killed it is unknown.",
            ns as f64 / 1e9
        );
    }
    if i.outcome == Outcome::Unknown && f.handler_open {
        return format!(
            "{guest} got a machine check for {page}, and its handler has not finished: it panicked, or hangs in the handler."
        );
    }
    if let Some(code) = f.log.bug_check {
        return bug_check(i, guest, fate, code);
    }
    if f.log.died_by_sigbus && !has_page(i) && matches!(i.outcome, Outcome::VmmKilled | Outcome::VmmExited) {
        return format!(
            "{guest} {fate} by SIGBUS. Nothing here shows why: poisoned memory is one reason; a shortage of huge pages and a truncated memory file are others."
        );
    }
    if i.outcome == Outcome::Survived {
        return match (&f.log.shutdown, &f.log.other_panic) {
            (_, Some(panic)) => {
                format!("{guest} {fate} with {page}; it panicked later for another reason: {panic}.")
            }
            (_, None) if f.log.out_of_memory => {
                format!(
                    "{guest} {fate} with {page}: it ran on until its VMM was killed for lack of memory (OOM)."
                )
            }
            (Some(reason), None) if reason == "migrated" => {
                format!("{guest} {fate} with {page}: it ran on until it was migrated.")
            }
            (Some(reason), None) => {
                format!("{guest} {fate} with {page}: it ran on until it was shut down ({reason}).")
            }
            (None, None) => format!("{guest} {fate} with {page}."),
        };
    }
    if i.outcome == Outcome::Unknown {
        return match (f.accessed, has_page(i)) {
            (true, _) => format!("{guest} accessed {page}; outcome unknown."),
            (false, true) => format!("{guest} has {page}; outcome unknown."),
            (false, false) => format!("{guest} got a memory error; outcome unknown."),
        };
    }
    if f.signals_alone > 0 {
        return format!(
            "{guest} {fate}: its VMM got {} SIGBUS (action required) for accesses to {page}; nothing shows why the page is poisoned.",
            f.signals_alone
        );
    }
    format!("{guest} {fate}; it has {page}, and the evidence does not show why: see what is missing.")
}

/// A Windows guest stopped, in its own words.
fn bug_check(i: &Incident, guest: &str, fate: &str, code: u64) -> String {
    let log = &i.findings.log;
    let shown = match log.bug_check_error {
        Some(BugCheckError::MachineCheck { status: Some(status) }) => {
            format!(" (a machine check, MCi_STATUS {status:#x})")
        }
        Some(BugCheckError::MachineCheck { status: None }) => " (a machine check)".to_owned(),
        Some(BugCheckError::OtherHardware) => " (a hardware error that is no machine check)".to_owned(),
        None => String::new(),
    };
    match log.injected_any {
        true => format!(
            "{guest} {fate} with Windows bug check {code:#x}{shown} after a machine check was injected; the evidence does not show whether the poison caused it."
        ),
        false => format!(
            "{guest} {fate} with Windows bug check {code:#x}{shown}; the lines show neither a page nor an injection."
        ),
    }
}

fn has_page(i: &Incident) -> bool {
    i.page.gpa.is_some() || i.page.pfn.is_some() || i.page.hva.is_some()
}

/// The guest's kernel handled the page, by its own log.
fn handled(i: &Incident, guest: &str, fate: &str, page: &str) -> String {
    let log = &i.findings.log;
    let later = log
        .other_panic
        .as_ref()
        .map(|panic| format!(" It panicked later for another reason: {panic}."))
        .unwrap_or_default();
    match &log.guest_process {
        Some((comm, pid)) if log.user_access => format!(
            "{guest} {fate}: its process {comm} (pid {pid}) accessed {page} and was killed by its kernel.{later}"
        ),
        Some((comm, pid)) => {
            format!("{guest} {fate}: its kernel handled {page} and sent SIGBUS to {comm} (pid {pid}).{later}")
        }
        None => format!("{guest} {fate}: its kernel handled {page}.{later}"),
    }
}

/// A fatal machine check that is of no page, or a death for another reason.
fn of_no_page(i: &Incident, guest: &str, fate: &str) -> String {
    let log = &i.findings.log;
    match (&log.other_panic, &log.reason) {
        (Some(panic), _) => format!("{guest} {fate} for another reason: {panic}."),
        (None, Some(reason)) => format!("{guest} {fate} on a machine check without poison: {reason}."),
        (None, None) => format!("{guest} {fate} on a machine check without poison."),
    }
}

/// The physical machine died.
fn host(i: &Incident) -> String {
    let log = &i.findings.log;
    let on = match &log.on_cpu {
        Some((comm, pid)) if *pid > 0 => format!(" while {comm} (pid {pid}) ran on that processor"),
        _ => String::new(),
    };
    let reason = log
        .reason
        .as_ref()
        .map(|reason| format!(" ({reason})"))
        .unwrap_or_default();
    if log.software_machine_check {
        return format!(
            "The host panicked, with every guest on it: software of its own kernel injected a machine check (mce-inject), and no memory was lost{reason}{on}."
        );
    }
    if log.host_cut_off {
        let page = i
            .page
            .pfn
            .map(|pfn| format!(" for host page pfn {pfn}"))
            .unwrap_or_default();
        return format!(
            "The host probably panicked, with every guest on it: its log ends with a machine check{page}{reason}{on}, and its next boot follows."
        );
    }
    if log.fatal_by_firmware {
        return format!(
            "The host panicked, with every guest on it: its firmware reported a fatal error of memory{reason}{on}."
        );
    }
    match (i.cause, i.page.pfn) {
        (Cause::NotPoison, _) | (_, None) => format!(
            "The host panicked, with every guest on it: a machine check of its processor was fatal{reason}{on}."
        ),
        (_, Some(pfn)) => format!(
            "The host panicked, with every guest on it: a machine check for host page pfn {pfn} was fatal{reason}{on}."
        ),
    }
}
