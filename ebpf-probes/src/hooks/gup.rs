//! The host-side gup of a KVM page fault: `get_user_pages_unlocked`, which has one call site in that
//! path on every kernel from 4.19 to 7.3, and answers -EHWPOISON for a poisoned page.
//!
//! `long get_user_pages_unlocked(unsigned long start, unsigned long nr_pages, struct page **pages,
//! unsigned int gup_flags)`

use aya_ebpf::{
    helpers::bpf_ktime_get_ns,
    macros::{fentry, fexit, kprobe, kretprobe},
    programs::{FEntryContext, FExitContext, ProbeContext, RetProbeContext},
};

use super::exits::EHWPOISON;
use crate::{recovery, slot::current_vcpu, state::armed};

#[inline(always)]
fn enter() {
    if let Some(vcpu) = current_vcpu() {
        if vcpu.in_exit != 0 {
            // SAFETY: a helper without arguments.
            vcpu.gup_enter_ns = unsafe { bpf_ktime_get_ns() };
        }
    }
}

#[inline(always)]
fn leave(ret: i64) {
    if let Some(vcpu) = current_vcpu() {
        if vcpu.in_exit != 0 && vcpu.gup_enter_ns != 0 {
            // SAFETY: a helper without arguments.
            vcpu.gup_ns += unsafe { bpf_ktime_get_ns() } - vcpu.gup_enter_ns;
            vcpu.gup_enter_ns = 0;
            vcpu.gup_calls += 1;
            vcpu.gup_ret = ret;
            if ret == EHWPOISON {
                vcpu.poison = 1;
                recovery::complete(vcpu);
            }
        }
    }
}

#[fentry(function = "get_user_pages_unlocked")]
pub fn gup_enter(_ctx: FEntryContext) -> i32 {
    if armed() {
        enter();
    }
    0
}

#[fexit(function = "get_user_pages_unlocked")]
pub fn gup_exit(ctx: FExitContext) -> i32 {
    if armed() {
        // The return value follows the four arguments.
        leave(ctx.arg::<i64>(4));
    }
    0
}

#[kprobe]
pub fn gup_enter_kprobe(_ctx: ProbeContext) -> u32 {
    if armed() {
        enter();
    }
    0
}

#[kretprobe]
pub fn gup_exit_kprobe(ctx: RetProbeContext) -> u32 {
    if armed() {
        leave(ctx.ret::<i64>());
    }
    0
}
