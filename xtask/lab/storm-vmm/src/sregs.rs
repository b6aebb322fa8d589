//! Special registers, which a VMM reads after a SIGBUS. Here nobody but who looks on makes use of them.

use anyhow::{Context, Result};
use kvm_bindings::kvm_sregs2;
use kvm_ioctls::VcpuFd;
use vmm_sys_util::ioctl::ioctl_with_mut_ref;
use vmm_sys_util::ioctl_ior_nr;

// kvm-ioctls does not have it.
ioctl_ior_nr!(KVM_GET_SREGS2, kvm_bindings::KVMIO, 0xcc, kvm_sregs2);

/// Returns whether they were read by the newer call: only if `newer`, and where the kernel has it.
pub fn read(vcpu: &VcpuFd, newer: bool) -> Result<bool> {
    let mut sregs = kvm_sregs2::default();
    // SAFETY: the request's argument is this structure, which the kernel writes only.
    if newer && unsafe { ioctl_with_mut_ref(vcpu, KVM_GET_SREGS2(), &mut sregs) } == 0 {
        return Ok(true);
    }
    vcpu.get_sregs().context("KVM_GET_SREGS")?;
    Ok(false)
}
