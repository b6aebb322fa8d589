//! Sending records, and counting those that could not be sent.

use aya_ebpf::helpers::{bpf_get_current_pid_tgid, bpf_ktime_get_ns};
use poisontrace_probes::{
    NO_VCPU, lost,
    record::{Header, Record},
};

use crate::{
    slot,
    state::{EVENTS, Vcpu, count, held, no_wake_up, wake_up},
};

/// A header for the current thread, with its vCPU where that is known.
#[inline(always)]
pub fn header<R: Record>() -> Header {
    let pid_tgid = bpf_get_current_pid_tgid();
    // SAFETY: a helper without arguments.
    let t_ns = unsafe { bpf_ktime_get_ns() };
    header_with::<R>(pid_tgid, slot::number(pid_tgid as u32), t_ns)
}

/// The same, of a thread whose exit's state is at hand, at a time that is.
#[inline(always)]
pub fn header_of<R: Record>(vcpu: &Vcpu, t_ns: u64) -> Header {
    let pid_tgid = bpf_get_current_pid_tgid();
    let number = match vcpu.vcpu {
        NO_VCPU => slot::number(pid_tgid as u32),
        number => number,
    };
    header_with::<R>(pid_tgid, number, t_ns)
}

#[inline(always)]
fn header_with<R: Record>(pid_tgid: u64, vcpu: u32, t_ns: u64) -> Header {
    Header {
        kind: R::KIND,
        vcpu,
        t_ns,
        tid: pid_tgid as u32,
        pid: (pid_tgid >> 32) as u32,
    }
}

/// Sends `record`, or counts it as lost.
#[inline(always)]
pub fn emit<R: Record + 'static>(record: R) {
    send(record, true);
}

/// Sends `record`, or counts it as lost. The daemon is woken for it if it is `announced`, else it looks again by itself.
#[inline(always)]
pub fn send<R: Record + 'static>(record: R, announced: bool) {
    if held() {
        return;
    }
    let flags = if announced { wake_up() } else { no_wake_up() };
    match EVENTS.reserve::<R>(0) {
        Some(mut slot) => {
            slot.write(record);
            slot.submit(flags);
        }
        None => count(lost::RECORDS),
    }
}

/// Sends `len` bytes at `record`, a record and what follows it, or counts it as lost.
#[inline(always)]
pub fn emit_bytes(record: *const u8, len: usize) {
    if held() {
        return;
    }
    // SAFETY: the caller's map value; the verifier checks that `len` lies within it.
    let bytes = unsafe { core::slice::from_raw_parts(record, len) };
    if EVENTS.output::<[u8]>(bytes, wake_up()).is_err() {
        count(lost::RECORDS);
    }
}
