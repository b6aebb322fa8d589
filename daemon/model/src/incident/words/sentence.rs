//! The answer in one sentence.

use crate::incident::{
    evidence::{End, Evidence, PAGE_SIZE, Sign},
    exits::Total,
    model::{Cause, Outcome, Severity},
    storm::SPIN_EXITS,
    verdict::{Sight, Verdict},
};

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
    let size = match e.size() {
        Some(size) if size >= 1 << 30 => "1 GiB ",
        Some(size) if size > PAGE_SIZE => "2 MiB ",
        _ => "",
    };
    match (e.gpa, e.pfn) {
        (Some(gpa), Some(pfn)) => format!("{size}guest page {gpa:#x} (host pfn {pfn:#x})"),
        (Some(gpa), None) => format!("{size}guest page {gpa:#x}"),
        (None, Some(pfn)) if size.is_empty() => format!("host pfn {pfn:#x}"),
        (None, Some(pfn)) => format!("the {size}host page of pfn {pfn:#x}"),
        (None, None) => "a page".to_owned(),
    }
}

fn fate(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::GuestPanicked => "panicked",
        Outcome::GuestReset => "was reset",
        Outcome::VmmKilled => "is gone: its VMM was killed",
        Outcome::VmmExited => "is gone: its VMM exited",
        Outcome::Survived => "survived",
        Outcome::Running => "is running",
        Outcome::Unaffected => "was not affected",
        Outcome::Unknown => "met poison, and what became of it is not known",
    }
}

/// The answer in one sentence.
pub fn sentence(e: &Evidence, total: &Total, v: Verdict, sight: Sight) -> String {
    let guest = guest(e);
    let page = page(e);
    let fate = fate(v.outcome);
    match v.cause {
        Cause::Contained if e.met_by_guest() => format!(
            "{guest} {fate}: the memory of {page} was lost on the host, the guest was told by a machine check and its kernel handled it to the end."
        ),
        Cause::Contained => format!(
            "{guest} {fate}: the memory of {page} was lost on the host, the guest was told in advance by a machine check, its kernel handled it to the end, and nothing has touched the page."
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
        Cause::Clflush if matches!(v.outcome, Outcome::GuestPanicked | Outcome::GuestReset) => format!(
            "{guest} {fate}: its kernel flushed {page}, whose memory the host had lost, and the machine check that came of the flush was fatal."
        ),
        Cause::Clflush => format!(
            "{guest} {fate}: it flushed {page}, whose memory the host had lost, line by line ({} of 64), and {}.",
            total.distinct_lines(),
            untold(sight)
        ),
        Cause::FatalNotification => format!(
            "{guest} {fate}: the notice alone that the host had lost {page} was a fatal machine check to it{}.",
            if e.met_by_guest() {
                ""
            } else {
                "; nothing in the guest had touched the page"
            }
        ),
        Cause::MceNested if e.is_passed_over() && e.delivered > 0 && total.page.exits < SPIN_EXITS => {
            format!(
                "{guest} {fate}: it was told by a machine check that the host had lost {page}, and met another lost page before its handler had finished (MCG_STATUS.MCIP set); the VMM let that error pass, and the vCPU met it again and again."
            )
        }
        Cause::MceNested if e.is_passed_over() => format!(
            "{guest} {fate}: it touched {page}, whose memory the host had lost, while its handler of an earlier machine check had not finished or had returned without having handled it (MCG_STATUS.MCIP set); the VMM let the new error pass, and the vCPU met it again and again."
        ),
        Cause::MceNested => format!(
            "{guest} {fate}: it touched {page}, whose memory the host had lost, while its handler of an earlier machine check had not finished; a second one is not survivable, so {}.",
            refuser(e)
        ),
        Cause::MceDisabled => format!(
            "{guest} {fate}: it touched {page}, whose memory the host had lost, with machine checks turned off (CR4.MCE = 0), so {}.",
            refuser(e)
        ),
        Cause::SigbusUnhandled => format!(
            "{guest} {fate} by SIGBUS {}: this VMM does not pass memory errors on to its guest.",
            touched(e, &page)
        ),
        Cause::SecondSigbus => format!(
            "{guest} {fate} by a second SIGBUS for lost memory ({page}) that came to the same thread while it was still dealing with the first."
        ),
        Cause::VmmOwnMemory => format!(
            "{guest} {fate}: the VMM itself touched {page}, whose memory the host had lost; the guest did not."
        ),
        Cause::MceDropped => format!(
            "{guest} {fate}: it touched {page}, whose memory the host had lost; the VMM injected a machine check (KVM_X86_SET_MCE), and none ever entered the guest."
        ),
        Cause::GuestMemfd => format!(
            "{guest} {}: it touched private memory (guest_memfd) that the host had lost, and KVM_RUN returned EHWPOISON.",
            if v.outcome == Outcome::Unknown {
                "cannot go on"
            } else {
                fate
            }
        ),
        Cause::SigbusSpin => format!(
            "{guest} {fate}: it touched one line of {page}, whose memory the host had lost, again and again, and {} ({} exits).",
            untold(sight),
            total.page.exits
        ),
        Cause::NotTouched if e.predates => format!(
            "{guest} {fate} and is at risk: the host had lost the memory of {page} before poisontrace started, and nothing in the guest has touched it since."
        ),
        Cause::NotTouched => format!(
            "{guest} {fate}: the host lost the memory of {page}, and nothing in the guest has touched it."
        ),
        Cause::NotPoison => format!(
            "{guest} {fate}{}, but not by the lost memory of {page}: {}.",
            by_what(e, v.outcome),
            why_not(e)
        ),
        Cause::Unknown => unknown(e, &guest, fate, &page, v.outcome),
    }
}

fn touched(e: &Evidence, page: &str) -> String {
    if e.met() {
        format!("when {page} was touched, whose memory the host had lost")
    } else {
        format!("that told it that the host had lost {page}")
    }
}

/// A trace of others may not record what the guest is told.
fn untold(sight: Sight) -> &'static str {
    if sight.delivery || sight.telling {
        "was never told"
    } else {
        "nothing that was recorded shows that it was told"
    }
}

fn refuser(e: &Evidence) -> &'static str {
    if e.sign(|sign| *sign == Sign::KvmShutdown).is_some() {
        "KVM shut the vCPU down"
    } else {
        "the VMM reset it instead of telling it"
    }
}

/// What ended the VMM, where that needs to be said.
fn by_what(e: &Evidence, outcome: Outcome) -> String {
    let status = e.ends.iter().find_map(|end| match end.sign {
        Sign::VmmExit(status) => Some(status & 0x7f),
        _ => None,
    });
    match (outcome, status) {
        (Outcome::VmmKilled, Some(7)) => " by a SIGBUS that was not of lost memory".to_owned(),
        (Outcome::VmmKilled, Some(signal)) => format!(" by signal {signal}"),
        _ => String::new(),
    }
}

fn why_not(e: &Evidence) -> &'static str {
    if e.finished > 0 {
        "the guest had been told of that and had handled it to the end"
    } else if e.met() {
        "the VMM had outlived that"
    } else {
        "nothing had touched it"
    }
}

/// Says as much as is known.
fn unknown(e: &Evidence, guest: &str, fate: &str, page: &str, outcome: Outcome) -> String {
    let died = |end: &&End| matches!(end.sign, Sign::Panic | Sign::CrashLoaded) && end.mine && !end.late;
    if let (Some(end), Some(finished)) = (e.ends.iter().find(died), e.last_finished)
        && outcome == Outcome::GuestPanicked
        && !end.mc_open
    {
        return format!(
            "{guest} {fate} {:.1} s after its kernel had handled the machine check for {page}, whose memory the host had lost; whether it died of what it lost there is not known.",
            end.t.saturating_sub(finished) as f64 / 1e9
        );
    }
    if outcome == Outcome::Unknown && !e.open_mc.is_empty() {
        return format!(
            "{guest} was told by a machine check that the host had lost {page}, and its handler has not finished: it panicked, or hangs in it."
        );
    }
    format!(
        "{guest} {fate}; the host had lost the memory of {page}. What was seen does not say why: see what is missing."
    )
}

fn overflowed_bank(e: &Evidence) -> Option<u32> {
    e.told
        .iter()
        .rfind(|told| told.severity == Severity::Ar && told.overflow())
        .map(|told| told.bank.bank)
        .or_else(|| e.logged.overflowed_bank())
}
