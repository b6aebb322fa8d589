//! `memory_failure()`: what arms everything else.

use aya_ebpf::{
    EbpfContext,
    macros::{fentry, fexit, kprobe, kretprobe, map},
    maps::LruHashMap,
    programs::{FEntryContext, FExitContext, ProbeContext, RetProbeContext, TracePointContext},
};
use aya_log_ebpf::debug;
use poisontrace_probes::record::{FailureAction, FailureBegin, FailureEnd, in_kvm_run};

use super::{
    fields::{MFE_PFN, MFE_RESULT, MFE_TYPE, read},
    vcpu,
};
use crate::{
    emit::{emit, header},
    state::{arm, current_pid, current_tid, held, victim},
};

/// Threads at work in `memory_failure()`. One whose end was missed goes with the oldest.
#[map]
static AT_WORK: LruHashMap<u32, u32> = LruHashMap::with_max_entries(1024, 0);

/// Whether the current thread is at work in `memory_failure()`: what is forced on it then is the kernel's own signal.
#[inline(always)]
pub fn under_way() -> bool {
    AT_WORK.get_ptr(current_tid()).is_some()
}

#[inline(always)]
fn begin<C: EbpfContext>(ctx: &C, pfn: u64, flags: u32) {
    arm();
    // Without an entry, its signal is taken for one that a process can make.
    let _ = AT_WORK.insert(current_tid(), 1, 0);
    debug!(ctx, "memory_failure(pfn {:x}, flags {:x}): armed", pfn, flags);
    let in_kvm_run = match vcpu::loaded() {
        None => in_kvm_run::UNKNOWN,
        Some(0) => in_kvm_run::NO,
        Some(_) => in_kvm_run::YES,
    };
    // The thread's own access met the error, and its process may be killed without a word of it (kill_me_now, kill_procs).
    if flags & MF_ACTION_REQUIRED != 0 && in_kvm_run != in_kvm_run::NO && !held() {
        victim(ctx, current_pid());
    }
    emit(FailureBegin {
        h: header::<FailureBegin>(),
        pfn,
        flags: u64::from(flags),
        in_kvm_run,
        pad: 0,
    });
}

/// MF_ACTION_REQUIRED (include/linux/mm.h).
const MF_ACTION_REQUIRED: u32 = 1 << 1;

#[inline(always)]
fn end(ret: i32) {
    // Absent where its begin was missed.
    let _ = AT_WORK.remove(current_tid());
    emit(FailureEnd {
        h: header::<FailureEnd>(),
        ret: i64::from(ret),
    });
}

/// `int memory_failure(unsigned long pfn, int flags)`, 4.19 to 7.3.
#[fentry(function = "memory_failure")]
pub fn failure_enter(ctx: FEntryContext) -> i32 {
    begin(&ctx, ctx.arg(0), ctx.arg(1));
    0
}

#[fexit(function = "memory_failure")]
pub fn failure_exit(ctx: FExitContext) -> i32 {
    // The return value follows the two arguments; bpf_get_func_ret would ask for 5.17.
    end(ctx.arg::<i32>(2));
    0
}

#[kprobe]
pub fn failure_enter_kprobe(ctx: ProbeContext) -> u32 {
    if let (Some(pfn), Some(flags)) = (ctx.arg::<u64>(0), ctx.arg::<u32>(1)) {
        begin(&ctx, pfn, flags);
    }
    0
}

#[kretprobe]
pub fn failure_exit_kprobe(ctx: RetProbeContext) -> u32 {
    end(ctx.ret::<i32>());
    0
}

/// `memory_failure_event(pfn, type, result)`: group ras up to 6.18 and from 7.2, memory_failure between.
#[inline(always)]
fn at_failure_action(ctx: TracePointContext) {
    arm();
    if let (Some(pfn), Some(page_type), Some(result)) = (
        read(&ctx, &MFE_PFN),
        read(&ctx, &MFE_TYPE),
        read(&ctx, &MFE_RESULT),
    ) {
        emit(FailureAction {
            h: header::<FailureAction>(),
            pfn,
            page_type,
            result,
        });
    }
}

tracepoint!(failure_action, at_failure_action);
