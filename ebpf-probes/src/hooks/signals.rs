//! Signals for poison on the host: SIGBUS with BUS_MCEERR_AO or BUS_MCEERR_AR.

use aya_ebpf::{
    EbpfContext,
    helpers::{bpf_get_current_comm, bpf_ktime_get_ns, bpf_probe_read_kernel},
    macros::{fentry, kprobe, map, raw_tracepoint},
    maps::LruHashMap,
    programs::{FEntryContext, ProbeContext, RawTracePointContext, TracePointContext},
};
use aya_log_ebpf::debug;
use poisontrace_probes::{
    page_totals::EVENTS_PER_PAGE,
    record::{Sigbus, SigbusNoAddress, address},
};

use super::{
    exits::{ISA_SVM, delivered},
    fields::{
        SIGNAL_CODE, SIGNAL_COMM, SIGNAL_NUMBER, SIGNAL_TID, TASK_COMM, TASK_PID, TASK_TGID, member, read,
    },
    memory_failure, vcpu,
};
use crate::{
    emit::{emit, header},
    recovery,
    slot::{self, current_vcpu, exit_under_way},
    state::{
        Vcpu, arm, armed, claimant, current_pid, current_task, current_tid, held, unproved_may_pass, victim,
    },
    totals,
};

const SIGBUS: i32 = 7;
const BUS_MCEERR_AR: u32 = 4;
const BUS_MCEERR_AO: u32 = 5;
const PAGE_SHIFT: u64 = 12;

/// The last signal of each page (process, page of its memory) that answers no exit, hence is in no totals: for a daemon whose
/// predecessor was killed before it had stored what it had read.
#[map]
static SIGNALS: LruHashMap<[u64; 2], Sigbus> = LruHashMap::with_max_entries(1024, 0);

/// The first bytes of `struct kernel_siginfo`, laid out as user space sees it (uapi `asm-generic/siginfo.h`).
#[derive(Clone, Copy)]
#[repr(C)]
struct Siginfo {
    signo: i32,
    errno: i32,
    code: i32,
    pad: i32,
    addr: u64,
    lsb: u16,
}

/// Whom a signal is for.
struct Target {
    tid: u32,
    pid: u32,
    /// `struct task_struct`, 0: the current one's.
    task: u64,
}

impl Target {
    #[inline(always)]
    fn current() -> Self {
        Self {
            tid: current_tid(),
            pid: current_pid(),
            task: 0,
        }
    }

    /// Where the kernel's BTF does not lead to its process, it is at least known to be the current one if the thread is.
    #[inline(always)]
    fn task(task: u64) -> Self {
        // As KVM's answer to a fault is: no member is read.
        if task == current_task() {
            return Self::current();
        }
        let tid = member(task, &TASK_PID).map_or(0, |tid| tid as u32);
        let pid = match member(task, &TASK_TGID) {
            Some(pid) => pid as u32,
            None if tid == current_tid() => current_pid(),
            None => 0,
        };
        Self { tid, pid, task }
    }

    #[inline(always)]
    fn comm(&self) -> [u8; 16] {
        let comm = match self.task {
            0 => bpf_get_current_comm().ok(),
            task => member(task, &TASK_COMM),
        };
        comm.unwrap_or([0; 16])
    }
}

/// Poison that the daemon never saw (it started later) shows itself here. `proved`: the kernel alone can have sent it, to
/// another process or for an exit of a vCPU. Of all others a process can make as many as it likes, by rt_sigqueueinfo(2) or
/// UFFDIO_POISON: they arm nothing, and are remembered apart but for those that meet a thread with a vCPU at work.
#[inline(always)]
fn poison_seen<C: EbpfContext>(ctx: &C, pid: u32, proved: bool) {
    if proved {
        arm();
    }
    if pid == 0 || !armed() {
        return;
    }
    if pid == current_pid() && slot::mine().is_some_and(|slot| slot.is_proved_victim()) {
        return;
    }
    if proved || pid == current_pid() && vcpu::loaded().is_some_and(|vcpu| vcpu != 0) {
        victim(ctx, pid);
    } else {
        claimant(ctx, pid);
    }
}

/// Notes the signal with the exit that it answers; returns that, and how many exits the page had before it. From [`EVENTS_PER_PAGE`]
/// on the page's totals count the signal with its exit, so that its record would add nothing.
#[inline(always)]
fn answers_exit(code: u32, tid: u32, hva: u64) -> Option<(&'static mut Vcpu, u64)> {
    if code != BUS_MCEERR_AR || tid != current_tid() {
        return None;
    }
    let vcpu = exit_under_way(slot::mine())?;
    if vcpu.in_exit == 0 {
        return None;
    }
    // SAFETY: a helper without arguments.
    vcpu.signal_ns = unsafe { bpf_ktime_get_ns() };
    recovery::complete(vcpu);
    if recovery::host_isa() == ISA_SVM && vcpu.insn == 0 {
        if let Some((insn, len)) = vcpu::instruction() {
            vcpu.insn = insn;
            vcpu.insn_len = len;
        }
    }
    vcpu.hva = hva;
    vcpu.poison = 1;
    let before = totals::exits_before(vcpu);
    Some((vcpu, before))
}

/// Whether the record of the exit that a signal answers stands for the signal as well.
#[inline(always)]
fn has_no_record((vcpu, before): (&mut Vcpu, u64), lsb: u32) -> bool {
    if before >= EVENTS_PER_PAGE {
        return true;
    }
    if before < totals::ANNOUNCED_EXITS || lsb == 0 {
        return false;
    }
    vcpu.signal_lsb = lsb;
    true
}

#[inline(always)]
fn signal<C: EbpfContext>(
    ctx: &C,
    code: u32,
    hva: u64,
    lsb: u32,
    target: Target,
    forced: bool,
    proved: bool,
) {
    // The exit that it answers belongs to the programs that are at work.
    if held() || !proved && !unproved_may_pass() {
        return;
    }
    poison_seen(ctx, target.pid, proved);
    // A signal that is forced is not KVM's answer to a fault: the processor reported an error while the guest ran, and
    // memory_failure() works on this thread before the vCPU goes on (kill_me_maybe).
    let exit = if forced {
        None
    } else {
        answers_exit(code, target.tid, hva)
    };
    let in_totals = exit.is_some();
    if exit.is_some_and(|exit| has_no_record(exit, lsb)) {
        return;
    }
    debug!(
        ctx,
        "SIGBUS code {} to pid {} tid {} at hva {:x}", code, target.pid, target.tid, hva
    );
    let signal = Sigbus {
        h: header::<Sigbus>(),
        hva,
        code,
        lsb,
        target_tid: target.tid,
        target_pid: target.pid,
        forced: u32::from(forced),
        pad: 0,
        comm: target.comm(),
    };
    // What processes make themselves is not kept: a flood of it would leave no room for the kernel's.
    if proved && !in_totals {
        let _ = SIGNALS.insert([u64::from(target.pid), hva >> PAGE_SHIFT], signal, 0);
    }
    emit(signal);
}

/// Whether the current thread handles a fault of its guest, and has not gone back to the VMM (that ends an exit, unless
/// it met poison, and then it has been counted).
#[inline(always)]
fn in_fault() -> bool {
    current_vcpu().is_some_and(|vcpu| vcpu.in_exit != 0 && vcpu.fault_ns != 0 && vcpu.done == 0)
}

/// `int send_sig_mceerr(int code, void __user *addr, short lsb, struct task_struct *t)`, 4.19 to 7.3.
/// With BUS_MCEERR_AR its one caller on x86 is KVM's fault path.
#[fentry(function = "send_sig_mceerr")]
pub fn sigbus_send(ctx: FEntryContext) -> i32 {
    signal(
        &ctx,
        ctx.arg(0),
        ctx.arg(1),
        u32::from(ctx.arg::<u16>(2)),
        Target::task(ctx.arg(3)),
        false,
        true,
    );
    0
}

#[kprobe]
pub fn sigbus_send_kprobe(ctx: ProbeContext) -> u32 {
    if let (Some(code), Some(hva), Some(lsb), Some(task)) =
        (ctx.arg(0), ctx.arg(1), ctx.arg::<u16>(2), ctx.arg(3))
    {
        signal(&ctx, code, hva, u32::from(lsb), Target::task(task), false, true);
    }
    0
}

/// A page fault on poison that a process has made itself (UFFDIO_POISON) forces one as well.
#[inline(always)]
fn force<C: EbpfContext>(ctx: &C, code: u32, hva: u64, lsb: u32) {
    signal(
        ctx,
        code,
        hva,
        lsb,
        Target::current(),
        true,
        memory_failure::under_way(),
    );
}

/// `int force_sig_mceerr(int code, void __user *addr, short lsb)`: to the current thread.
#[fentry(function = "force_sig_mceerr")]
pub fn sigbus_force(ctx: FEntryContext) -> i32 {
    let lsb = u32::from(ctx.arg::<u16>(2));
    force(&ctx, ctx.arg(0), ctx.arg(1), lsb);
    0
}

#[kprobe]
pub fn sigbus_force_kprobe(ctx: ProbeContext) -> u32 {
    if let (Some(code), Some(hva), Some(lsb)) = (ctx.arg(0), ctx.arg(1), ctx.arg::<u16>(2)) {
        force(&ctx, code, hva, u32::from(lsb));
    }
    0
}

/// `signal_generate(int sig, struct kernel_siginfo *info, struct task_struct *task, int group, int result)`, 4.20 to
/// 7.3: all signals of the host, where the functions above cannot be probed.
#[raw_tracepoint(tracepoint = "signal_generate")]
pub fn signal_generate_raw(ctx: RawTracePointContext) -> i32 {
    let info: u64 = ctx.arg(1);
    // SEND_SIG_NOINFO and SEND_SIG_PRIV are no addresses.
    if ctx.arg::<i32>(0) != SIGBUS || info <= 1 {
        return 0;
    }
    // SAFETY: fault-safe read of kernel memory.
    if let Ok(info) = unsafe { bpf_probe_read_kernel(info as *const Siginfo) } {
        let code = info.code as u32;
        if code == BUS_MCEERR_AR || code == BUS_MCEERR_AO {
            let target = Target::task(ctx.arg(2));
            // What is not sent by KVM's fault path to its own thread is forced on it.
            let answer = in_fault();
            let forced = code == BUS_MCEERR_AR && !answer;
            // Nobody but the kernel sends such a code to another process (do_rt_sigqueueinfo).
            let to_another = target.pid != 0 && target.pid != current_pid();
            let proved = answer || to_another || memory_failure::under_way();
            signal(&ctx, code, info.addr, u32::from(info.lsb), target, forced, proved);
        }
    }
    0
}

/// `signal_deliver(int sig, struct kernel_siginfo *info, struct k_sigaction *ka)`, 4.19 to 7.3: SIGBUS reaches the thread, which has
/// left KVM for it. In place of kvm_userspace_exit, which every return to a VMM passes, until there is poison.
#[raw_tracepoint(tracepoint = "signal_deliver")]
pub fn signal_delivered(ctx: RawTracePointContext) -> i32 {
    if armed() && ctx.arg::<i32>(0) == SIGBUS {
        delivered();
    }
    0
}

/// `signal:signal_generate`, the same without the address: what it is about shows the exit that it answers.
#[inline(always)]
fn at_signal_generate(ctx: TracePointContext) {
    if read(&ctx, &SIGNAL_NUMBER) != Some(SIGBUS) {
        return;
    }
    let code = read(&ctx, &SIGNAL_CODE).unwrap_or(0) as u32;
    if held() || code != BUS_MCEERR_AR && code != BUS_MCEERR_AO {
        return;
    }
    let target_tid = read(&ctx, &SIGNAL_TID).unwrap_or(0) as u32;
    let current = target_tid == current_tid();
    let in_fault = current && in_fault();
    // Of others it is not known whether they are threads of the same process.
    let proved = in_fault || current && memory_failure::under_way();
    if current && !proved && !unproved_may_pass() {
        return;
    }
    // The number of its process is that of the thread, if it is the process's first.
    poison_seen(&ctx, if current { current_pid() } else { target_tid }, proved);
    if in_fault && answers_exit(code, target_tid, 0).is_some_and(|(_, before)| before >= EVENTS_PER_PAGE) {
        return;
    }
    let at = match current_vcpu() {
        Some(vcpu) if in_fault && vcpu.address == address::GPA => Some(vcpu.gpa),
        _ => None,
    };
    emit(SigbusNoAddress {
        h: header::<SigbusNoAddress>(),
        gpa: at.unwrap_or(0),
        located: u32::from(at.is_some()),
        code,
        target_tid,
        target_pid: if current { current_pid() } else { 0 },
        comm: read(&ctx, &SIGNAL_COMM).unwrap_or([0; 16]),
    });
}

tracepoint!(signal_generate, at_signal_generate);
