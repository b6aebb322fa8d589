//! Events of an incident in words.

use poisontrace_model::text::counted;
use poisontrace_model::{
    event::{Access, HostMce, McContext, OtherAddress, SigbusSeverity, totals::EHWPOISON},
    incident::{
        mca,
        model::Severity,
        termination::Termination,
        timeline::{Exit, Injection, Signal, TerminationEntry, TimelineEvent},
    },
};

use crate::{log_statements, mca_fields, offset};

/// The event as a line.
pub fn message(event: &TimelineEvent) -> String {
    match event {
        TimelineEvent::FailureBegin {
            pfn,
            flags: Some(flags),
        } => format!("memory_failure(pfn {pfn}, flags {flags:#x}) on the host"),
        TimelineEvent::FailureBegin { pfn, flags: None } => {
            format!("memory_failure of pfn {pfn} on the host")
        }
        TimelineEvent::Preexisting { pfn, pid, hva } => format!(
            "poisontrace finds pfn {pfn} poisoned (/proc/kpageflags) at hva {hva} of the VMM (pid {pid}): poisoned before it started"
        ),
        TimelineEvent::FailureAgain { pfn } => format!("memory_failure is called for pfn {pfn} again"),
        TimelineEvent::FailureAction { page_type, result } => {
            format!("host kernel: recovery action for {page_type}: {result}")
        }
        TimelineEvent::FailureEnd { ret } => format!("memory_failure returned {ret}"),
        TimelineEvent::Signal(signal) => sigbus(signal),
        TimelineEvent::Exit(exit) => poison_exit(exit),
        TimelineEvent::Injection(injection) => injected(injection),
        TimelineEvent::MsrsUnread { truncated: true } => {
            "VMM set a list of MSRs that is longer than the probe reads".to_owned()
        }
        TimelineEvent::MsrsUnread { truncated: false } => {
            "VMM set a list of MSRs that could not be read".to_owned()
        }
        TimelineEvent::GuestCode { rip, bytes } => format!(
            "poisontrace reads {} bytes of the guest's code at RIP {rip}: {bytes}",
            bytes.len() / 2
        ),
        TimelineEvent::McDelivered { vcpu } => format!("#MC enters the guest on {}", on(*vcpu)),
        TimelineEvent::McExit { vcpu, rip } => {
            let at = rip.map(|rip| format!(" at RIP {rip}")).unwrap_or_default();
            format!(
                "{} left its guest by #MC{at}: the guest consumed the error",
                on(*vcpu)
            )
        }
        TimelineEvent::HostMce(mce) => host_mce(mce),
        TimelineEvent::Dimm { label } => format!("EDAC reports an error of memory module {label}"),
        TimelineEvent::HandlerFinished { vcpu } => {
            format!("guest's #MC handler on {} finished (MCG_STATUS = 0)", on(*vcpu))
        }
        TimelineEvent::Termination(entry) => termination(entry),
        TimelineEvent::Statement(statement) => log_statements::message(&statement.statement),
        TimelineEvent::RecordsMissed { records } => {
            format!(
                "{} missed here",
                counted(*records, "record of the probes was", "records of the probes were")
            )
        }
        TimelineEvent::Restarted { known_ns, counted } => restarted(*known_ns, *counted),
        TimelineEvent::Omitted { entries } => format!(
            "({} not kept)",
            counted(
                *entries,
                "entry before this one is",
                "entries before this one are"
            )
        ),
        TimelineEvent::Text { text } => text.to_string(),
    }
}

/// The file of a log line, with its own time where its clock is not aligned.
pub fn source(event: &TimelineEvent) -> Option<String> {
    let TimelineEvent::Statement(statement) = event else {
        return None;
    };
    Some(match statement.own_clock.as_deref() {
        None | Some("") => statement.source.clone(),
        Some(clock) => format!("{} {clock}", statement.source),
    })
}

fn host_mce(mce: &HostMce) -> String {
    let cpu = mce.cpu.map_or_else(String::new, |cpu| format!("CPU {cpu}, "));
    let bank = mce
        .bank
        .map_or_else(|| "firmware".to_owned(), |bank| format!("bank {bank}"));
    let code = mca_fields::status(mce.status.0)
        .pop()
        .map(|code| format!(" ({})", code.meaning))
        .unwrap_or_default();
    let context = match mce.context {
        McContext::Guest => "; a guest ran",
        McContext::User => "; a process of the host ran",
        McContext::Kernel => "; the host's kernel ran",
        McContext::None => "",
    };
    let go_on = match (mce.context, mce.mcg_status.0 & 3) {
        (McContext::None, _) => "",
        (_, 0) => " (RIPV 0, EIPV 0)",
        (_, 1) => " (RIPV 1, EIPV 0)",
        (_, 2) => " (RIPV 0, EIPV 1)",
        _ => " (RIPV 1, EIPV 1)",
    };
    format!(
        "host's processor: {cpu}{bank} STATUS {} ADDR {} MISC {}{code}{context}{go_on}",
        mce.status, mce.addr, mce.misc
    )
}

fn on(vcpu: Option<u32>) -> String {
    vcpu.map_or_else(|| "a vCPU".to_owned(), |vcpu| format!("vCPU {vcpu}"))
}

fn sigbus(signal: &Signal) -> String {
    let kind = match signal.severity {
        SigbusSeverity::ActionOptional => "BUS_MCEERR_AO",
        SigbusSeverity::ActionRequired => "BUS_MCEERR_AR",
    };
    let vcpu = signal
        .vcpu
        .map(|vcpu| format!(", vCPU {vcpu}"))
        .unwrap_or_default();
    let hva = signal.hva.map(|hva| format!(", hva {hva}")).unwrap_or_default();
    format!(
        "SIGBUS {kind} to the VMM (pid {}, thread {}{vcpu}){hva}",
        signal.pid, signal.tid
    )
}

fn poison_exit(exit: &Exit) -> String {
    let access = match exit.access {
        Access::Read => "read",
        Access::Write => "write",
        Access::Fetch => "instruction fetch",
        Access::PageWalk => "page-table walk",
        Access::WriteOrPageWalk => "write or page-table walk",
        Access::Unknown => "access",
    };
    let address = match (exit.gpa, exit.other_address) {
        (Some(gpa), _) => format!("GPA {gpa}"),
        (None, Some(OtherAddress::Virtual(at))) => format!("guest-virtual address {at}"),
        (None, Some(OtherAddress::Nested(at))) => format!("address {at} of a nested (L2) guest"),
        (None, None) => "an unknown GPA".to_owned(),
    };
    let rip = exit.rip.map(|rip| format!(" by RIP {rip}")).unwrap_or_default();
    let gup = match (exit.gup_ret, exit.gup_ns) {
        (Some(EHWPOISON), Some(ns)) => format!("; get_user_pages returned -EHWPOISON after {ns} ns"),
        (Some(ret), Some(ns)) => format!("; get_user_pages returned {ret} after {ns} ns"),
        _ => String::new(),
    };
    format!(
        "VM exit of {} on the poisoned page: {access} of {address}{rip}{gup}",
        on(exit.vcpu)
    )
}

fn injected(injection: &Injection) -> String {
    let severity = match injection.severity {
        Severity::Ao => "action optional",
        Severity::Ar => "action required",
        Severity::Broadcast => "broadcast",
        Severity::Other => "other",
    };
    let bank = &injection.bank;
    let mc = if mca::raises_mc(bank.status.0) {
        "with #MC"
    } else {
        "without #MC"
    };
    format!(
        "VMM injects a machine check into {}: {severity}, {mc}; bank {} STATUS {} ({}) ADDR {} MISC {}",
        on(injection.vcpu),
        bank.bank,
        bank.status,
        mca_fields::status_names(bank.status.0),
        bank.addr,
        bank.misc
    )
}

fn termination(entry: &TerminationEntry) -> String {
    let sign = sign(&entry.sign, entry.vcpu);
    if entry.other_page {
        format!("{sign} (because of another poisoned page)")
    } else if entry.late {
        format!("{sign} (too long after the last poison event to be attributed to it)")
    } else {
        sign
    }
}

fn sign(sign: &Termination, vcpu: Option<u32>) -> String {
    match sign {
        Termination::Panic => "guest kernel reports a panic (pvpanic)".into(),
        Termination::CrashLoaded => "guest kernel panicked, its crash kernel starts (pvpanic)".into(),
        Termination::ResetPort(port) => format!("guest requests a reset (port {port:#x})"),
        Termination::PowerOff => "guest powers off".into(),
        Termination::TripleFault => format!("triple fault on {}", on(vcpu)),
        Termination::KvmShutdown => "KVM_EXIT_SHUTDOWN to the VMM".into(),
        Termination::SystemEvent => "KVM_EXIT_SYSTEM_EVENT to the VMM".into(),
        Termination::InternalError => "KVM cannot run the vCPU (internal error or failed entry)".into(),
        Termination::PrivateMemory => "KVM_EXIT_MEMORY_FAULT to the VMM, errno EHWPOISON".into(),
        Termination::VcpuReset => format!("{} restarts at the reset vector", on(vcpu)),
        Termination::VmmExit(status) => format!("VMM exits: {}", wait_status(*status)),
        Termination::VmmGone => "the VMM's vCPU threads have exited".into(),
        Termination::VmDestroyed => "VM is destroyed".into(),
    }
}

/// A wait status in words.
fn wait_status(status: i32) -> String {
    match (status & 0x7f, (status >> 8) & 0xff) {
        (0, code) => format!("exit status {code}"),
        (signal, _) => format!("killed by signal {signal}"),
    }
}

fn restarted(known_ns: Option<u64>, counted: bool) -> String {
    let what = match counted {
        true => "its probes stayed attached and counted on",
        false => "its probes were detached, and events since then were not seen",
    };
    match known_ns {
        Some(ns) => {
            let known = offset(i64::try_from(ns).unwrap_or(i64::MAX));
            format!("poisontrace restarts; its record of this incident ends at {known}: {what}")
        }
        None => format!("poisontrace restarts: {what}"),
    }
}
