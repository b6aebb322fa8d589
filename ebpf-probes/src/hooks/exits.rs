//! The way of a vCPU thread out of the guest and back: kvm_exit, kvm_page_fault, kvm_userspace_exit,
//! kvm_entry. All hot: nothing before the armed check.

use aya_ebpf::{
    Global,
    helpers::{bpf_ktime_get_ns, bpf_probe_read_kernel},
    macros::{kprobe, raw_tracepoint},
    programs::{ProbeContext, RawTracePointContext, TracePointContext},
};
use poisontrace_probes::{
    NO_VCPU,
    record::{McExit, PoisonExit, Reentry, TripleFault, UserspaceExit, VcpuReset, address},
};

use super::fields::{
    ENTRY_RIP, ENTRY_VCPU, EXIT_INTR_INFO, EXIT_ISA, EXIT_REASON, EXIT_RIP, EXIT_VCPU, FAULT_ADDRESS,
    FAULT_CODE_U32, FAULT_CODE_U64, FAULT_RIP, FAULT_VCPU, USER_ERRNO, USER_REASON, read,
};
use crate::{
    emit::{emit, header, header_of, send},
    recovery,
    slot::{self, Slot, current_vcpu},
    state::{COUNTED, SENT, Vcpu, armed, current_is_victim, since_attached},
    totals,
};

/// 1: guests run on shadow paging. Set before load.
#[unsafe(no_mangle)]
static SHADOW_PAGING: Global<u32> = Global::new(0);

const ISA_VMX: u32 = 1;
pub const ISA_SVM: u32 = 2;
const VMX_EXCEPTION: u32 = 0;
/// VM-exit interruption information (Intel SDM volume 3, "Information for VM Exits Due to Vectored Events").
const INTR_INFO_VALID: u32 = 1 << 31;
const INTR_INFO_TYPE: u32 = 7 << 8;
const HARD_EXCEPTION: u32 = 3 << 8;
const MC_VECTOR: u32 = 18;
/// #MC intercept: SVM_EXIT_EXCP_BASE + 18.
const SVM_MC: u32 = 0x52;
const VMX_TRIPLE_FAULT: u32 = 2;
const VMX_EPT_VIOLATION: u32 = 48;
const SVM_NPF: u32 = 0x400;
const SVM_SHUTDOWN: u32 = 0x7f;
/// KVM_EXIT_MEMORY_FAULT (uapi `linux/kvm.h`).
const MEMORY_FAULT: u32 = 39;
const RESET_VECTOR: u64 = 0xfff0;
/// `-EHWPOISON`.
pub const EHWPOISON: i64 = -133;
/// Longest x86 instruction, and the size of the VMCB's field (AMD APM volume 2, "Decode Assists").
const MAX_INSN: u32 = 15;

/// CLOCK_MONOTONIC, ns.
#[inline(always)]
pub fn now() -> u64 {
    // SAFETY: a helper without arguments.
    unsafe { bpf_ktime_get_ns() }
}

/// `kvm:kvm_exit`; layout by `format` (5.10 to 7.3 have the same names).
#[inline(always)]
fn at_kvm_exit(ctx: TracePointContext) {
    if !armed() {
        return;
    }
    let Some(slot) = slot::take() else { return };
    if slot.is_bystander() {
        return;
    }
    if slot.vcpu == NO_VCPU {
        slot.vcpu = read(&ctx, &EXIT_VCPU).unwrap_or(NO_VCPU);
    }
    if slot.isa == 0 {
        slot.isa = read(&ctx, &EXIT_ISA).unwrap_or(0);
    }
    under_way(slot, true);
    slot.begin(now());
    slot.read = 1;
    if FAULT_RIP.absent() {
        slot.rip = read(&ctx, &EXIT_RIP).unwrap_or(0);
    }
    if !slot.victim() {
        return;
    }
    slot.exit_reason = read(&ctx, &EXIT_REASON).unwrap_or(0);
    if machine_check(&ctx, slot) {
        emit(McExit {
            h: header::<McExit>(),
            rip: read(&ctx, &EXIT_RIP).unwrap_or(0),
            exit_reason: slot.exit_reason,
            isa: slot.isa,
        });
    }
    let dead = (slot.isa == ISA_VMX && slot.exit_reason & 0xffff == VMX_TRIPLE_FAULT)
        || (slot.isa == ISA_SVM && slot.exit_reason == SVM_SHUTDOWN);
    if dead {
        emit(TripleFault {
            h: header::<TripleFault>(),
            rip: read(&ctx, &EXIT_RIP).unwrap_or(0),
            exit_reason: slot.exit_reason,
            isa: slot.isa,
        });
    }
}

tracepoint!(kvm_exit, at_kvm_exit);

/// Whether the guest was left because the processor reported an error. EXIT_REASON 0 is also what a missing field gives; the
/// vector is then asked for.
#[inline(always)]
fn machine_check(ctx: &TracePointContext, slot: &Slot) -> bool {
    match slot.isa {
        ISA_SVM => slot.exit_reason == SVM_MC,
        ISA_VMX if slot.exit_reason & 0xffff == VMX_EXCEPTION => {
            let info = read(ctx, &EXIT_INTR_INFO).unwrap_or(0);
            info & (INTR_INFO_VALID | INTR_INFO_TYPE | 0xff) == INTR_INFO_VALID | HARD_EXCEPTION | MC_VECTOR
        }
        _ => false,
    }
}

/// `kvm_exit` and `kvm_entry` until there is poison, and from then until the daemon has attached the programs that read
/// their fields: the times of the exits between are not missed. A raw tracepoint costs a fraction of one whose fields
/// are laid out for each event, and no argument is read, as those differ between kernels. Both kinds may see one exit.
#[raw_tracepoint(tracepoint = "kvm_exit")]
pub fn kvm_exit_standby(_ctx: RawTracePointContext) -> i32 {
    if armed() {
        standby_exit();
    }
    0
}

/// Of its own, as the others that a hot hook calls: a program saves the registers that it uses before it does anything, and
/// until there is poison it is to do nothing.
#[inline(never)]
fn standby_exit() {
    if let Some(slot) = slot::take() {
        // With links that outlive the daemon both are attached, this one as the second.
        if slot.in_exit != 0 && slot.read != 0 {
            return;
        }
        if slot.isa == 0 {
            slot.isa = recovery::host_isa();
        }
        under_way(slot, true);
        slot.begin(now());
    }
}

/// The state of the exit under way. One on poison whose end nobody saw ([`Slot::vcpu_or`]) is counted: it is over, at a time that is
/// not known. One whose way to user space was seen has been counted then.
#[inline(always)]
fn under_way(slot: &mut Slot, at_exit: bool) -> Option<&'static mut Vcpu> {
    slot.vcpu_or(at_exit, |vcpu| {
        if vcpu.poison != 0 && vcpu.done == 0 {
            account_unended();
        }
    })
}

/// See [`standby_exit`].
#[inline(never)]
fn account_unended() {
    if let Some(vcpu) = slot::last() {
        account(vcpu, &Left::Unseen);
    }
}

/// See [`kvm_exit_standby`].
#[raw_tracepoint(tracepoint = "kvm_entry")]
pub fn kvm_entry_standby(_ctx: RawTracePointContext) -> i32 {
    if armed() {
        standby_entry();
    }
    0
}

/// See [`standby_exit`].
#[inline(never)]
fn standby_entry() {
    if let Some(slot) = slot::take() {
        enter(slot);
    }
}

/// `kvm:kvm_page_fault`; vcpu_id and guest_rip only where `format` has them (6.1.y, 6.2 on).
#[inline(always)]
fn at_kvm_page_fault(ctx: TracePointContext) {
    if armed() {
        page_fault(ctx);
    }
}

/// See [`standby_exit`].
#[inline(never)]
fn page_fault(ctx: TracePointContext) {
    let Some(slot) = slot::take() else { return };
    under_way(slot, false);
    let Some(vcpu) = slot.open_vcpu() else { return };
    // On VMX kvm_page_fault can be emitted a second time (shadow paging) in one exit: the first counts.
    if vcpu.fault_ns == 0 {
        vcpu.fault_ns = now();
        let begun = vcpu.exit_ns != 0 || vcpu.exit_tsc != 0 || recovery::late_begin();
        if vcpu.exit_reason == 0 && begun && SHADOW_PAGING.load() == 0 {
            vcpu.exit_reason = fault_reason(vcpu.isa);
        }
        if let Some(rip) = read(&ctx, &FAULT_RIP) {
            vcpu.rip = rip;
        }
        if let Some(number) = read(&ctx, &FAULT_VCPU) {
            vcpu.vcpu = number;
            slot.vcpu = number;
        }
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
}

tracepoint!(kvm_page_fault, at_kvm_page_fault);

/// `kvm_nested_vmexit`, of which no argument is read: after kvm_exit and before the exit is handled, if it is that of a guest which the guest
/// itself runs (nested_vmx_reflect_vmexit, svm_handle_exit).
#[raw_tracepoint(tracepoint = "kvm_nested_vmexit")]
pub fn kvm_nested_vmexit_raw(_ctx: RawTracePointContext) -> i32 {
    nested();
    0
}

#[inline(always)]
fn at_kvm_nested_vmexit(_ctx: TracePointContext) {
    nested();
}

tracepoint!(kvm_nested_vmexit, at_kvm_nested_vmexit);

#[inline(always)]
fn nested() {
    if armed() {
        if let Some(slot) = slot::take() {
            slot.nest();
        }
    }
}

/// The exit reason that kvm_page_fault is emitted for (handle_ept_violation, npf_interception): it is not read of
/// every exit of guests that never had poison. With shadow paging it is another, and not known.
#[inline(always)]
fn fault_reason(isa: u32) -> u32 {
    match isa {
        ISA_VMX => VMX_EPT_VIOLATION,
        ISA_SVM => SVM_NPF,
        _ => 0,
    }
}

/// The way on of an exit.
enum Left {
    /// Back into the guest.
    Entered { at_ns: u64 },
    /// To the VMM.
    User { at_ns: u64, reason: u32, errno: i32 },
    /// kvm_userspace_exit and kvm_entry were not attached yet.
    Unseen,
}

/// Counts the exit, and sends its record unless the page has had so many that only some are sent.
#[inline(always)]
fn account(vcpu: &mut Vcpu, left: &Left) {
    let (user_ns, entry_ns) = match *left {
        Left::Entered { at_ns } => (0, at_ns),
        Left::User { at_ns, .. } => (at_ns, 0),
        Left::Unseen => (0, 0),
    };
    let record = totals::add_exit(vcpu, user_ns | entry_ns, entry_ns != 0);
    if record == totals::NO_RECORD {
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
    let at_ns = match *left {
        Left::Entered { at_ns } | Left::User { at_ns, .. } => at_ns,
        Left::Unseen => now(),
    };
    let (user_reason, user_errno) = match *left {
        Left::User { reason, errno, .. } => (reason, errno),
        _ => (0, 0),
    };
    let exit = PoisonExit {
        h: header_of::<PoisonExit>(vcpu, at_ns),
        exit_ns: vcpu.exit_ns,
        fault_ns: vcpu.fault_ns,
        gup_ns: vcpu.gup_ns,
        gup_ret: vcpu.gup_ret,
        signal_ns: vcpu.signal_ns,
        user_ns,
        entry_ns,
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
        recovered: u32::from(vcpu.exit_tsc != 0),
        signal_lsb: vcpu.signal_lsb,
        pad: 0,
        before_exit_ns: vcpu.before_exit_ns,
        before_entry_ns: vcpu.before_entry_ns,
    };
    vcpu.before_exit_ns = 0;
    send(exit, record == totals::ANNOUNCED);
}

/// `kvm_userspace_exit(u32 reason, int errno)`, 4.19 to 7.3.
#[raw_tracepoint(tracepoint = "kvm_userspace_exit")]
pub fn kvm_userspace_exit_raw(ctx: RawTracePointContext) -> i32 {
    if armed() {
        leave_called(ctx.arg(0), ctx.arg(1));
    }
    0
}

/// See [`standby_exit`].
#[inline(never)]
fn leave_called(reason: u32, errno: i32) {
    leave(reason, errno);
}

/// The same, by its `format`.
#[inline(always)]
fn at_kvm_userspace_exit(ctx: TracePointContext) {
    if armed() {
        leave(
            read(&ctx, &USER_REASON).unwrap_or(u32::MAX),
            read(&ctx, &USER_ERRNO).unwrap_or(0),
        );
    }
}

tracepoint!(kvm_userspace_exit, at_kvm_userspace_exit);

/// KVM_EXIT_SHUTDOWN, FAIL_ENTRY, INTERNAL_ERROR and SYSTEM_EVENT: ends of a guest.
#[inline(always)]
fn is_end(reason: u32) -> bool {
    matches!(reason, 8 | 9 | 17 | 24)
}

#[inline(always)]
fn leave(reason: u32, errno: i32) {
    let slot = slot::mine();
    let special = is_end(reason) || reason == MEMORY_FAULT;
    let gpa = match slot {
        // A bare exit, as nearly all are.
        Some(slot) if slot.open == 0 => {
            slot.in_exit = 0;
            if !special {
                return;
            }
            None
        }
        slot => {
            let gpa = if special { current_gpa() } else { None };
            leave_open(slot, reason, errno);
            gpa
        }
    };
    if special {
        report_special(reason, errno, gpa);
    }
}

/// Of the exit under way.
#[inline(always)]
fn current_gpa() -> Option<u64> {
    current_vcpu()
        .filter(|vcpu| vcpu.in_exit != 0 && vcpu.address == address::GPA)
        .map(|vcpu| vcpu.gpa)
}

/// Sends the way to the VMM if it is the guest's end, or poison of private memory, at `gpa`.
#[inline(always)]
fn report_special(reason: u32, errno: i32, gpa: Option<u64>) {
    // Private memory (guest_memfd), whose poison sends no SIGBUS, so there is no victim to ask for. Pages that are to change
    // between private and shared end with the same reason and another errno.
    let private = reason == MEMORY_FAULT && errno == EHWPOISON as i32;
    if private || (is_end(reason) && current_is_victim()) {
        let gpa = gpa.filter(|_| private);
        emit(UserspaceExit {
            h: header::<UserspaceExit>(),
            reason,
            errno,
            gpa: gpa.unwrap_or(0),
            located: u32::from(gpa.is_some()),
            pad: 0,
        });
    }
}

#[inline(always)]
fn leave_open(slot: Option<&'static mut Slot>, reason: u32, errno: i32) {
    let Some(vcpu) = (match slot {
        Some(slot) => {
            let vcpu = under_way(slot, false).filter(|vcpu| vcpu.in_exit != 0);
            if vcpu.as_ref().is_none_or(|vcpu| vcpu.poison == 0) {
                // The exit ends here: what the VMM does now is no part of it.
                slot.in_exit = 0;
                slot.open = 0;
            }
            vcpu
        }
        None => slot::last().filter(|vcpu| vcpu.in_exit != 0),
    }) else {
        return;
    };
    if vcpu.poison == 0 {
        vcpu.in_exit = 0;
    } else if vcpu.done == 0 {
        account_left(vcpu, reason, errno);
    }
}

/// The exit has left for the VMM now.
#[inline(always)]
fn account_left(vcpu: &mut Vcpu, reason: u32, errno: i32) {
    let at_ns = now();
    vcpu.user_ns = at_ns;
    account(vcpu, &Left::User { at_ns, reason, errno });
}

/// KVM_EXIT_INTR (uapi `linux/kvm.h`), and -EINTR: KVM_RUN's answer to a signal.
const INTERRUPTED: (u32, i32) = (10, -4);

/// KVM's signal reaches the thread: the exit has left for the VMM, if kvm_userspace_exit has not shown that.
#[inline(never)]
pub fn delivered() {
    let answered = current_vcpu()
        .filter(|vcpu| vcpu.in_exit != 0 && vcpu.poison != 0 && vcpu.done == 0 && vcpu.signal_ns != 0);
    if let Some(vcpu) = answered {
        let (reason, errno) = INTERRUPTED;
        account_left(vcpu, reason, errno);
    }
}

/// The thread ends, and with it an exit whose way to the VMM was not seen.
#[inline(never)]
pub fn ended() {
    if let Some(vcpu) = slot::last() {
        if vcpu.in_exit != 0 && vcpu.poison != 0 && vcpu.done == 0 {
            account(vcpu, &Left::Unseen);
        }
    }
    show_reentry();
}

/// The thread goes back into its guest.
#[inline(always)]
fn enter(slot: &mut Slot) {
    if let Some(vcpu) = under_way(slot, false) {
        if vcpu.in_exit != 0 {
            vcpu.in_exit = 0;
            if vcpu.poison != 0 {
                reenter(vcpu);
                slot.reentry = u32::from(vcpu.before_exit_ns != 0);
            }
        }
    }
    slot.in_exit = 0;
    slot.open = 0;
}

#[inline(always)]
fn reenter(vcpu: &mut Vcpu) {
    let entry_ns = now();
    match vcpu.done {
        // It may have been in the VMM meanwhile, when nothing was attached yet that shows it.
        0 if vcpu.signal_ns != 0 && !since_attached(vcpu.signal_ns) => account(vcpu, &Left::Unseen),
        0 => account(vcpu, &Left::Entered { at_ns: entry_ns }),
        done => {
            totals::add_reentry(vcpu, entry_ns);
            if done == SENT {
                reentered(vcpu, entry_ns);
            }
        }
    }
}

/// Leaves it to the next exit's record, if the page has had its first.
#[inline(always)]
fn reentered(vcpu: &mut Vcpu, entry_ns: u64) {
    if vcpu.signal_lsb != 0 && vcpu.before_exit_ns == 0 {
        vcpu.before_exit_ns = vcpu.exit_ns;
        vcpu.before_entry_ns = entry_ns;
        return;
    }
    // To wake the daemon from within kvm_entry is an interrupt, and one more exit: only after a long stay in the VMM.
    let reentry = Reentry {
        h: header_of::<Reentry>(vcpu, entry_ns),
        exit_ns: vcpu.exit_ns,
        entry_ns,
    };
    send(reentry, entry_ns.wrapping_sub(vcpu.user_ns) > totals::LULL_NS);
}

/// No exit on poison follows that would have it in its record.
#[inline(never)]
fn show_reentry() {
    if let Some(vcpu) = slot::last() {
        if vcpu.before_exit_ns != 0 {
            let reentry = Reentry {
                h: header_of::<Reentry>(vcpu, now()),
                exit_ns: vcpu.before_exit_ns,
                entry_ns: vcpu.before_entry_ns,
            };
            vcpu.before_exit_ns = 0;
            send(reentry, false);
        }
    }
}

/// `kvm:kvm_entry`.
#[inline(always)]
fn at_kvm_entry(ctx: TracePointContext) {
    if !armed() {
        return;
    }
    let Some(slot) = slot::take() else { return };
    if slot.is_bystander() {
        return;
    }
    if slot.vcpu == NO_VCPU {
        slot.vcpu = read(&ctx, &ENTRY_VCPU).unwrap_or(NO_VCPU);
    }
    // A bare exit that returns to the VMM is over by then.
    let bare = slot.in_exit != 0 && slot.open == 0;
    if slot.open == 0 && slot.reentry != 0 {
        slot.reentry = 0;
        show_reentry();
    }
    enter(slot);
    if !slot.victim() {
        return;
    }
    if bare {
        if slot.is_dated() {
            totals::add_baseline(slot, now);
        }
        // The VMM alone resets a vCPU to this place.
        return;
    }
    if let Some(rip) = read(&ctx, &ENTRY_RIP) {
        if rip == RESET_VECTOR {
            emit(VcpuReset {
                h: header::<VcpuReset>(),
                rip,
            });
        }
    }
}

tracepoint!(kvm_entry, at_kvm_entry);

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
