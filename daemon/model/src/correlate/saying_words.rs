//! Statements of logs: which are an incident by themselves, and all in the timeline's words.

use crate::{
    event::{
        SigbusSeverity,
        log_statement::{Ended, LogStatement, MceReport},
    },
    hex::Hex,
    incident::mca,
    text::sanitise,
};

/// Statements that are an incident by themselves.
pub fn opens(said: &LogStatement) -> bool {
    match said {
        LogStatement::HostSignal { .. }
        | LogStatement::HostKilled { .. }
        | LogStatement::RunFailed
        | LogStatement::VmmTold { .. }
        | LogStatement::VmmSigbus { .. }
        | LogStatement::QmpMemoryFailure { .. } => true,
        LogStatement::VmmOwnMemory { fatal } => *fatal,
        LogStatement::GuestMce(mce) => fatal_or_lost_memory(mce),
        _ => false,
    }
}

/// A corrected error is nobody's death.
fn fatal_or_lost_memory(mce: &MceReport) -> bool {
    mce.status
        .is_none_or(|status| mca::raises_mc(status.0) || status.0 & mca::DEFERRED != 0)
}

/// The statement in the timeline's words.
pub fn of(said: &LogStatement) -> Option<String> {
    let hex = |value: &Option<Hex>| value.map_or_else(|| "?".to_owned(), |value| value.to_string());
    Some(match said {
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
        LogStatement::ProcessEnded { who, pid, how } => {
            let pid = pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default();
            match how {
                Ended::Signal(signal) => format!("{who}{pid} was killed by signal {signal}"),
                Ended::Exit(status) => format!("{who}{pid} ended with status {status}"),
            }
        }
        LogStatement::VmmReset { recursive: true } => {
            "the VMM resets its guest: a machine check met one in progress".to_owned()
        }
        LogStatement::VmmReset { recursive: false } => {
            "the VMM resets its guest: a machine check met a vCPU with machine checks off".to_owned()
        }
        LogStatement::RunFailed => "the VMM: KVM_RUN failed on lost memory (EHWPOISON)".to_owned(),
        LogStatement::OwnAccess { comm, pid, hva } => {
            format!("host kernel: {comm} (pid {pid}) itself touched lost memory at {hva}")
        }
        LogStatement::VmmTold {
            hva, gpa, severity, ..
        } => {
            let kind = match severity {
                Some(SigbusSeverity::ActionRequired) => "action required",
                Some(SigbusSeverity::ActionOptional) => "action optional",
                None => "a memory error",
            };
            format!(
                "the VMM told its guest: {kind}, gpa {}, hva {}",
                hex(gpa),
                hex(hva)
            )
        }
        LogStatement::VmmOwnMemory { fatal: true } => {
            "the VMM ends itself: lost memory that it cannot pass on".to_owned()
        }
        LogStatement::VmmOwnMemory { fatal: false } => {
            "the VMM lost memory of its own, and has not touched it".to_owned()
        }
        LogStatement::VmmSigbus { .. } => "the VMM ends itself because of SIGBUS".to_owned(),
        LogStatement::VmName { .. }
        | LogStatement::HostMce(_)
        | LogStatement::HostPanic { .. }
        | LogStatement::Machine(_)
        | LogStatement::MemoryError { .. }
        | LogStatement::AddressMap { .. }
        | LogStatement::MigrationRefused
        | LogStatement::BugCheck { .. }
        | LogStatement::Cut { .. } => return None,
        LogStatement::VmShutdown { reason } => format!("libvirt: the domain is shut down, reason {reason}"),
        LogStatement::GuestMce(mce) => format!(
            "guest: machine check, bank {} STATUS {} ADDR {} MISC {} RIP {}{}{}",
            mce.bank.map_or_else(|| "?".to_owned(), |bank| bank.to_string()),
            hex(&mce.status),
            hex(&mce.addr),
            hex(&mce.misc),
            hex(&mce.rip),
            mce.symbol.as_ref().map(|s| format!(" ({s})")).unwrap_or_default(),
            mce.reason.as_ref().map(|r| format!(": {r}")).unwrap_or_default()
        ),
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
                reason.as_deref().unwrap_or("no reason told")
            )
        }
    })
}
