//! Reading tracepoint fields at offsets that the running kernel's `format` files gave.

use aya_ebpf::{Global, programs::TracePointContext};
use poisontrace_probes::ABSENT;

/// Offset of a field or member; [`ABSENT`] where this kernel has none. The daemon sets it before load,
/// and only after it has checked the field's size against the type that is read here.
pub type Offset = Global<u32>;

pub const fn absent() -> Offset {
    Global::new(ABSENT)
}

/// Reads the field, or `None` where the kernel has no such field.
#[inline(always)]
pub fn read<T>(ctx: &TracePointContext, offset: &Offset) -> Option<T> {
    let offset = offset.load();
    if offset == ABSENT {
        return None;
    }
    // SAFETY: the read is bounds-free but fault-safe (bpf_probe_read_kernel).
    unsafe { ctx.read_at::<T>(offset as usize) }.ok()
}

/// Reads a member of the kernel object at `base`.
#[inline(always)]
pub fn member<T>(base: u64, offset: &Offset) -> Option<T> {
    let offset = offset.load();
    if offset == ABSENT || base == 0 {
        return None;
    }
    // SAFETY: fault-safe read of kernel memory.
    unsafe { aya_ebpf::helpers::bpf_probe_read_kernel((base + u64::from(offset)) as *const T) }.ok()
}
