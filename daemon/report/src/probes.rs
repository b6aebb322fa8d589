//! The probe table in words: what a probe is attached to, why it is not, and what cannot be reported without it.

use std::borrow::Cow;

use poisontrace_model::event::probe::{
    Hook, MissingField, ProbeBinding, ProbeId, ProbeReason, ProbeStatus, Signature,
};

/// What cannot be reported without a probe; `None`: another version's, of which only its own text is known.
pub fn unavailable(probe: &ProbeId) -> Option<&'static str> {
    use ProbeId as P;
    Some(match probe {
        P::MemoryFailure => {
            "which pfn was poisoned, and the arming at that instant: exits before the first SIGBUS may be missed"
        }
        P::MemoryFailureEvent => "the page's type and what the host kernel did about it",
        P::MceRecord => "the bank of the host's processor that reported the error: where it came from",
        P::McEvent => "the memory module that EDAC names",
        P::ExtlogMemEvent => "memory errors that the firmware reports to the extended log",
        P::SendSigMceerr => "which VMM was signalled and at which address, and that a guest touched poison",
        P::ForceSigMceerr => "which SIGBUS the kernel forced on a thread for an access of its own",
        P::KvmExit => "exits, their RIP and latency",
        P::KvmPageFault => "the GPA and the line that was touched",
        P::Gup => {
            "the host-side gup: its time (what is shown in its place is a bound, from the fault to the signal) and its -EHWPOISON"
        }
        P::KvmUserspaceExit => "when an exit leaves the kernel, and KVM's own end of a guest",
        P::KvmEntry => "exit-to-entry latency, and resets of a vCPU",
        P::KvmNestedVmexit => {
            "which exits are those of a nested (L2) guest, whose addresses are not the L1 guest's"
        }
        P::VcpuIoctlMce => "the injected machine checks: bank, STATUS, ADDR, MISC",
        P::KvmInjException => "whether a machine check entered the guest",
        P::KvmMsr => "whether the guest's #MC handler finished: survived and died look alike",
        P::KvmPio => "the guest's panic device and reset ports",
        P::SchedProcessExit => "when and how the VMM ended",
        P::VmDestroyed => "when the VM was destroyed",
        P::Instruction => "the bytes of the instruction that touched the page: whether it was a CLFLUSH",
        P::GuestCode => "the guest's page tables, and with them its code (--read-guest-code)",
        P::Memslots => {
            "where the guest's memory lies outside the poisoned page's own mapping in the VMM: its code may be there"
        }
        P::Other(_) => return None,
    })
}

/// What cannot be reported without the probe of this row.
pub fn unavailable_info(status: &ProbeStatus) -> &str {
    unavailable(&status.probe).unwrap_or_else(|| super::or(status.unavailable_info.as_deref()))
}

/// What a probe is attached to.
pub fn binding(binding: &ProbeBinding) -> Cow<'_, str> {
    match binding {
        ProbeBinding::Attached(all) if all.is_empty() => {
            "no hook: read from KVM's structures at poison".into()
        }
        ProbeBinding::Attached(all) => hooks(all).into(),
        ProbeBinding::Standby(all) if all.is_empty() => "nothing until there is poison".into(),
        ProbeBinding::Standby(all) => format!("until there is poison {}", hooks(all)).into(),
        ProbeBinding::Imported => "imported".into(),
        ProbeBinding::Text(text) => text.into(),
    }
}

/// Hooks, as a list.
pub(crate) fn hooks(all: &[Hook]) -> String {
    let hooks: Vec<String> = all.iter().map(ToString::to_string).collect();
    hooks.join(", ")
}

/// All reasons of a row on one line; empty if it has none.
pub fn reasons(all: &[ProbeReason]) -> String {
    let all: Vec<Cow<'_, str>> = all.iter().map(reason).collect();
    all.join("; ")
}

/// Why a probe is not attached, or what it cannot read.
pub fn reason(reason: &ProbeReason) -> Cow<'_, str> {
    use ProbeReason as R;
    match reason {
        R::NoTracepoint(name) => format!("this kernel has no tracepoint {name}").into(),
        R::NoTracepointFields { tracepoints, fields } => no_fields(tracepoints, fields).into(),
        R::NoTracepointBtf(name) => format!("no BTF describes the tracepoint {name}").into(),
        R::NoFunctionBtf(name) => format!("vmlinux BTF has no function {name}").into(),
        R::NoKprobes => "this kernel has no kprobes".into(),
        R::NoSymbol(name) => format!("kallsyms lists no function {name}").into(),
        R::Prototype {
            function,
            known,
            expected,
        } => prototype(function, known, expected).into(),
        R::PrototypeAssumed(name) => {
            format!("no BTF describes {name}: its arguments are taken to be those of 4.19 to 7.3").into()
        }
        R::ShownBy { tracepoint, of } => {
            format!("{tracepoint}, which stands in for {of}, shows these signals too").into()
        }
        R::SvmOnly => "only SVM hands out the bytes of an instruction that faults".into(),
        R::NoField(field) => no_field(field).into(),
        R::NoMember { of, field } => format!("struct {of} has {}", no_field(field)).into(),
        R::LockedDown => "the kernel is locked down (confidentiality), so that no BPF program may read its memory: boot with lockdown=integrity".into(),
        R::KvmAbsent => "KVM is not loaded".into(),
        R::KvmUnloaded => "KVM is unloaded".into(),
        R::Disabled(way) => format!("{way} disabled (--disable-attach-type)").into(),
        R::Needs(probe) => format!("it needs {probe}, which is not attached in that way").into(),
        R::Clocksource(name) => format!("the kernel's clock source is {name}, not tsc").into(),
        R::PerfEventParanoid(level) => format!(
            "kernel.perf_event_paranoid is {level}: to attach at the poison would take CAP_SYS_ADMIN, which the service gives up; set it to 2"
        )
        .into(),
        R::IsaUnknown => "neither kvm_intel nor kvm_amd is loaded".into(),
        R::Configured => "configured".into(),
        R::NotInFiles => "not in the files".into(),
        R::Text(text) => text.into(),
    }
}

/// `syscalls:sys_enter_ioctl with cmd and arg`.
fn no_fields(tracepoints: &[String], fields: &[String]) -> String {
    let fields = match fields {
        [all @ .., last] if !all.is_empty() => format!("{} and {last}", all.join(", ")),
        _ => fields.join(", "),
    };
    match tracepoints {
        [one] => format!("this kernel has no tracepoint {one} with {fields}"),
        many => format!(
            "this kernel has no tracepoints {} with {fields}",
            many.join(" and ")
        ),
    }
}

fn prototype(function: &str, known: &Signature, expected: &Signature) -> String {
    let returns = |returns: &Option<String>| super::or(returns.as_deref()).to_owned();
    let expected_returns = expected.returns.as_ref().map(|returns| format!(" and {returns}"));
    format!(
        "{function} takes ({}) and returns {} on this kernel, expected ({}){}",
        known.takes.join(", "),
        returns(&known.returns),
        expected.takes.join(", "),
        expected_returns.unwrap_or_default()
    )
}

fn no_field(field: &MissingField) -> String {
    format!(
        "no {} as {}: {}",
        field.name,
        field.shapes.join(" or "),
        cost(&field.global).unwrap_or("its use is another version's")
    )
}

/// What it costs where a tracepoint or structure does not have a field as the programs read it, by the global of the BPF
/// object that holds its offset.
fn cost(global: &str) -> Option<&'static str> {
    Some(match global {
        "EXIT_REASON" => "the exit reason is unknown, so triple faults are not seen",
        "EXIT_RIP" => "the guest's RIP is unknown",
        "EXIT_ISA" => "whether it was VMX or SVM is unknown, and so the kind of access",
        "EXIT_VCPU" => "the vCPU's number is unknown until it enters the guest",
        "EXIT_INTR_INFO" => "on VMX, exits by a machine check are not seen",
        "FAULT_ADDRESS" => "the GPA is unknown",
        "FAULT_CODE_U64" | "FAULT_CODE_U32" => "the kind of access is unknown",
        "FAULT_RIP" => "it is that of kvm_exit",
        "FAULT_VCPU" => "it is that of kvm_exit",
        "USER_REASON" => "KVM's own end of a guest is not seen",
        "USER_ERRNO" => "why KVM_RUN failed is unknown",
        "ENTRY_VCPU" => "the vCPU's number is that of kvm_exit",
        "ENTRY_RIP" => "a vCPU's start at the reset vector is not seen",
        "INJ_VECTOR" => "which exception is injected is unknown",
        "INJ_REINJECTED" => {
            "such kernels trace no repeated injection (a kernel that does would have each counted)"
        }
        "MSR_WRITE" => "the end of the guest's #MC handler is not seen",
        "MSR_INDEX" => "the MSR's number is unknown, so nothing is seen of the guest's #MC handler",
        "MSR_DATA" => "the value is unknown, so the end of the guest's #MC handler is not seen",
        "PIO_WRITE" => "whether the guest wrote is unknown, so nothing is seen of its panic device",
        "PIO_PORT" => "the port is unknown, so nothing is seen of the guest's panic device",
        "PIO_SIZE" => "the size of the write is unknown",
        "PIO_VALUE" => "the value is unknown, so nothing is seen of the guest's panic device",
        "MFE_PFN" => "the pfn is unknown, so the event is lost",
        "MFE_TYPE" => "the page's type is unknown, so the event is lost",
        "MFE_RESULT" => "the result is unknown, so the event is lost",
        "MCE_STATUS" => "what the processor reported is unknown, so the event is lost",
        "MCE_MCG_STATUS" => "whether the interrupted context can go on (RIPV) is unknown",
        "MCE_ADDR" => "which page the processor reported is unknown",
        "MCE_MISC" => "MISC is unknown",
        "MCE_IP" | "MCE_CS" => "whether a guest consumed the error is unknown",
        "MCE_VENDOR" => "bits of STATUS that differ between vendors are taken for AMD's",
        "MCE_CPU" => "which processor reported it is unknown",
        "MCE_BANK" => "which bank reported it is unknown",
        "EDAC_TYPE" | "EXTLOG_SEVERITY" => "whether the error was corrected is unknown, so the event is lost",
        "EDAC_ADDRESS" | "EXTLOG_ADDRESS" => "which page it is about is unknown",
        "EDAC_LABEL" => "the memory module's label is unknown",
        "SIGNAL_NUMBER" => "the signal's number is unknown, so all signals are lost",
        "SIGNAL_CODE" => "whether the signal is for poison is unknown, so all signals are lost",
        "SIGNAL_TID" => "the signal's target is unknown",
        "SIGNAL_COMM" => "the name of the signal's target is unknown",
        "IOCTL_CMD" => "the ioctl's command is unknown",
        "IOCTL_ARG" => "the ioctl's argument is unknown",
        "IOCTL_RET" => "the ioctl's result is unknown",
        "TASK_PID" => "which thread was signalled is unknown",
        "TASK_TGID" => "which process was signalled is unknown, unless it is the current one",
        "TASK_COMM" => "the name of the thread that was signalled is unknown",
        "TASK_EXIT_CODE" => "the exit status of a single thread is unknown",
        "TASK_SIGNAL" => "how the process ended is unknown, and how many of its threads are left",
        "SIGNAL_LIVE" => "how many threads of the process are left is unknown",
        "SIGNAL_GROUP_EXIT_CODE" => "how the process ended is unknown",
        "TASK_NOTIFIERS" | "VCPU_NOTIFIER" => {
            "whether memory_failure() works for a thread that runs a guest is not known"
        }
        "VCPU_ARCH" | "ARCH_REGS" | "ARCH_REGS_AVAILABLE" => {
            "the RIP at which a machine check enters the guest is not known"
        }
        "SVM_VCPU" | "SVM_VMCB" | "VMCB_CONTROL" | "CONTROL_INSN_LEN" | "CONTROL_INSN" => {
            "the bytes of an instruction take a hook on each page fault"
        }
        "ARCH_EXIT_TSC" | "ARCH_TSC_OFFSET" | "ARCH_TSC_RATIO" => {
            "when a vCPU left its guest is not known until kvm_exit is attached"
        }
        "FILE_PRIVATE" | "VCPU_KVM" | "KVM_MEMSLOTS" | "KVM_MEMSLOTS_ONE" | "SLOTS_TREE" | "SLOTS_SET"
        | "SLOT_NODES" | "SLOT_GFN" | "SLOT_PAGES" | "SLOT_HVA" => "a VM's memslots are not found",
        "FILE_OPERATIONS" | "OPERATIONS_IOCTL" | "FILE_INODE" | "FILE_PATH" | "INODE_SUPER"
        | "SUPER_MAGIC" | "PATH_DENTRY" | "DENTRY_NAME" | "NAME_TEXT" | "VCPU_NUMBER" | "ARCH_CR4"
        | "ARCH_MCG_CAP" | "ARCH_MCG_STATUS" | "ARCH_MCG_CTL" | "ARCH_BANKS" | "ARCH_CPUID_COUNT"
        | "ARCH_CPUID" => "a forecast has no machine-check state of the guests' vCPUs",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use poisontrace_probes::layout::FIELDS;

    #[test]
    fn every_field_that_is_read_has_a_cost_in_words() {
        for field in FIELDS {
            assert!(cost(field.global).is_some(), "{}", field.global);
        }
    }

    #[test]
    fn every_probe_has_its_effect_in_words() {
        for probe in ProbeId::ALL {
            assert!(unavailable(probe).is_some(), "{probe}");
        }
    }
}
