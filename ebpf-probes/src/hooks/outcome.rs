//! What became of the guest and its VMM.

use aya_ebpf::{
    Global,
    helpers::bpf_get_current_comm,
    macros::kprobe,
    programs::{ProbeContext, TracePointContext},
};
use poisontrace_probes::record::{Pio, TaskExit, VmDestroyed};

use super::exits;
use super::fields::{
    PIO_PORT, PIO_SIZE, PIO_VALUE, PIO_WRITE, SIGNAL_GROUP_EXIT_CODE, SIGNAL_LIVE, TASK_EXIT_CODE,
    TASK_SIGNAL, member, read,
};
use crate::{
    emit::{emit, header},
    slot,
    state::{armed, current_is_victim, current_pid, current_task, forget},
};

/// QEMU's pvpanic-isa.
const PORT_PVPANIC: u32 = 0x505;
/// Reset control register of the chip set.
const PORT_RESET: u32 = 0xcf9;
/// Keyboard controller; 0xfe pulses the reset line.
const PORT_KEYBOARD: u32 = 0x64;
const KEYBOARD_RESET: u32 = 0xfe;
/// ACPI PM1a control of QEMU's pc and q35 machines; bit 13 (SLP_EN) turns the machine off.
const PORT_PM1A: u32 = 0x604;
const SLP_EN: u32 = 1 << 13;

/// `kvm:kvm_pio(rw, port, size, count, val)`, 4.19 to 7.3.
#[inline(always)]
fn at_kvm_pio(ctx: TracePointContext) {
    if !armed() {
        return;
    }
    let (Some(port), Some(value)) = (read(&ctx, &PIO_PORT), read(&ctx, &PIO_VALUE)) else {
        return;
    };
    let telling = port == PORT_PVPANIC
        || port == PORT_RESET
        || (port == PORT_KEYBOARD && value == KEYBOARD_RESET)
        || (port == PORT_PM1A && value & SLP_EN != 0);
    // A guest's ports are many, and the comparison is cheaper than the look-up.
    if telling && read(&ctx, &PIO_WRITE) == Some(1) && slot::victim() {
        emit(Pio {
            h: header::<Pio>(),
            port,
            size: read(&ctx, &PIO_SIZE).unwrap_or(0),
            value: u64::from(value),
        });
    }
}

tracepoint!(kvm_pio, at_kvm_pio);

/// The daemon's tgid: a thread of its own that ends proves that programs run, and that their records arrive.
#[unsafe(no_mangle)]
static DAEMON: Global<u32> = Global::new(0);

/// `sched:sched_process_exit`, once a thread, in the thread that ends. The exit code and the count of
/// the threads that remain are in task_struct only.
#[inline(always)]
fn at_process_exit(_ctx: TracePointContext) {
    let armed = armed();
    if armed {
        exits::ended();
    }
    if !(armed && current_is_victim()) && current_pid() != DAEMON.load() {
        if armed {
            slot::free();
        }
        return;
    }
    let task = current_task();
    let signal = member(task, &TASK_SIGNAL).map_or(0, |signal| signal.0);
    // How the process ends (exit_group, a fatal signal) is in signal_struct; a thread that ends by itself, and a
    // kernel worker of the process, has its own status.
    let group = member(signal, &SIGNAL_GROUP_EXIT_CODE).unwrap_or(0);
    let own = member(task, &TASK_EXIT_CODE).unwrap_or(0);
    emit(TaskExit {
        h: header::<TaskExit>(),
        exit_code: if group != 0 { group } else { own },
        live: member(signal, &SIGNAL_LIVE).map_or(-1, |live| live.0),
        comm: bpf_get_current_comm().unwrap_or([0; 16]),
    });
    slot::free();
}

tracepoint!(process_exit, at_process_exit);

/// `void kvm_arch_destroy_vm(struct kvm *kvm)`, global in kvm.ko.
#[kprobe]
pub fn vm_destroyed(_ctx: ProbeContext) -> u32 {
    if armed() && current_is_victim() {
        emit(VmDestroyed {
            h: header::<VmDestroyed>(),
        });
        let task = current_task();
        let signal = member(task, &TASK_SIGNAL).map_or(0, |signal| signal.0);
        // The process ends: its number may come again, of a process that never met poison.
        if member(signal, &SIGNAL_LIVE).is_some_and(|live| live.0 == 0) {
            forget(current_pid());
        }
    }
    0
}
