//! One file per family of hooks.

/// The program of a tracepoint, around a function of its context. In place of aya's attribute, whose programs return 0: with
/// that the kernel keeps the event from everybody else who records it through perf, `perf kvm stat` for one
/// (`trace_call_bpf()`, kernel/trace/bpf_trace.c).
macro_rules! tracepoint {
    ($name:ident, $function:ident) => {
        #[unsafe(no_mangle)]
        #[unsafe(link_section = "tracepoint")]
        pub fn $name(ctx: *mut core::ffi::c_void) -> u32 {
            $function(TracePointContext::new(ctx));
            1
        }
    };
}

mod exits;
mod fields;
mod gup;
mod hardware;
mod injection;
mod memory_failure;
mod memslots;
mod outcome;
mod registers;
mod signals;
pub mod vcpu;
mod vcpu_iterator;

pub use exits::{EHWPOISON, now};
