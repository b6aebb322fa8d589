//! The words of a forecast in English.

use poisontrace_model::{
    forecast::{
        Branch, Expected,
        terms::{Basis, Condition, Notice, Page, Reason, Sigbus, VmmKind},
    },
    incident::terms::{Cause, Outcome},
};

pub const fn page(page: Page) -> &'static str {
    match page {
        Page::GuestProcess => "a page of a process of the guest",
        Page::GuestKernel => "a page of the guest's kernel",
        Page::Untouched => "a page that the guest never accesses again",
    }
}

pub const fn notice(notice: Notice) -> &'static str {
    match notice {
        Notice::ActionOptional => "found before it is used (action optional)",
        Notice::ActionRequired => "consumed by the guest (action required)",
    }
}

pub const fn vmm_kind(kind: VmmKind) -> &'static str {
    match kind {
        VmmKind::Qemu => "QEMU",
        VmmKind::Firecracker => "Firecracker",
        VmmKind::CloudHypervisor => "cloud-hypervisor",
        VmmKind::Crosvm => "crosvm",
        VmmKind::Other => "a VMM whose handling of SIGBUS is not known",
    }
}

pub const fn sigbus(sigbus: Sigbus) -> &'static str {
    match sigbus {
        Sigbus::Caught => "SIGBUS has a handler",
        Sigbus::Default => "SIGBUS kills the VMM",
        Sigbus::Ignored => "SIGBUS is ignored",
        Sigbus::Blocked => "SIGBUS is blocked",
    }
}

const PLAIN_RETRY: &str = "without MCG_SER_P the guest's kernel neither dies nor kills the process: it returns to the access, and meets the error again";

/// A fact of the host, by its key in JSON.
pub fn fact(key: &str) -> &str {
    match key {
        "early_kill" => "memory_failure_early_kill",
        "recovery" => "memory_failure_recovery",
        "panic_on_unrecoverable" => "panic_on_unrecoverable_memory_failure",
        "edac_controllers" => "EDAC memory controllers",
        "firmware_first" => "firmware first",
        "processor_vendor" => "the processor's vendor",
        "processor_recovers" => "whether the processor recovers from consumed errors",
        "hardware_corrupted_bytes" => "memory that is poisoned already",
        other => other,
    }
}

pub const fn reason(reason: Reason) -> &'static str {
    match reason {
        Reason::NotPermitted => "not permitted: run it as root",
        Reason::NoIterator => "the vCPUs' machine-check state was not read from the kernel",
        Reason::NotBuiltIn => "this poisontrace was built without its BPF programs",
        Reason::NoBtf => "this kernel has no BTF, by which the vCPUs' state is found",
        Reason::KernelTooOld => "this kernel has no task_file iterator (Linux 5.8 and newer)",
        Reason::MembersMissing => "this kernel's BTF does not describe the vCPU",
        Reason::NotShown => "nothing on this host shows it",
        Reason::ProcessGone => "the process ended while it was read",
        Reason::TooCostly => "it was left out, as it would have taken too long",
        Reason::NoMemoryFailure => "this kernel has no memory_failure() (CONFIG_MEMORY_FAILURE)",
        Reason::PlainRetry => PLAIN_RETRY,
        Reason::Truncated => "there is more than is read",
    }
}

pub const fn basis(basis: Basis) -> &'static str {
    match basis {
        Basis::RecoveryOff => "the host's vm.memory_failure_recovery is 0",
        Basis::HostCannotRecover => "the host's processor cannot recover from an error that is consumed",
        Basis::PrivateMemory => {
            "no SIGBUS is sent for private memory (guest_memfd), and the VMM stops the guest"
        }
        Basis::PinnedHugePage => "the kernel cannot split a transparent huge page that VFIO has pinned",
        Basis::HugePage => "the whole huge page is poisoned, but the guest learns of 4 KiB only",
        Basis::NoAccess => "nothing accesses the page",
        Basis::SigbusDefault => "the VMM has no handler for SIGBUS",
        Basis::SigbusIgnored => "the VMM ignores SIGBUS",
        Basis::SigbusBlocked => "the vCPU's thread blocks SIGBUS",
        Basis::EarlyKill => "the signal comes at once (vm.memory_failure_early_kill is 1)",
        Basis::VmmExits => "the VMM's handler of SIGBUS ends it",
        Basis::RuntimeHandler => {
            "the only handler of SIGBUS is that of Rust's runtime, which takes itself away"
        }
        Basis::VmmInjects => "the VMM injects by KVM_X86_SET_MCE",
        Basis::NoMachineChecks => {
            "the guest's processor has no machine-check banks, or not those that the VMM needs"
        }
        Basis::MachineChecksOff => "the guest has machine checks turned off (CR4.MCE is 0)",
        Basis::MceOffRequested => "the guest's kernel was started with mce=off, and ends no machine check",
        Basis::ControlsOff => "MCG_CTL is not all ones, so injected errors are dropped",
        Basis::InProgress => "a machine check of the vCPU has not ended (MCG_STATUS.MCIP)",
        Basis::BankHeld => "an earlier error lies in the vCPU's bank",
        Basis::DeferredUnread => "the early notice still lies in the vCPU's bank",
        Basis::NoOverflowRecovery => "the guest's processor has no overflow recovery",
        Basis::NoSuccor => "the guest's processor has no SUCCOR",
        Basis::NoErrorRecovery => "the guest sees no software error recovery (MCG_SER_P)",
        Basis::IntelInjection => "this QEMU injects Intel's machine checks into an AMD guest",
        Basis::KernelMode => "a machine check in kernel mode is fatal",
        Basis::PlainRetry => PLAIN_RETRY,
        Basis::GuestRecovers => "the guest's processor recovers, and its kernel kills the process",
    }
}

pub const fn condition(condition: Condition) -> &'static str {
    match condition {
        Condition::HostRecovers => "if the host's processor recovers (MCG_SER_P)",
        Condition::HostCannotRecover => "if it does not",
        Condition::PrivatePage => "if the page is private (guest_memfd)",
        Condition::SharedPage => "if it is not private",
        Condition::TransparentHugePage => "in a transparent huge page",
        Condition::SmallPage => "in a 4 KiB page",
        Condition::HugetlbPage => "in a page of hugetlbfs",
        Condition::EarlyNotice => "if the VMM gets an early notice",
        Condition::NoEarlyNotice => "if it gets none",
        Condition::VmmInjects => "if the VMM injects a machine check",
        Condition::VmmEnds => "if its handler ends it",
        Condition::VmmSwallows => "if it does nothing",
        Condition::IntelRecovers => "Intel CPU model with MCG_SER_P",
        Condition::IntelPlain => "Intel CPU model without MCG_SER_P",
        Condition::AmdRecovers => "AMD CPU model with SUCCOR and overflow recovery",
        Condition::AmdPlain => "AMD CPU model without SUCCOR and overflow recovery",
        Condition::QemuDefers => "with QEMU 9.1 or newer",
        Condition::QemuOld => "with QEMU before 9.1",
        Condition::FirstVcpu => "on the first vCPU",
        Condition::OtherVcpus => "on the other vCPUs",
        Condition::SomeVcpus => "on some of the vCPUs",
        Condition::BankRead => {
            "if the guest's kernel has read the notice before (it looks each five minutes)"
        }
    }
}

/// `guest_panicked, cause mce_overflow`, and what a bare `running` does not show.
pub fn verdict(expected: &Expected) -> String {
    let also = match (expected.outcome, expected.cause) {
        (Outcome::Running, Cause::UnmapFailed) => " (the page stays in use)",
        (Outcome::Running, cause) if cause != Cause::NotTouched => " (its vCPU hangs)",
        (Outcome::Unknown, Cause::GuestMemfd) => " (the VMM stops it)",
        _ => "",
    };
    format!("{}{also}, cause {}", expected.outcome, expected.cause)
}

/// The facts as one clause.
pub fn because(expected: &Expected) -> String {
    let facts: Vec<&str> = expected.basis.iter().map(|b| basis(*b)).collect();
    facts.join("; ")
}

pub fn when(branch: &Branch) -> String {
    let all: Vec<&str> = branch.when.iter().map(|c| condition(*c)).collect();
    all.join(", ")
}
