//! The BPF programs. They are thin: read, filter, emit. Nothing here decides anything.
//!
//! Until `memory_failure()` has been called once, every program on a hot path is one load of
//! [`state::ARMED`] and one branch.
#![no_std]
#![no_main]

mod emit;
mod hooks;
mod recovery;
mod slot;
mod state;
mod totals;

/// GPL-compatible, because `bpf_probe_read_kernel` and the tracing helpers ask for it.
#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    // Unreachable: the verifier accepts no program in which this loop could be entered.
    loop {}
}
