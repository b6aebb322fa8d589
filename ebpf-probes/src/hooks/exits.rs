//! The way of a vCPU thread out of the guest and back: kvm_exit, kvm_page_fault, kvm_userspace_exit,
//! kvm_entry. All hot: nothing before the armed check.

use aya_ebpf::{
    Global,
    helpers::{bpf_ktime_get_ns, bpf_probe_read_kernel},
    macros::{kprobe, tracepoint},
    programs::{ProbeContext, TracePointContext},
};
use poisontrace_probes::{
    NO_VCPU,
    record::{PoisonExit, Reentry, TripleFault, UserspaceExit, VcpuReset, address},
};

use super::fields::{
    ENTRY_RIP, ENTRY_VCPU, EXIT_ISA, EXIT_REASON, EXIT_RIP, EXIT_VCPU, FAULT_ADDRESS, FAULT_CODE_U32,
    FAULT_CODE_U64, FAULT_RIP, FAULT_VCPU, USER_ERRNO, USER_REASON, read,
};
use crate::{
    emit::{emit, header},
    state::{COUNTED, SENT, VCPUS, Vcpu, armed, current_is_victim, current_tid, current_vcpu},
    totals,
};

/// 1: guests run on shadow paging. Set before load.
#[unsafe(no_mangle)]
static SHADOW_PAGING: Global<u32> = Global::new(0);

const ISA_VMX: u32 = 1;
const ISA_SVM: u32 = 2;
const VMX_TRIPLE_FAULT: u32 = 2;
const SVM_SHUTDOWN: u32 = 0x7f;
const RESET_VECTOR: u64 = 0xfff0;
/// `-EHWPOISON`.
pub const EHWPOISON: i64 = -133;
/// Longest x86 instruction, and the size of the VMCB's field (AMD APM volume 2, "Decode Assists").
const MAX_INSN: u32 = 15;

#[inline(always)]
fn now() -> u64 {
    // SAFETY: a helper without arguments.
    unsafe { bpf_ktime_get_ns() }
}

/// `kvm:kvm_exit`; layout by `format` (5.10 to 7.3 have the same names).
#[tracepoint]
pub fn kvm_exit(ctx: TracePointContext) -> u32 {
    if !armed() {
        return 0;
    }
    let exit_ns = now();
    let mut state = Vcpu::new(read(&ctx, &EXIT_VCPU).unwrap_or(NO_VCPU));
    state.exit_ns = exit_ns;
    state.in_exit = 1;
    state.exit_reason = read(&ctx, &EXIT_REASON).unwrap_or(0);
    state.isa = read(&ctx, &EXIT_ISA).unwrap_or(0);
    state.rip = read(&ctx, &EXIT_RIP).unwrap_or(0);
    match current_vcpu() {
        Some(vcpu) => *vcpu = state,
        // A full LRU map makes room; an error here loses this exit's times, not its signal.
        None => {
            let _ = VCPUS.insert(current_tid(), state, 0);
        }
    }
    let dead = (state.isa == ISA_VMX && state.exit_reason & 0xffff == VMX_TRIPLE_FAULT)
        || (state.isa == ISA_SVM && state.exit_reason == SVM_SHUTDOWN);
    if dead && current_is_victim() {
        emit(TripleFault {
            h: header::<TripleFault>(),
            rip: state.rip,
            exit_reason: state.exit_reason,
            isa: state.isa,
        });
    }
    0
}

/// `kvm:kvm_page_fault`; vcpu_id and guest_rip only where `format` has them (6.1.y, 6.2 on).
#[tracepoint]
pub fn kvm_page_fault(ctx: TracePointContext) -> u32 {
    if !armed() {
        return 0;
    }
    let vcpu = match current_vcpu() {
        Some(vcpu) => vcpu,
        None => {
            // The exit came before the arming and the fault after it: no exit time, but not missed.
            let mut state = Vcpu::new(read(&ctx, &FAULT_VCPU).unwrap_or(NO_VCPU));
            state.in_exit = 1;
            state.rip = read(&ctx, &FAULT_RIP).unwrap_or(0);
            if VCPUS.insert(current_tid(), state, 0).is_err() {
                return 0;
            }
            match current_vcpu() {
                Some(vcpu) => vcpu,
                None => return 0,
            }
        }
    };
    // On VMX kvm_page_fault can be emitted a second time (shadow paging) in one exit: the first counts.
    if vcpu.fault_ns == 0 {
        vcpu.fault_ns = now();
        if let Some(at) = read(&ctx, &FAULT_ADDRESS) {
            vcpu.gpa = at;
            vcpu.address = if vcpu.nested != 0 {
                address::NESTED
            } else if SHADOW_PAGING.load() != 0 {
                address::VIRTUAL
            } else {
                address::GPA
            };
        }
        vcpu.fault_code = match read(&ctx, &FAULT_CODE_U64) {
            Some(code) => code,
            None => u64::from(read(&ctx, &FAULT_CODE_U32).unwrap_or(0)),
        };
    }
    0
}

/// `kvm:kvm_nested_vmexit`: after kvm_exit and before the exit is handled, if it is that of a guest which the guest
/// itself runs (nested_vmx_reflect_vmexit, svm_handle_exit).
#[tracepoint]
pub fn kvm_nested_vmexit(_ctx: TracePointContext) -> u32 {
    if armed() {
        if let Some(vcpu) = current_vcpu() {
            vcpu.nested = 1;
        }
    }
    0
}

/// Counts the exit, and sends its record unless the page has had so many that only some are sent.
#[inline(always)]
fn account(vcpu: &mut Vcpu, left_ns: u64, user: Option<(u32, i32)>) {
    if !totals::add_exit(vcpu, left_ns, user.is_none()) {
        vcpu.done = COUNTED;
        return;
    }
    vcpu.done = SENT;
    let mut insn = [0; 16];
    let mut insn_len = vcpu.insn_len;
    if vcpu.insn != 0 && insn_len != 0 && insn_len <= MAX_INSN {
        // SAFETY: fault-safe read of kernel memory: the VMCB's 15 bytes.
        match unsafe { bpf_probe_read_kernel(vcpu.insn as *const [u8; MAX_INSN as usize]) } {
            Ok(bytes) => insn[..MAX_INSN as usize].copy_from_slice(&bytes),
            Err(_) => insn_len = 0,
        }
    } else {
        insn_len = 0;
    }
    let (user_reason, user_errno) = user.unwrap_or((0, 0));
    emit(PoisonExit {
        h: header::<PoisonExit>(),
        exit_ns: vcpu.exit_ns,
        fault_ns: vcpu.fault_ns,
        gup_ns: vcpu.gup_ns,
        gup_ret: vcpu.gup_ret,
        signal_ns: vcpu.signal_ns,
        user_ns: if user.is_some() { left_ns } else { 0 },
        entry_ns: if user.is_some() { 0 } else { left_ns },
        rip: vcpu.rip,
        gpa: vcpu.gpa,
        fault_code: vcpu.fault_code,
        hva: vcpu.hva,
        exit_reason: vcpu.exit_reason,
        isa: vcpu.isa,
        gup_calls: vcpu.gup_calls,
        user_reason,
        user_errno,
        insn_len,
        insn,
        address: vcpu.address,
        pad: 0,
    });
}

/// `kvm:kvm_userspace_exit(reason, errno)`, 4.19 to 7.3.
#[tracepoint]
pub fn kvm_userspace_exit(ctx: TracePointContext) -> u32 {
    if !armed() {
        return 0;
    }
    let reason = read(&ctx, &USER_REASON).unwrap_or(u32::MAX);
    let errno = read(&ctx, &USER_ERRNO).unwrap_or(0);
    if let Some(vcpu) = current_vcpu() {
        if vcpu.poison == 0 {
            // The exit ends here: what the VMM does now is no part of it.
            vcpu.in_exit = 0;
        } else if vcpu.in_exit != 0 && vcpu.done == 0 {
            let user_ns = now();
            vcpu.user_ns = user_ns;
            account(vcpu, user_ns, Some((reason, errno)));
        }
    }
    // FAIL_ENTRY, INTERNAL_ERROR, SHUTDOWN, SYSTEM_EVENT: ends of a guest. MEMORY_FAULT (39): private
    // memory, whose poison sends no SIGBUS, so there is no victim to ask for.
    let end = reason == 8 || reason == 9 || reason == 17 || reason == 24;
    if reason == 39 || (end && current_is_victim()) {
        emit(UserspaceExit {
            h: header::<UserspaceExit>(),
            reason,
            errno,
        });
    }
    0
}

/// `kvm:kvm_entry`.
#[tracepoint]
pub fn kvm_entry(ctx: TracePointContext) -> u32 {
    if !armed() {
        return 0;
    }
    if let Some(vcpu) = current_vcpu() {
        if vcpu.in_exit != 0 {
            vcpu.in_exit = 0;
            if vcpu.poison != 0 {
                let entry_ns = now();
                match vcpu.done {
                    0 => account(vcpu, entry_ns, None),
                    done => {
                        totals::add_reentry(vcpu, entry_ns);
                        if done == SENT {
                            emit(Reentry {
                                h: header::<Reentry>(),
                                exit_ns: vcpu.exit_ns,
                                entry_ns,
                            });
                        }
                    }
                }
            } else {
                totals::add_floor(vcpu, now);
            }
        }
    } else {
        let vcpu = read(&ctx, &ENTRY_VCPU).unwrap_or(NO_VCPU);
        // No room: the vCPU number stays unknown until its next exit.
        let _ = VCPUS.insert(current_tid(), Vcpu::new(vcpu), 0);
    }
    if let Some(rip) = read(&ctx, &ENTRY_RIP) {
        if rip == RESET_VECTOR && current_is_victim() {
            emit(VcpuReset {
                h: header::<VcpuReset>(),
                rip,
            });
        }
    }
    0
}

/// `int kvm_mmu_page_fault(struct kvm_vcpu *vcpu, gpa_t cr2_or_gpa, u64 error_code, void *insn, int insn_len)`,
/// exported by kvm.ko, 4.19 to 7.3. npf_interception passes the VMCB's instruction bytes, where the processor
/// has decode assists; on VMX there are none. Only where they are is noted here: they are read if the page turns
/// out to be poisoned.
#[kprobe]
pub fn page_fault_insn(ctx: ProbeContext) -> u32 {
    if !armed() {
        return 0;
    }
    if let (Some(insn), Some(len)) = (ctx.arg::<u64>(3), ctx.arg::<u32>(4)) {
        if insn != 0 {
            if let Some(vcpu) = current_vcpu() {
                vcpu.insn = insn;
                vcpu.insn_len = len;
            }
        }
    }
    0
}
