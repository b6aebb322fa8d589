//! Sending records, and counting those that could not be sent.

use aya_ebpf::helpers::{bpf_get_current_pid_tgid, bpf_ktime_get_ns};
use poisontrace_probes::{
    NO_VCPU, lost,
    record::{Header, Record},
};

use crate::{
    slot,
    state::{EVENTS, VCPUS, count, held, no_wake_up, wake_up},
};

/// A header for the current thread, with its vCPU where that is known.
#[inline(always)]
pub fn header<R: Record>() -> Header {
    let pid_tgid = bpf_get_current_pid_tgid();
    let tid = pid_tgid as u32;
    let vcpu = match slot::mine() {
        Some(slot) => slot.vcpu,
        None => match VCPUS.get_ptr(tid) {
            // SAFETY: a map value of this size, checked by the verifier.
            Some(vcpu) => unsafe { (*vcpu).vcpu },
            None => NO_VCPU,
        },
    };
    Header {
        kind: R::KIND,
        vcpu,
        // SAFETY: a helper without arguments.
        t_ns: unsafe { bpf_ktime_get_ns() },
        tid,
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
