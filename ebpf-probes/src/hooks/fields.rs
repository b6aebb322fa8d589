//! Reading tracepoint fields and members at the offsets that the running kernel gave.

use core::{ffi::c_void, marker::PhantomData};

use aya_ebpf::{EbpfContext, Global, programs::TracePointContext};
use poisontrace_probes::{
    ABSENT,
    layout::{Address, Atomic, DynamicText, List, Nodes, Place, Readable, Registers, Spaces, Tree},
};

/// Where a field of type `T` lies; [`ABSENT`] where this kernel has none. The daemon sets it before load, and only
/// after it has checked the field's size and sign against `T`.
#[repr(transparent)]
pub struct Offset<T>(Global<u32>, PhantomData<T>);

// SAFETY: one word that is set before load and never changes.
unsafe impl<T> Sync for Offset<T> {}

macro_rules! offsets {
    ($($global:ident: $ty:ty = $of:literal $name:literal;)+) => {
        $(
            #[unsafe(no_mangle)]
            pub static $global: Offset<$ty> = Offset(Global::new(ABSENT), PhantomData);
        )+
    };
}
poisontrace_probes::with_fields!(offsets);

impl<T: Readable> Offset<T> {
    #[inline(always)]
    pub fn get(&self) -> Option<u32> {
        let offset = self.0.load();
        (offset != ABSENT).then_some(offset)
    }

    #[inline(always)]
    pub fn absent(&self) -> bool {
        self.get().is_none()
    }
}

/// Reads the field, or `None` where the kernel has no such field.
#[inline(always)]
pub fn read<T: Readable>(ctx: &TracePointContext, offset: &Offset<T>) -> Option<T> {
    let offset = offset.get()?;
    if let Some(value) = direct(ctx.as_ptr(), offset) {
        return Some(value);
    }
    // SAFETY: the read is bounds-free but fault-safe (bpf_probe_read_kernel).
    unsafe { ctx.read_at::<T>(offset as usize) }.ok()
}

/// The field by a load in place of a helper's call, which takes some 100 instructions. A context is only loaded from at
/// constant offsets: the verifier knows `offset`, and removes the other branches.
macro_rules! direct {
    ($($size:literal: $($offset:literal)+;)+) => {
        #[inline(always)]
        fn direct<T: Readable>(ctx: *const c_void, offset: u32) -> Option<T> {
            match (size_of::<T>(), offset) {
                $($(($size, $offset) => Some(load::<T, $offset>(ctx)),)+)+
                // No field has it: were all multiples of four, LLVM would divide before it compares, which the verifier does not remove.
                (4 | 8, 61) => Some(load::<T, 61>(ctx)),
                _ => None,
            }
        }
    };
}

direct! {
    4: 8 12 16 20 24 28 32 36 40 44 48 52 56 60 64;
    8: 8 16 24 32 40 48 56 64;
}

/// A function of its own, and volatile: LLVM would otherwise make one load of all branches', at an offset that is none.
#[inline(never)]
fn load<T: Readable, const OFFSET: usize>(ctx: *const c_void) -> T {
    // SAFETY: the verifier checks that the field lies within the context.
    unsafe { ctx.byte_add(OFFSET).cast::<T>().read_volatile() }
}

/// Reads a member of the kernel object at `base`.
#[inline(always)]
pub fn member<T: Readable>(base: u64, offset: &Offset<T>) -> Option<T> {
    let offset = offset.get()?;
    if base == 0 {
        return None;
    }
    // SAFETY: fault-safe read of kernel memory.
    unsafe { aya_ebpf::helpers::bpf_probe_read_kernel((base + u64::from(offset)) as *const T) }.ok()
}
