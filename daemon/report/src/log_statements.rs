//! Statements of logs in words.

use poisontrace_model::{
    event::{
        SigbusSeverity,
        log_statement::{Ended, LogStatement, Machine, MceReport},
    },
    hex::Hex,
    text::sanitise,
};

/// A value with its name, where it is known.
fn named(name: &str, value: Option<Hex>) -> String {
    value.map(|value| format!("{name}{value}")).unwrap_or_default()
}

fn hex(value: &Option<Hex>) -> String {
    value.map_or_else(|| "?".to_owned(), |value| value.to_string())
}

/// The statement as a line.
pub fn message(statement: &LogStatement) -> String {
    match statement {
        LogStatement::HostSignal { pfn, comm, pid } => {
            format!("host kernel: pfn {pfn}: SIGBUS to {comm} (pid {pid})")
        }
        LogStatement::HostAction {
            pfn,
            page_type,
            result,
        } => {
            format!("host kernel: pfn {pfn}: recovery action for {page_type}: {result}")
        }
        LogStatement::HostKilled { pfn, comm, pid } => {
            format!("host kernel: pfn {pfn}: SIGKILL to {comm} (pid {pid}): the page could not be unmapped")
        }
        LogStatement::ProcessEnded { who, pid, how, .. } => {
            let pid = pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default();
            match how {
                Ended::Signal(signal) => format!("{who}{pid} was killed by signal {signal}"),
                Ended::Exit(status) => format!("{who}{pid} ended with status {status}"),
                Ended::OutOfMemory => format!("host kernel: {who}{pid} was killed for lack of memory"),
            }
        }
        LogStatement::VmmReset { recursive: true } => {
            "VMM resets its guest: a machine check arrived while another was in progress".to_owned()
        }
        LogStatement::VmmReset { recursive: false } => {
            "VMM resets its guest: a machine check arrived while they were disabled".to_owned()
        }
        LogStatement::RunFailed => "VMM: KVM_RUN failed on poisoned memory (EHWPOISON)".to_owned(),
        LogStatement::OwnAccess { comm, pid, hva } => {
            format!("host kernel: {comm} (pid {pid}) itself accessed poisoned memory at {hva}")
        }
        LogStatement::VmmInjected {
            hva, gpa, severity, ..
        } => {
            let kind = match severity {
                Some(SigbusSeverity::ActionRequired) => "action required",
                Some(SigbusSeverity::ActionOptional) => "action optional",
                None => "a memory error",
            };
            format!(
                "VMM logs an injection: {kind}{}{}",
                named(", gpa ", *gpa),
                named(", hva ", *hva)
            )
        }
        LogStatement::VmmOwnMemory { fatal: true, .. } => {
            "VMM exits: poisoned memory that it cannot report to its guest".to_owned()
        }
        LogStatement::VmmOwnMemory { fatal: false, .. } => {
            "memory of the VMM itself is poisoned, and it has not accessed it".to_owned()
        }
        LogStatement::VmmSigbus { .. } => "VMM exits because of SIGBUS".to_owned(),
        LogStatement::VmName { name, uuid, .. } => format!(
            "VM {} (uuid {})",
            sanitise(name.as_deref().unwrap_or("?"), 64),
            sanitise(uuid.as_deref().unwrap_or("?"), 64)
        ),
        LogStatement::HostMce(mce) | LogStatement::GuestMce(mce) if mce.user_access => {
            let kernel = match statement {
                LogStatement::HostMce(_) => "host kernel",
                _ => "guest kernel",
            };
            format!("{kernel}: a process accessed the page at {}", hex(&mce.addr))
        }
        LogStatement::HostMce(mce) => format!("host: {}", machine_check(mce)),
        LogStatement::HostPanic { text, .. } => format!("host: panic: {text}"),
        LogStatement::KernelPanic { text } => format!("a kernel, the host's or a guest's: panic: {text}"),
        LogStatement::SoftwarePoison { pfn, guest } => format!(
            "{} kernel: software poisons page {pfn}",
            if *guest { "guest" } else { "host" }
        ),
        LogStatement::SoftwareMachineCheck { cpu } => {
            format!("kernel: its own software injects a machine check on CPU {cpu}")
        }
        LogStatement::Machine { about } => machine(about),
        LogStatement::OnCpu { comm, pid } => format!("running on that processor: {comm} (pid {pid})"),
        LogStatement::VmStarted { .. } => "libvirt: the domain is started".to_owned(),
        LogStatement::Other => "no evidence".to_owned(),
        LogStatement::MemoryError {
            pfn, dimm, corrected, ..
        } => format!(
            "host: {} memory error{}{}",
            if *corrected { "corrected" } else { "uncorrected" },
            named(", pfn ", *pfn),
            dimm.as_deref()
                .map(|dimm| format!(", DIMM {dimm}"))
                .unwrap_or_default()
        ),
        LogStatement::AddressMap { gpa, hva, pfn, .. } => {
            format!("gpa {} is hva {} and pfn {}", hex(gpa), hex(hva), hex(pfn))
        }
        LogStatement::MigrationRefused => {
            "VMM refuses to migrate: the guest holds poisoned memory".to_owned()
        }
        LogStatement::BugCheck { args, .. } => format!(
            "guest: Windows bug check {}",
            args.first().map_or_else(|| "?".to_owned(), Hex::to_string)
        ),
        LogStatement::VmShutdown { reason } => format!("libvirt: the domain is shut down, reason {reason}"),
        LogStatement::GuestMce(mce) => format!("guest: {}", machine_check(mce)),
        LogStatement::GuestPanic { text } => format!("guest: panic: {text}"),
        LogStatement::GuestSignal { pfn, comm, pid } => {
            format!("guest kernel: page {pfn}: SIGBUS to {comm} (pid {pid})")
        }
        LogStatement::GuestAction {
            pfn,
            page_type,
            result,
        } => {
            format!("guest kernel: page {pfn}: recovery action for {page_type}: {result}")
        }
        LogStatement::QmpMemoryFailure {
            recipient,
            action,
            action_required,
            recursive,
            ..
        } => format!(
            "QMP MEMORY_FAILURE: {} for the {}: {}{}",
            if *action_required {
                "action required"
            } else {
                "action optional"
            },
            sanitise(recipient, 32),
            sanitise(action, 32),
            if *recursive {
                ", while one was in progress"
            } else {
                ""
            }
        ),
        LogStatement::QmpPanicked { .. } => "QMP: the guest panicked".to_owned(),
        LogStatement::QmpReset { guest, .. } => {
            format!("QMP: reset{}", if *guest { " by the guest" } else { "" })
        }
        LogStatement::QmpShutdown { reason, .. } => {
            format!(
                "QMP: shutdown ({})",
                reason.as_deref().unwrap_or("no reason given")
            )
        }
    }
}

fn machine(machine: &Machine) -> String {
    match machine {
        Machine::Boot(version) => format!("boot of Linux {}", sanitise(version, 64)),
        Machine::Dmi(name) => format!("machine: {}", sanitise(name, 120)),
        Machine::Hypervisor(name) => format!("runs under {}", sanitise(name, 64)),
        Machine::KvmHost => "runs KVM guests".to_owned(),
        Machine::Edac => "has a physical memory controller (EDAC)".to_owned(),
    }
}

/// The registers that were printed, and no others.
fn machine_check(mce: &MceReport) -> String {
    let hex = |value: Option<Hex>| value.map(|value| value.to_string());
    let parts = [
        ("bank ", mce.bank.map(|bank| bank.to_string())),
        ("STATUS ", hex(mce.status)),
        ("ADDR ", hex(mce.addr)),
        ("MISC ", hex(mce.misc)),
        ("RIP ", hex(mce.rip)),
        ("in ", mce.symbol.clone()),
        ("", mce.reason.clone()),
    ];
    let mut text = match mce.by_software {
        true => "machine check, injected by software of this kernel".to_owned(),
        false => "machine check".to_owned(),
    };
    for (name, value) in parts {
        if let Some(value) = value {
            text.push_str(&format!(", {name}{value}"));
        }
    }
    text
}
