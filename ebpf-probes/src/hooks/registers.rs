//! The page-table root of a guest, as its VMM fetches it itself right after the SIGBUS: on VMX nothing in the kernel
//! has it at hand. Attached only where guest code may be read.

use aya_ebpf::{helpers::bpf_probe_read_user, programs::TracePointContext};
use poisontrace_probes::{
    ioctl::{KVM_GET_SREGS, KVM_GET_SREGS2},
    record::Sregs,
};

use super::fields::{IOCTL_ARG, IOCTL_CMD, IOCTL_RET, read};
use crate::{
    emit::{emit, header},
    slot::current_vcpu,
    state::{SENT, armed},
};

/// Offsets in `struct kvm_sregs` and `kvm_sregs2` (uapi `asm/kvm.h`), the same in both.
const CS_L: u64 = 19;
const CR0: u64 = 224;
const CR3: u64 = 240;
const CR4: u64 = 248;
const EFER: u64 = 264;

/// `syscalls:sys_enter_ioctl(fd, cmd, arg)`.
#[inline(always)]
fn at_sregs_enter(ctx: TracePointContext) {
    if !armed() {
        return;
    }
    // Only the thread whose exit on poison has just been sent: nothing else is of interest.
    if let Some(vcpu) = current_vcpu() {
        if vcpu.done == SENT {
            let cmd = read(&ctx, &IOCTL_CMD).unwrap_or(0) as u32;
            if cmd == KVM_GET_SREGS || cmd == KVM_GET_SREGS2 {
                vcpu.sregs = read(&ctx, &IOCTL_ARG).unwrap_or(0);
            }
        }
    }
}

tracepoint!(sregs_enter, at_sregs_enter);

#[inline(always)]
fn user<T>(address: u64) -> Option<T> {
    // SAFETY: fault-safe read of the VMM's memory.
    unsafe { bpf_probe_read_user(address as *const T) }.ok()
}

/// `syscalls:sys_exit_ioctl(ret)`.
#[inline(always)]
fn at_sregs_exit(ctx: TracePointContext) {
    if !armed() {
        return;
    }
    if let Some(vcpu) = current_vcpu() {
        let at = vcpu.sregs;
        if at != 0 {
            vcpu.sregs = 0;
            if read(&ctx, &IOCTL_RET) == Some(0) {
                if let (Some(cr0), Some(cr3), Some(cr4), Some(efer), Some(cs_l)) = (
                    user(at + CR0),
                    user(at + CR3),
                    user(at + CR4),
                    user(at + EFER),
                    user::<u8>(at + CS_L),
                ) {
                    let h = header::<Sregs>();
                    emit(Sregs {
                        h,
                        cr0,
                        cr3,
                        cr4,
                        efer,
                        cs_l: u32::from(cs_l),
                        pad: 0,
                    });
                }
            }
        }
    }
}

tracepoint!(sregs_exit, at_sregs_exit);
