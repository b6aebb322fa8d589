//! Evidence that was absent, in words, and what it would have settled.

use std::borrow::Cow;

use super::probes;
use poisontrace_model::text::counted;
use poisontrace_model::{
    event::AttachDelay,
    incident::{
        missing::{ClockAlignment, ClockKind, ClockNote, MissingEvidence},
        recovered::Recovered,
    },
};

/// One line.
pub fn message(what: &MissingEvidence) -> Cow<'static, str> {
    use MissingEvidence as M;
    match what {
        M::IsVmm { process } => {
            format!("whether {process} is a VMM: the kernel log names the process alone").into()
        }
        M::EarlyTermination { ns } => format!(
            "triple faults, resets and port writes of the guest in the first {:.1} ms, during which it got a machine check or died: their probes are attached when there is poison",
            *ns as f64 / 1e6
        ).into(),
        M::FirstExitTimes { exits, delay } => first_exit_times(exits, delay.as_ref()).into(),
        M::Records { count } => {
            format!(
                "{} of the probes, which were missed: counts are lower bounds",
                counted(*count, "record", "records")
            )
            .into()
        }
        M::Runs { count } => format!(
            "what {} of the probes would have shown, which the kernel skipped because another program was at work on that processor: counts are lower bounds",
            counted(*count, "run", "runs")
        )
        .into(),
        M::Probe(status) => {
            let why = match status.why.as_slice() {
                [] => "reason unknown".to_owned(),
                why => probes::reasons(why),
            };
            format!("probe {} ({why}): {}", status.probe, probes::unavailable_info(status)).into()
        }
        M::Probes => "all probes: the files are logs; a trace or a recording of that time has exits, signals and injections".into(),
        M::TraceEvents { lost: Some(lost) } => {
            format!(
                "{} that the tracer lost: counts are lower bounds",
                counted(*lost, "event", "events")
            )
            .into()
        }
        M::TraceBeginning { events } => format!(
            "the beginning of the trace: {} overwritten in the tracer's ring",
            counted(*events, "earlier event was", "earlier events were")
        ).into(),
        M::PageType { source } => format!(
            "the page's type in its kernel's own terms, if only {source} has it: rasdaemon numbers the types as one kernel did"
        ).into(),
        M::WalkLines { rip, lines } => format!(
            "the exits on lines {} of the page, which the walk by RIP {rip} passed: lost, or their addresses misread",
            ranges(*lines)
        )
        .into(),
        M::WalkAddresses { rip, exits } => format!(
            "the addresses of {} of the walk by RIP {rip}: not recorded, or contradicted by the exits before and after them",
            counted(*exits, "exit", "exits")
        )
        .into(),
        M::Statements { count, source } => format!(
            "{} of {source}: too many to keep",
            counted(*count, "later statement", "later statements")
        )
        .into(),
        M::CutLine { source, line, text } => {
            format!("the rest of line {line} of {source}, which looks cut or wrapped: {text}").into()
        }
        M::CutLines { count, source } => format!("{count} more lines of {source} that look cut or wrapped").into(),
        M::Year { source, date } => {
            format!("the year: the incident began on {date} by {source}, whose dates have none").into()
        }
        M::Clock(note) => clock(note).into(),
        M::GuestConsole => "guest console log (panic message)".into(),
        M::PanicDevice => "pvpanic: the guest has no panic device; the panic is inferred from an unfinished #MC handler".into(),
        M::Cr4 => "CR4 of the vCPU at the access (--read-guest-code reads it): whether machine checks were disabled".into(),
        M::SetMceResult => "the return value of KVM_X86_SET_MCE: whether KVM dropped the machine check or refused it with an error".into(),
        M::Memslots => "the VM's memory slots: that the page was the VMM's own is inferred, as no exit of the guest met it".into(),
        M::SigbusCode => "si_code of the SIGBUS that killed the VMM: BUS_ADRERR is a shortage of huge pages or a truncated memory file".into(),
        M::FailureSignal => "a signal from memory_failure(): that this is the poisoned host page is inferred, as it is the only one that fits".into(),
        M::InstructionBytes => "the bytes of the instruction at the guest's RIP: whether the access was a CLFLUSH or a load".into(),
        M::WalkInstructionBytes => "the bytes of the instruction that walked the page: CLFLUSH, CLWB and loads with a stride of 64 look the same".into(),
        M::EarlierInjections => "machine checks that the VMM injected before the host's first SIGBUS (QEMU: `mce` of its monitor): its calls are traced from then on, so the reason for the flush is unknown".into(),
        M::MemoryFailure => "memory_failure() of this page: it was poisoned before the probes were attached, or is not joined; the pfn is unknown".into(),
        M::EarlierMemoryFailure => "memory_failure() of this page: it was poisoned before the probes were attached; its earlier effects on the guest are unknown".into(),
        M::PrivatePageAddress => "the address of the private page: no page fault of the exit was seen, and KVM sends no signal that names it".into(),
        M::GpaUnderShadowPaging => "guest page address: under shadow paging (ept=0, npt=0) KVM reports guest-virtual addresses, which share only the line with the page".into(),
        M::GpaOfNestedGuest => "guest page address: a nested (L2) guest took the exits, and KVM reports its addresses, which share only the line with the page".into(),
        M::Gpa => "guest page address: no exit and no injection names it".into(),
        M::VmmProcess => "/proc of the VMM: it was gone before its name could be read".into(),
        M::VmName => "the VM's name: neither the VMM's command line nor its cgroup has one".into(),
        M::VmNameInFiles => "the VM's name: none of the files has one".into(),
        M::PoisonExit => "the exit that met the poison: kvm_exit or kvm_page_fault did not show it; its RIP, line and latency are unknown".into(),
        M::LateSvmExit => "the time between the exit and kvm_exit, which this kernel (before 6.6) emits late on SVM: exit to entry, in kernel and bare exit are lower bounds".into(),
        M::InjectedBank => "the machine-check bank as it was injected: whether it still held an earlier error (overflow)".into(),
        M::Ending => "the guest's end, or that it lives: its console, the VMM's log to its end, or a trace".into(),
        M::RecordingEnd => "the end of the recording, and all that came after it".into(),
        M::FileEnd { source } => format!("the end of {source}, and all that came after it").into(),
        M::TraceEvents { .. } => "events that the tracer lost (it does not count them): counts are lower bounds".into(),
        M::TraceClock => "all durations: the trace's clock (counter, x86-tsc) gives an order and no time; trace with `echo mono > trace_clock`".into(),
        M::TraceBesideRecording => "the trace beside the recording is not used: the recording has the same events".into(),
    }
}

/// The set bits as numbers: `0-3, 7`.
fn ranges(bits: u64) -> String {
    let mut ranges = Vec::new();
    let mut rest = bits;
    while rest != 0 {
        let first = rest.trailing_zeros();
        let run = (rest >> first).trailing_ones();
        ranges.push(match run {
            1 => first.to_string(),
            _ => format!("{first}-{}", first + run - 1),
        });
        rest &= u64::MAX.checked_shl(first + run).unwrap_or(0);
    }
    ranges.join(", ")
}

fn clock(note: &ClockNote) -> String {
    let source = &note.source;
    match &note.alignment {
        ClockAlignment::Aligned {
            clock,
            events,
            spread_ns,
        } => {
            let well = match events {
                1 => "by 1 event that both have (its accuracy is unknown)".to_owned(),
                n => format!(
                    "by {n} events that both have, to within {:.1} ms",
                    *spread_ns as f64 / 1e6
                ),
            };
            format!("the clock of {source} ({}) is aligned {well}", clock_name(*clock))
        }
        ClockAlignment::Unaligned => format!(
            "the clock of {source} against the others: it shows no event that another source shows; its lines are in order, at no known offset"
        ),
        ClockAlignment::Untimed => {
            format!("the times of {source}: its lines have none; they are in order, at no known offset")
        }
    }
}

const fn clock_name(clock: ClockKind) -> &'static str {
    match clock {
        ClockKind::Trace => "of the trace",
        ClockKind::HostBoot => "host, since boot",
        ClockKind::HostWall => "host, wall clock",
        ClockKind::HostWallWithoutYear => "host, wall clock without a year",
        ClockKind::GuestBoot => "guest, since boot",
        ClockKind::GuestWall => "guest, wall clock",
    }
}

fn first_exit_times(exits: &Recovered, delay: Option<&AttachDelay>) -> String {
    let attached = match delay {
        Some(delay) => format!(
            "were attached {:.1} ms after the poison, and look at no VM before its first",
            delay.after_ns as f64 / 1e6
        ),
        None => "were not attached, or not armed, yet, or look at no VM before its first poison".to_owned(),
    };
    let error = delay.and_then(|delay| delay.clock_error_ns);
    let bound = error.map_or_else(String::new, |ns| {
        format!(", converted to within {:.1} µs", ns as f64 / 1e3)
    });
    let ends = match delay {
        Some(_) => "; until then an exit lasts until KVM's SIGBUS is delivered",
        None => "",
    };
    format!(
        "the times of {} by kvm_exit and kvm_entry, which {attached}: the begin of {} is KVM's own note (last_guest_tsc{bound}), that of {} is unknown; the entry into the guest behind {} was not seen{ends}",
        counted(exits.exits, "exit", "exits"),
        exits.exits.saturating_sub(exits.undated),
        exits.undated,
        exits.exits.saturating_sub(exits.reentered)
    )
}
