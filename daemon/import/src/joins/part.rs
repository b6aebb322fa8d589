//! What a speaker is to a VM, and the names of units from which that is known.

use crate::{
    speakers::Attributed,
    text::{Sender, program},
};
use poisontrace_model::{
    event::log_statement::{Ended, LogStatement, Role},
    incident::log_evidence,
};

const SIGBUS: u32 = 7;
/// Firecracker's exit status after SIGBUS (`FcExitCode::SIGBUS`).
const FIRECRACKER_SIGBUS: u32 = 149;

/// What a speaker is to a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// The host's kernel, of this process.
    Process,
    Vmm,
    Guest,
    /// A unit that ended.
    Unit,
    /// A physical machine that died.
    Machine,
    /// Facts about others: `ps`, a monitor's answer.
    Fact,
}

/// What a statement's speaker is to a VM, and the process or domain that it names; `None`: none by itself.
pub fn part(entry: &Attributed<'_>, sender: &Sender) -> Option<(Part, Option<String>)> {
    let text = |pid: &u32| Some(pid.to_string());
    Some(match &entry.statement {
        LogStatement::HostSignal { pid, .. }
        | LogStatement::HostKilled { pid, .. }
        | LogStatement::OwnAccess { pid, .. } => entry.of_vmm.then(|| (Part::Process, text(pid)))?,
        LogStatement::ProcessEnded { pid: Some(pid), .. } => (Part::Fact, text(pid)),
        LogStatement::ProcessEnded { who, how, .. } => {
            let by_sigbus = matches!(how, Ended::Signal(SIGBUS) | Ended::Exit(FIRECRACKER_SIGBUS));
            by_sigbus.then(|| (Part::Unit, Some(who.clone())))?
        }
        LogStatement::VmName { pid: Some(pid), .. } => (Part::Fact, text(pid)),
        LogStatement::AddressMap { gpa, pfn, .. } => (Part::Fact, gpa.or(*pfn).map(|at| at.to_string())),
        LogStatement::HostPanic { .. } | LogStatement::OnCpu { .. } if entry.role == Role::HostKernel => {
            (Part::Machine, None)
        }
        LogStatement::KernelPanic { .. } => (Part::Machine, None),
        LogStatement::HostMce(mce)
            if !mce.user_access && (mce.exception || mce.by_software || mce.last_words) =>
        {
            (Part::Machine, None)
        }
        LogStatement::HostMce(_)
        | LogStatement::HostAction { .. }
        | LogStatement::HostPanic { .. }
        | LogStatement::OnCpu { .. }
        | LogStatement::SoftwarePoison { guest: false, .. }
        | LogStatement::Machine { .. }
        | LogStatement::MemoryError { .. }
        | LogStatement::SoftwareMachineCheck { .. }
        | LogStatement::Other => return None,
        LogStatement::GuestMce(_)
        | LogStatement::GuestPanic { .. }
        | LogStatement::GuestSignal { .. }
        | LogStatement::SoftwarePoison { .. }
        | LogStatement::GuestAction { .. } => (Part::Guest, None),
        LogStatement::QmpMemoryFailure { domain, .. }
        | LogStatement::QmpPanicked { domain, .. }
        | LogStatement::QmpReset { domain, .. }
        | LogStatement::BugCheck { domain, .. }
        | LogStatement::QmpShutdown { domain, .. }
        | LogStatement::VmStarted { domain, .. } => {
            (Part::Vmm, domain.clone().or_else(|| sender.domain.clone()))
        }
        LogStatement::VmmInjected { .. }
        | LogStatement::VmmOwnMemory { .. }
        | LogStatement::VmmReset { .. }
        | LogStatement::RunFailed
        | LogStatement::VmmSigbus { .. }
        | LogStatement::VmName { pid: None, .. }
        | LogStatement::VmShutdown { .. }
        | LogStatement::MigrationRefused => (Part::Vmm, sender.domain.clone()),
    })
}

/// Whether something of it is an incident.
pub fn opens(part: Part, entry: &Attributed<'_>) -> bool {
    part == Part::Unit
        || log_evidence::opens(&entry.statement)
        || matches!(entry.statement, LogStatement::GuestPanic { .. })
}

/// `fc@a.service` and `fc@a` are one name.
pub fn unit_name(unit: &str) -> &str {
    [".service", ".scope"]
        .iter()
        .find_map(|end| unit.strip_suffix(end))
        .unwrap_or(unit)
}

/// Whether a unit's name is one that managers give the units of VMs; those of the managers themselves and of what helps a VM
/// are none.
pub fn of_a_vm(unit: &str) -> bool {
    if program::is_helper(unit_name(unit)) || program::is_manager(unit_name(unit)) {
        return false;
    }
    const WORDS: [&str; 12] = [
        "qemu",
        "kvm",
        "firecracker",
        "fc@",
        "fc-",
        "microvm",
        "cloud-hypervisor",
        "crosvm",
        "vm@",
        "vm-",
        "machine-",
        "libvirt",
    ];
    let number = unit_name(unit).bytes().all(|b| b.is_ascii_digit());
    unit.ends_with(".scope") && number || WORDS.iter().any(|word| unit.contains(word))
}

/// `machine-qemu\x2d1\x2ddb\x2d7.scope`: the domain.
pub fn machine_unit(unit: &str) -> Option<String> {
    let name = unit.strip_prefix("machine-qemu\\x2d")?.strip_suffix(".scope")?;
    let (number, domain) = name.split_once("\\x2d")?;
    (!domain.is_empty() && number.bytes().all(|b| b.is_ascii_digit())).then(|| domain.replace("\\x2d", "-"))
}
