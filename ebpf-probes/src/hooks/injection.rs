//! What the guest is told: the ioctls by which a VMM queues a machine check, and its delivery.
//! ("kvm_inject_mce" is the common name for this; no kernel has a function of that name.)

use aya_ebpf::{
    EbpfContext,
    helpers::{bpf_probe_read_user, generated::bpf_probe_read_user as probe_read_user_raw},
    macros::{kprobe, map, tracepoint},
    maps::PerCpuArray,
    programs::{ProbeContext, TracePointContext},
};
use aya_log_ebpf::debug;
use poisontrace_probes::{
    MAX_BANKS,
    ioctl::{
        KVM_SET_MSRS, KVM_SET_VCPU_EVENTS, KVM_X86_SET_MCE, LEGACY_BANKS, MC_VECTOR, MC0_CTL, MCG_STATUS,
        STATUS_VAL,
    },
    record::{Bank, Delivered, McgStatus, QueueException, ToldMce, ToldMsrs, told_flag},
};

use super::fields::{Offset, absent, read};
use crate::{
    emit::{emit, header},
    state::{armed, current_is_victim},
};

#[unsafe(no_mangle)]
static INJ_VECTOR: Offset = absent();
#[unsafe(no_mangle)]
static INJ_REINJECTED: Offset = absent();
#[unsafe(no_mangle)]
static IOCTL_CMD: Offset = absent();
#[unsafe(no_mangle)]
static IOCTL_ARG: Offset = absent();
#[unsafe(no_mangle)]
static MSR_WRITE: Offset = absent();
#[unsafe(no_mangle)]
static MSR_INDEX: Offset = absent();
#[unsafe(no_mangle)]
static MSR_DATA: Offset = absent();

/// `struct kvm_msr_entry`.
#[derive(Clone, Copy)]
#[repr(C)]
struct MsrEntry {
    index: u32,
    reserved: u32,
    data: u64,
}

/// More entries than QEMU 10 sets (some 150); a longer list is cut and flagged.
const MAX_MSRS: usize = 256;

#[repr(C)]
struct MsrScratch {
    entries: [MsrEntry; MAX_MSRS],
    /// CTL, STATUS, ADDR, MISC of each bank.
    mca: [u64; (LEGACY_BANKS * 4) as usize],
}

/// Too large for the 512-byte stack.
#[map]
static MSR_SCRATCH: PerCpuArray<MsrScratch> = PerCpuArray::with_max_entries(1, 0);

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
                Ok(mce) => emit(ToldMce {
                    h: header::<ToldMce>(),
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

#[inline(always)]
fn set_msrs<C: EbpfContext>(ctx: &C, arg: u64) {
    // struct kvm_msrs: nmsrs u32, pad u32, entries.
    // SAFETY: fault-safe read of the VMM's memory.
    let Ok(nmsrs) = (unsafe { bpf_probe_read_user(arg as *const u32) }) else {
        return;
    };
    let Some(scratch) = MSR_SCRATCH.get_ptr_mut(0) else {
        return;
    };
    // SAFETY: a per-CPU map value; tracing programs do not nest on one CPU.
    let scratch = unsafe { &mut *scratch };
    let mut flags = 0;
    let mut used = nmsrs;
    if used > MAX_MSRS as u32 {
        used = MAX_MSRS as u32;
        flags |= told_flag::TRUNCATED;
    }
    // SAFETY: at most MAX_MSRS entries into an array of that many; fault-safe.
    let read = unsafe {
        probe_read_user_raw(
            scratch.entries.as_mut_ptr().cast(),
            used * core::mem::size_of::<MsrEntry>() as u32,
            (arg + 8) as *const _,
        )
    };
    if read != 0 {
        debug!(ctx, "KVM_SET_MSRS: {} entries not readable: {}", nmsrs, read);
        emit(ToldMsrs {
            h: header::<ToldMsrs>(),
            mcg_status: 0,
            banks_used: 0,
            flags: flags | told_flag::UNREADABLE,
            banks: [NO_BANK; MAX_BANKS],
        });
        return;
    }
    let mut mcg_status = 0;
    let mut mca_seen = false;
    for status in scratch.mca.iter_mut() {
        *status = 0;
    }
    for i in 0..MAX_MSRS {
        if i as u32 >= used {
            break;
        }
        let entry = scratch.entries[i];
        let slot = entry.index.wrapping_sub(MC0_CTL);
        if entry.index == MCG_STATUS {
            mcg_status = entry.data;
            flags |= told_flag::HAS_MCG;
        } else if slot < LEGACY_BANKS * 4 {
            scratch.mca[slot as usize & 0x7f] = entry.data;
            mca_seen = true;
        }
    }
    if !mca_seen {
        return;
    }
    let mut record = ToldMsrs {
        h: header::<ToldMsrs>(),
        mcg_status,
        banks_used: 0,
        flags,
        banks: [NO_BANK; MAX_BANKS],
    };
    for bank in 0..LEGACY_BANKS as usize {
        let status = scratch.mca[bank * 4 + 1];
        if status & STATUS_VAL == 0 {
            continue;
        }
        let at = record.banks_used as usize;
        if at >= MAX_BANKS {
            record.flags |= told_flag::TRUNCATED;
            break;
        }
        record.banks[at & (MAX_BANKS - 1)] = Bank {
            bank: bank as u64,
            status,
            addr: scratch.mca[bank * 4 + 2],
            misc: scratch.mca[bank * 4 + 3],
        };
        record.banks_used += 1;
    }
    emit(record);
}

const NO_BANK: Bank = Bank {
    bank: 0,
    status: 0,
    addr: 0,
    misc: 0,
};

/// `long kvm_arch_vcpu_ioctl(struct file *filp, unsigned int ioctl, unsigned long arg)`, global in kvm.ko,
/// 4.19 to 7.3; sees every vCPU ioctl but those that virt/kvm/kvm_main.c handles itself.
#[kprobe]
pub fn vcpu_ioctl(ctx: ProbeContext) -> u32 {
    if armed() && current_is_victim() {
        if let (Some(cmd), Some(arg)) = (ctx.arg::<u32>(1), ctx.arg::<u64>(2)) {
            ioctl(&ctx, cmd, arg);
        }
    }
    0
}

/// `syscalls:sys_enter_ioctl`, where the kernel has no kprobes.
#[tracepoint]
pub fn sys_enter_ioctl(ctx: TracePointContext) -> u32 {
    if armed() && current_is_victim() {
        // The fields are 8 bytes wide, as system call arguments are.
        if let (Some(cmd), Some(arg)) = (read::<u64>(&ctx, &IOCTL_CMD), read::<u64>(&ctx, &IOCTL_ARG)) {
            ioctl(&ctx, cmd as u32, arg);
        }
    }
    0
}

/// `kvm:kvm_inj_exception`; `reinjected` from 6.0 and in the stable trees of 5.10 and 5.15.
#[tracepoint]
pub fn kvm_inj_exception(ctx: TracePointContext) -> u32 {
    if !armed() {
        return 0;
    }
    if read::<u8>(&ctx, &INJ_VECTOR) == Some(MC_VECTOR) && read::<u8>(&ctx, &INJ_REINJECTED).unwrap_or(0) == 0
    {
        emit(Delivered {
            h: header::<Delivered>(),
        });
    }
    0
}

/// `kvm:kvm_msr`: the guest's own RDMSR and WRMSR. Writing 0 to MCG_STATUS is the last thing that a
/// machine-check handler does which means to go on.
#[tracepoint]
pub fn kvm_msr(ctx: TracePointContext) -> u32 {
    if !armed() {
        return 0;
    }
    if read::<u32>(&ctx, &MSR_INDEX) == Some(MCG_STATUS) && current_is_victim() {
        emit(McgStatus {
            h: header::<McgStatus>(),
            data: read(&ctx, &MSR_DATA).unwrap_or(0),
            write: read(&ctx, &MSR_WRITE).unwrap_or(0),
            pad: 0,
        });
    }
    0
}
