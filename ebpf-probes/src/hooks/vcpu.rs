//! The vCPU that is loaded on the current thread. `vcpu_load()` registers its preempt notifier, which
//! `task_struct.preempt_notifiers` then leads to, 5.10 to 7.3 (virt/kvm/kvm_main.c).

use super::fields::{
    ARCH_EXIT_TSC, ARCH_REGS, ARCH_REGS_AVAILABLE, ARCH_TSC_OFFSET, ARCH_TSC_RATIO, CONTROL_INSN,
    CONTROL_INSN_LEN, SVM_VCPU, SVM_VMCB, TASK_NOTIFIERS, VCPU_ARCH, VCPU_NOTIFIER, VMCB_CONTROL, member,
};
use crate::state::current_task;

/// `enum kvm_reg`: VCPU_REGS_RIP.
const RIP: u64 = 16;

/// The `struct kvm_vcpu`, 0 if none is loaded; `None` where the kernel's BTF does not show.
#[inline(always)]
pub fn loaded() -> Option<u64> {
    let task = current_task();
    let first = member(task, &TASK_NOTIFIERS)?.0;
    if first == 0 {
        return Some(0);
    }
    // The node is the first member of `struct preempt_notifier`.
    Some(first - u64::from(VCPU_NOTIFIER.get()?))
}

/// Its `struct kvm_vcpu_arch`.
#[inline(always)]
pub fn arch() -> Option<u64> {
    let vcpu = loaded().filter(|vcpu| *vcpu != 0)?;
    Some(vcpu + u64::from(VCPU_ARCH.get()?))
}

/// `last_guest_tsc`.
#[inline(always)]
pub fn exit_tsc(arch: u64) -> Option<u64> {
    member(arch, &ARCH_EXIT_TSC)
}

/// `l1_tsc_offset`: what the guest's counter is ahead of the host's.
#[inline(always)]
pub fn tsc_offset(arch: u64) -> Option<u64> {
    member(arch, &ARCH_TSC_OFFSET)
}

/// `l1_tsc_scaling_ratio`.
#[inline(always)]
pub fn tsc_ratio(arch: u64) -> Option<u64> {
    member(arch, &ARCH_TSC_RATIO)
}

/// The guest's RIP, where KVM has it in memory: on VMX only if it was read since the exit (`regs_avail`).
#[inline(always)]
pub fn rip() -> Option<u64> {
    let arch = arch()?;
    if member(arch, &ARCH_REGS_AVAILABLE)? & 1 << RIP == 0 {
        return None;
    }
    let regs = arch + u64::from(ARCH_REGS.get()?);
    // SAFETY: fault-safe read of kernel memory, within the array whose length the layout has checked.
    unsafe { aya_ebpf::helpers::bpf_probe_read_kernel((regs + RIP * 8) as *const u64) }.ok()
}

/// Where the VMCB of its last exit has the instruction's bytes, and how many they are: SVM with decode assists (AMD APM volume 2).
#[inline(always)]
pub fn instruction() -> Option<(u64, u32)> {
    let svm = loaded().filter(|vcpu| *vcpu != 0)? - u64::from(SVM_VCPU.get()?);
    let control = member(svm, &SVM_VMCB)?.0 + u64::from(VMCB_CONTROL.get()?);
    let len = member(control, &CONTROL_INSN_LEN)?;
    Some((control + u64::from(CONTROL_INSN.get()?), u32::from(len)))
}
