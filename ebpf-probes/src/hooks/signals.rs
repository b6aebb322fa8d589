//! Who is told of the poison on the host: SIGBUS with BUS_MCEERR_AO or BUS_MCEERR_AR.

use aya_ebpf::{
    EbpfContext,
    helpers::{bpf_get_current_comm, bpf_ktime_get_ns},
    macros::{fentry, kprobe},
    programs::{FEntryContext, ProbeContext},
};
use aya_log_ebpf::debug;
use poisontrace_probes::record::Sigbus;

use super::fields::{Offset, absent, member};
use crate::{
    emit::{emit, header},
    slot::exit_under_way,
    state::{VICTIMS, arm, current_pid, current_tid, victims_changed},
    totals,
};

#[unsafe(no_mangle)]
static TASK_PID: Offset = absent();
#[unsafe(no_mangle)]
static TASK_TGID: Offset = absent();
#[unsafe(no_mangle)]
static TASK_COMM: Offset = absent();

const BUS_MCEERR_AR: u32 = 4;

#[inline(always)]
fn signal<C: EbpfContext>(ctx: &C, code: u32, hva: u64, lsb: u32, task: Option<u64>) {
    // Poison that the daemon never saw (it started later) shows itself here.
    arm();
    let (tid, pid, comm) = match task {
        Some(task) => (
            member(task, &TASK_PID).unwrap_or(0),
            member(task, &TASK_TGID).unwrap_or(0),
            member(task, &TASK_COMM).unwrap_or([0; 16]),
        ),
        None => (
            current_tid(),
            current_pid(),
            bpf_get_current_comm().unwrap_or([0; 16]),
        ),
    };
    if pid != 0 {
        // SAFETY: a helper without arguments.
        let now = unsafe { bpf_ktime_get_ns() };
        if VICTIMS.get_ptr(pid).is_none() {
            if VICTIMS.insert(pid, now, 0).is_err() {
                debug!(ctx, "no room to remember pid {}", pid);
            }
            victims_changed(now);
        }
    }
    if code == BUS_MCEERR_AR && tid == current_tid() {
        if let Some(vcpu) = exit_under_way() {
            if vcpu.in_exit != 0 {
                // SAFETY: a helper without arguments.
                vcpu.signal_ns = unsafe { bpf_ktime_get_ns() };
                vcpu.hva = hva;
                vcpu.poison = 1;
                if totals::many(vcpu) {
                    // The page's totals count this signal with its exit; its record would tell nothing new.
                    return;
                }
            }
        }
    }
    debug!(
        ctx,
        "SIGBUS code {} to pid {} tid {} at hva {:x}", code, pid, tid, hva
    );
    emit(Sigbus {
        h: header::<Sigbus>(),
        hva,
        code,
        lsb,
        target_tid: tid,
        target_pid: pid,
        forced: u32::from(task.is_none()),
        pad: 0,
        comm,
    });
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
        Some(ctx.arg(3)),
    );
    0
}

#[kprobe]
pub fn sigbus_send_kprobe(ctx: ProbeContext) -> u32 {
    if let (Some(code), Some(hva), Some(lsb), Some(task)) =
        (ctx.arg(0), ctx.arg(1), ctx.arg::<u16>(2), ctx.arg(3))
    {
        signal(&ctx, code, hva, u32::from(lsb), Some(task));
    }
    0
}

/// `int force_sig_mceerr(int code, void __user *addr, short lsb)`: to the current thread.
#[fentry(function = "force_sig_mceerr")]
pub fn sigbus_force(ctx: FEntryContext) -> i32 {
    signal(&ctx, ctx.arg(0), ctx.arg(1), u32::from(ctx.arg::<u16>(2)), None);
    0
}

#[kprobe]
pub fn sigbus_force_kprobe(ctx: ProbeContext) -> u32 {
    if let (Some(code), Some(hva), Some(lsb)) = (ctx.arg(0), ctx.arg(1), ctx.arg::<u16>(2)) {
        signal(&ctx, code, hva, u32::from(lsb), None);
    }
    0
}
