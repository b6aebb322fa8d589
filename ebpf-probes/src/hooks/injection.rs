//! Injection: the ioctls by which a VMM queues a machine check, and its delivery.
//! ("kvm_inject_mce" is the common name for this; no kernel has a function of that name.)

use aya_ebpf::{
    EbpfContext,
    helpers::{bpf_probe_read_user, generated::bpf_probe_read_user as probe_read_user_raw},
    macros::{kprobe, map, raw_tracepoint},
    maps::{LruHashMap, PerCpuArray},
    programs::{ProbeContext, RawTracePointContext, TracePointContext},
};
use aya_log_ebpf::debug;
use poisontrace_probes::{
    MAX_MSRS,
    ioctl::{KVM_SET_MSRS, KVM_SET_VCPU_EVENTS, KVM_X86_SET_MCE, MC_VECTOR, MCG_STATUS},
    record::{Bank, Delivered, McgStatus, Msr, QueueException, SetMce, SetMsrs},
};

use super::{
    fields::{INJ_REINJECTED, INJ_VECTOR, IOCTL_ARG, IOCTL_CMD, MSR_DATA, MSR_INDEX, MSR_WRITE, read},
    vcpu,
};
use crate::{
    emit::{emit, emit_bytes, header},
    slot,
    state::{armed, current_tid},
};

/// A record with room for its MSRs: too large for the 512-byte stack.
#[repr(C)]
struct MsrRecord {
    head: SetMsrs,
    entries: [Msr; MAX_MSRS],
}

#[map]
static MSRS: PerCpuArray<MsrRecord> = PerCpuArray::with_max_entries(1, 0);

/// `struct kvm_x86_mce`, 64 bytes.
#[derive(Clone, Copy)]
#[repr(C)]
struct KvmX86Mce {
    status: u64,
    addr: u64,
    misc: u64,
    mcg_status: u64,
    bank: u8,
    pad1: [u8; 7],
    pad2: [u64; 3],
}

/// The first bytes of `struct kvm_vcpu_events`.
#[derive(Clone, Copy)]
#[repr(C)]
struct VcpuEvents {
    injected: u8,
    nr: u8,
    has_error_code: u8,
    pending: u8,
}

#[inline(always)]
fn ioctl<C: EbpfContext>(ctx: &C, cmd: u32, arg: u64) {
    match cmd {
        KVM_SET_VCPU_EVENTS => {
            // SAFETY: fault-safe read of the VMM's memory.
            if let Ok(events) = unsafe { bpf_probe_read_user(arg as *const VcpuEvents) } {
                if events.nr == MC_VECTOR && (events.pending | events.injected) != 0 {
                    emit(QueueException {
                        h: header::<QueueException>(),
                        pending: u32::from(events.pending),
                        injected: u32::from(events.injected),
                    });
                }
            }
        }
        KVM_X86_SET_MCE => {
            // SAFETY: fault-safe read of the VMM's memory.
            match unsafe { bpf_probe_read_user(arg as *const KvmX86Mce) } {
                Ok(mce) => emit(SetMce {
                    h: header::<SetMce>(),
                    mcg_status: mce.mcg_status,
                    bank: Bank {
                        bank: u64::from(mce.bank),
                        status: mce.status,
                        addr: mce.addr,
                        misc: mce.misc,
                    },
                }),
                Err(err) => debug!(ctx, "KVM_X86_SET_MCE: struct not readable: {}", err),
            }
        }
        KVM_SET_MSRS => set_msrs(ctx, arg),
        _ => {}
    }
}

/// Hands the whole list over; the daemon finds the machine-check MSRs in it.
#[inline(always)]
fn set_msrs<C: EbpfContext>(ctx: &C, arg: u64) {
    // struct kvm_msrs: nmsrs u32, pad u32, entries.
    // SAFETY: fault-safe read of the VMM's memory.
    let Ok(nmsrs) = (unsafe { bpf_probe_read_user(arg as *const u32) }) else {
        return;
    };
    // STATUS, ADDR and MISC of a bank at least; a VMM that sets single MSRs does not inject an error by them.
    if nmsrs < FEWEST_MSRS {
        return;
    }
    let Some(record) = MSRS.get_ptr_mut(0) else {
        return;
    };
    // SAFETY: a per-CPU map value; tracing programs do not nest on one CPU.
    let record = unsafe { &mut *record };
    let used = at_most_max_msrs(u64::from(nmsrs));
    // SAFETY: at most MAX_MSRS entries into an array of that many; fault-safe.
    let read = unsafe {
        probe_read_user_raw(
            record.entries.as_mut_ptr().cast(),
            (used * size_of::<Msr>() as u64) as u32,
            (arg + 8) as *const _,
        )
    };
    if read != 0 {
        debug!(ctx, "KVM_SET_MSRS: {} entries not readable: {}", nmsrs, read);
        emit(SetMsrs {
            h: header::<SetMsrs>(),
            nmsrs,
            used: 0,
            unreadable: 1,
            pad: 0,
        });
        return;
    }
    record.head = SetMsrs {
        h: header::<SetMsrs>(),
        nmsrs,
        used: used as u32,
        unreadable: 0,
        pad: 0,
    };
    let bytes = size_of::<SetMsrs>() + used as usize * size_of::<Msr>();
    emit_bytes(core::ptr::from_mut(record).cast(), bytes);
}

const FEWEST_MSRS: u32 = 3;

/// A function of its own, to which the number is 64 bits wide: up to 6.1 the verifier loses the bound of a register whose lower half
/// alone was compared, as the compiler otherwise does.
#[inline(never)]
fn at_most_max_msrs(n: u64) -> u64 {
    n.min(MAX_MSRS as u64)
}

/// `long kvm_arch_vcpu_ioctl(struct file *filp, unsigned int ioctl, unsigned long arg)`, global in kvm.ko,
/// 4.19 to 7.3; sees every vCPU ioctl but those that virt/kvm/kvm_main.c handles itself.
#[kprobe]
pub fn vcpu_ioctl(ctx: ProbeContext) -> u32 {
    if armed() && slot::victim() {
        if let (Some(cmd), Some(arg)) = (ctx.arg::<u32>(1), ctx.arg::<u64>(2)) {
            ioctl(&ctx, cmd, arg);
        }
    }
    0
}

/// `syscalls:sys_enter_ioctl`, where the kernel has no kprobes.
#[inline(always)]
fn at_sys_enter_ioctl(ctx: TracePointContext) {
    if armed() && slot::victim() {
        // The fields are 8 bytes wide, as system call arguments are.
        if let (Some(cmd), Some(arg)) = (read(&ctx, &IOCTL_CMD), read(&ctx, &IOCTL_ARG)) {
            ioctl(&ctx, cmd as u32, arg);
        }
    }
}

tracepoint!(sys_enter_ioctl, at_sys_enter_ioctl);

/// `kvm:kvm_inj_exception`; `reinjected` from 6.0 and in the stable trees of 5.10 and 5.15.
#[inline(always)]
fn at_kvm_inj_exception(ctx: TracePointContext) {
    if !armed() {
        return;
    }
    if read(&ctx, &INJ_VECTOR) == Some(MC_VECTOR) && read(&ctx, &INJ_REINJECTED).unwrap_or(0) == 0 {
        if let Some(vcpu) = vcpu::loaded().filter(|vcpu| *vcpu != 0) {
            let _ = MC_ON.insert(vcpu, current_tid(), 0);
        }
        emit(Delivered {
            h: header::<Delivered>(),
            rip: vcpu::rip().unwrap_or(0),
        });
    }
}

tracepoint!(kvm_inj_exception, at_kvm_inj_exception);

/// `kvm_msr(unsigned int write, u32 ecx, u64 data, bool exception)`, 4.19 to 7.3: the guest's own RDMSR and WRMSR.
/// Writing 0 to MCG_STATUS is the last thing that a machine-check handler does which means to go on.
#[raw_tracepoint(tracepoint = "kvm_msr")]
pub fn kvm_msr_raw(ctx: RawTracePointContext) -> i32 {
    if armed() && ctx.arg::<u32>(1) == MCG_STATUS {
        victims_mcg_status(ctx.arg(0), ctx.arg(2));
    }
    0
}

/// A function of its own: see `exits::standby_exit`.
#[inline(never)]
fn victims_mcg_status(write: u32, data: u64) {
    if slot::victim() {
        mcg_status(write, data);
    }
}

/// The same, by its `format`.
#[inline(always)]
fn at_kvm_msr(ctx: TracePointContext) {
    if armed() && slot::victim() && read(&ctx, &MSR_INDEX) == Some(MCG_STATUS) {
        mcg_status(
            read(&ctx, &MSR_WRITE).unwrap_or(0),
            read(&ctx, &MSR_DATA).unwrap_or(0),
        );
    }
}

tracepoint!(kvm_msr, at_kvm_msr);

/// The thread on which each vCPU (its address) was last entered with a #MC: a VMM may drive a vCPU with several.
#[map]
static MC_ON: LruHashMap<u64, u32> = LruHashMap::with_max_entries(4096, 0);

#[inline(always)]
fn mcg_status(write: u32, data: u64) {
    let entered = vcpu::loaded().and_then(|vcpu| MC_ON.get_ptr(vcpu));
    // SAFETY: a map value of this size, checked by the verifier.
    let mc_on = entered.map_or(0, |tid| unsafe { *tid });
    emit(McgStatus {
        h: header::<McgStatus>(),
        data,
        write,
        mc_on: if mc_on == current_tid() { 0 } else { mc_on },
    });
}
