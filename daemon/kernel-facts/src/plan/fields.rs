//! The fields that the programs read: where they lie on this kernel, and what it costs where one is missing.

use poisontrace_probes::layout::{FIELDS, Field};

use crate::{btf::shape_name, facts::Facts};

/// Where the field lies, if the kernel has it as the programs read it.
pub fn offset(facts: &Facts, field: &Field) -> Option<u32> {
    if field.of.contains('/') {
        return facts.event(field.of)?.1.offset(field.name, field.shape);
    }
    let member = facts.members.get(&format!("{}.{}", field.of, field.name))?;
    (member.is == shape_name(field.shape)).then_some(member.offset)
}

/// What it costs where a tracepoint or structure does not have these fields, one loss each. A loss with several is one
/// only if all are missing.
const COSTS: &[(&[&str], &str)] = &[
    (
        &["EXIT_REASON"],
        "lost is the exit reason, and with it a triple fault",
    ),
    (&["EXIT_RIP"], "lost is the guest's RIP"),
    (
        &["EXIT_ISA"],
        "lost is whether it was VMX or SVM, and with it the kind of access",
    ),
    (
        &["EXIT_VCPU"],
        "lost is the vCPU's number, until it enters the guest",
    ),
    (&["FAULT_ADDRESS"], "lost is the GPA"),
    (
        &["FAULT_CODE_U64", "FAULT_CODE_U32"],
        "lost is the kind of access",
    ),
    (&["FAULT_RIP"], "it is that of kvm_exit"),
    (&["FAULT_VCPU"], "it is that of kvm_exit"),
    (&["USER_REASON"], "lost is KVM's own end of a guest"),
    (&["USER_ERRNO"], "lost is why KVM_RUN failed"),
    (&["ENTRY_VCPU"], "the vCPU's number is that of kvm_exit"),
    (
        &["ENTRY_RIP"],
        "lost is that a vCPU starts anew at the reset vector",
    ),
    (&["INJ_VECTOR"], "lost is which exception is injected"),
    (
        &["INJ_REINJECTED"],
        "such kernels trace no repeated injection (a kernel that does would have each counted)",
    ),
    (&["MSR_WRITE"], "lost is that the guest's #MC handler finished"),
    (
        &["MSR_INDEX"],
        "lost is which MSR, so nothing is seen of the guest's #MC handler",
    ),
    (
        &["MSR_DATA"],
        "lost is the value, so the end of the guest's #MC handler is not known",
    ),
    (
        &["PIO_WRITE"],
        "lost is that the guest wrote, so nothing is seen of its panic device",
    ),
    (
        &["PIO_PORT"],
        "lost is which port, so nothing is seen of its panic device",
    ),
    (&["PIO_SIZE"], "lost is the size of what was written"),
    (
        &["PIO_VALUE"],
        "lost is the value, so nothing is seen of its panic device",
    ),
    (&["MFE_PFN"], "lost is the pfn, and so the event"),
    (&["MFE_TYPE"], "lost is the page's type, and so the event"),
    (&["MFE_RESULT"], "lost is the result, and so the event"),
    (&["SIGNAL_NUMBER"], "lost is which signal, and so all of them"),
    (
        &["SIGNAL_CODE"],
        "lost is whether it is for poison, and so all signals",
    ),
    (&["SIGNAL_TID"], "lost is whom the signal is for"),
    (
        &["SIGNAL_COMM"],
        "lost is the name of the thread that the signal is for",
    ),
    (&["IOCTL_CMD"], "lost is which ioctl"),
    (&["IOCTL_ARG"], "lost is what the ioctl was given"),
    (&["IOCTL_RET"], "lost is what the ioctl answered"),
    (&["TASK_PID"], "lost is which thread was signalled"),
    (
        &["TASK_TGID"],
        "lost is which process was signalled, unless it is the current one",
    ),
    (
        &["TASK_COMM"],
        "lost is the name of the thread that was signalled",
    ),
    (&["TASK_EXIT_CODE"], "lost is the exit status of a single thread"),
    (
        &["TASK_SIGNAL"],
        "lost is how the process ended, and how many of its threads are left",
    ),
    (
        &["SIGNAL_LIVE"],
        "lost is how many threads of the process are left",
    ),
    (&["SIGNAL_GROUP_EXIT_CODE"], "lost is how the process ended"),
    (&["FILE_PRIVATE"], NO_MEMSLOTS),
    (&["VCPU_KVM"], NO_MEMSLOTS),
    (&["KVM_MEMSLOTS", "KVM_MEMSLOTS_ONE"], NO_MEMSLOTS),
    (&["SLOTS_TREE"], NO_MEMSLOTS),
    (&["SLOTS_SET"], NO_MEMSLOTS),
    (&["SLOT_NODES"], NO_MEMSLOTS),
    (&["SLOT_GFN"], NO_MEMSLOTS),
    (&["SLOT_PAGES"], NO_MEMSLOTS),
    (&["SLOT_HVA"], NO_MEMSLOTS),
];

const NO_MEMSLOTS: &str = "a VM's memslots are not found";

/// The losses of a tracepoint, or of a structure.
pub fn losses(facts: &Facts, of: &str) -> Vec<String> {
    COSTS
        .iter()
        .filter_map(|(globals, cost)| {
            let fields: Vec<&Field> = FIELDS
                .iter()
                .filter(|field| field.of == of && globals.contains(&field.global))
                .collect();
            let first = fields.first()?;
            if fields.iter().any(|field| offset(facts, field).is_some()) {
                return None;
            }
            let shapes: Vec<String> = fields.iter().map(|field| shape_name(field.shape)).collect();
            Some(format!("no {} as {}: {cost}", first.name, shapes.join(" or ")))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_that_is_read_has_a_cost() {
        for field in FIELDS {
            let costs = COSTS
                .iter()
                .filter(|(globals, _)| globals.contains(&field.global));
            assert_eq!(costs.count(), 1, "{}", field.global);
        }
        assert_eq!(
            COSTS.iter().map(|(globals, _)| globals.len()).sum::<usize>(),
            FIELDS.len()
        );
    }
}
