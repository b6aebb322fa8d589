//! Exits that kvm_exit did not see, as it was not attached or not armed yet: KVM notes when a vCPU has left its guest, in the
//! guest's time stamp counter (`vcpu->arch.last_guest_tsc`, written once behind each run of the guest, `vcpu_enter_guest()`).
//! That also shows whether two events are of one exit.

use aya_ebpf::{Global, macros::map, maps::Array};
use poisontrace_probes::clock::Calibration;

use crate::{
    hooks::{now, vcpu},
    state::{Vcpu, attached},
};

/// 1: the exits of VMs without poison need no time of kvm_exit, as [`complete`] finds it. Set before load.
#[unsafe(no_mangle)]
static LATE_BEGIN: Global<u32> = Global::new(0);

/// What kvm_exit's isa is on this host; 0: not known. Set before load.
#[unsafe(no_mangle)]
static HOST_ISA: Global<u32> = Global::new(0);

/// The ratio of a guest whose counter runs as fast as the host's (`kvm_caps.default_tsc_scaling_ratio`): 48 fraction bits on VMX, 32
/// on SVM, 1 where the processor cannot scale.
const RATIO_VMX: u64 = 1 << 48;
const RATIO_SVM: u64 = 1 << 32;
const RATIO_NONE: u64 = 1;

/// An exit is no older than so, ns, when its page fault is traced: else the note is not believed.
const PLAUSIBLE_NS: u64 = 1_000_000_000;
/// It may seem to lie ahead by so much, ns: the calibration is not better.
const AHEAD_NS: u64 = 5_000;

/// Kept by the daemon.
#[map]
static CLOCK: Array<Calibration> = Array::with_max_entries(1, 0);

#[inline(always)]
pub fn host_isa() -> u32 {
    HOST_ISA.load()
}

/// When the vCPU that is loaded left its guest last, in the guest's ticks; 0: not known.
#[inline(never)]
pub fn exit_tsc() -> u64 {
    vcpu::arch().and_then(|arch| vcpu::exit_tsc(arch)).unwrap_or(0)
}

/// Whether the vCPU has been in its guest since the exit that this is the state of. Only known of one that was recovered, and
/// while the vCPU is loaded: kvm_userspace_exit comes when it is not any more.
#[inline(always)]
pub fn is_over(vcpu: &Vcpu) -> bool {
    if vcpu.exit_tsc == 0 {
        return false;
    }
    let last = exit_tsc();
    last != 0 && last != vcpu.exit_tsc
}

/// See [`LATE_BEGIN`].
#[inline(always)]
pub fn late_begin() -> bool {
    LATE_BEGIN.load() != 0
}

/// An exit that kvm_exit did not note. Its begin is looked up at once where nothing but that separates it from the next one, else
/// only if it meets poison.
#[inline(always)]
pub fn begin(vcpu: &mut Vcpu) {
    vcpu.isa = host_isa();
    if !(late_begin() && attached()) {
        note(vcpu);
    }
}

/// The exit has met poison: its begin is looked up, if it has none.
#[inline(always)]
pub fn complete(vcpu: &mut Vcpu) {
    if vcpu.exit_ns == 0 && vcpu.exit_tsc == 0 {
        note(vcpu);
    }
}

/// Fills in what kvm_exit would have noted, as far as KVM's own note has it.
#[inline(always)]
fn note(vcpu: &mut Vcpu) {
    vcpu.exit_tsc = exit_tsc();
    if vcpu.exit_tsc != 0 {
        vcpu.exit_ns = monotonic(vcpu.exit_tsc);
    }
}

/// The exit's time, ns; 0 where it is not known.
#[inline(never)]
fn monotonic(exit_tsc: u64) -> u64 {
    let Some(host_tsc) = vcpu::arch().and_then(|arch| {
        let ratio = vcpu::tsc_ratio(arch)?;
        // A counter that is scaled is not converted.
        if ratio != RATIO_VMX && ratio != RATIO_SVM && ratio != RATIO_NONE {
            return None;
        }
        Some(exit_tsc.wrapping_sub(vcpu::tsc_offset(arch)?))
    }) else {
        return 0;
    };
    let Some(clock) = CLOCK.get(0) else { return 0 };
    let now = now();
    match clock.monotonic(host_tsc, now) {
        Some(ns) if ns <= now && now - ns < PLAUSIBLE_NS => ns,
        Some(ns) if ns > now && ns - now < AHEAD_NS => now,
        _ => 0,
    }
}
