//! The machine that poisontrace runs on: its identity and its clocks, read here for the pure model.

use std::time::Duration;

use poisontrace_model::{
    host::{ClockPair, Host},
    text::sanitise,
};
use rustix::time::{ClockId, clock_gettime};

/// One instant on both clocks.
pub fn clock_pair() -> ClockPair {
    let monotonic = clock_gettime(ClockId::Monotonic);
    let wall = clock_gettime(ClockId::Realtime);
    ClockPair {
        monotonic_ns: nanoseconds(monotonic).max(0) as u64,
        wall_ns: Some(nanoseconds(wall)),
    }
}

/// How long the machine has run, suspended or not, and seconds since the epoch.
pub fn running_and_wall() -> (Duration, i64) {
    let running = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(running.tv_sec).unwrap_or(0);
    (
        Duration::from_secs(seconds),
        clock_gettime(ClockId::Realtime).tv_sec,
    )
}

/// Whether a process that started at `ticks` (field 22 of /proc/PID/stat, 100 a second since boot) is younger than what happened at
/// `monotonic_ns`.
pub fn started_after(ticks: u64, monotonic_ns: u64) -> bool {
    let [running, monotonic] =
        [ClockId::Boottime, ClockId::Monotonic].map(|clock| nanoseconds(clock_gettime(clock)));
    let suspended = u64::try_from(running.saturating_sub(monotonic)).unwrap_or(0);
    ticks.saturating_mul(10_000_000) > monotonic_ns.saturating_add(suspended)
}

fn nanoseconds(t: rustix::time::Timespec) -> i64 {
    t.tv_sec.saturating_mul(1_000_000_000).saturating_add(t.tv_nsec)
}

/// The machine that runs this.
pub fn this_host() -> Host {
    let uname = rustix::system::uname();
    Host {
        hostname: Some(sanitise(&uname.nodename().to_string_lossy(), 255)),
        kernel: Some(sanitise(&uname.release().to_string_lossy(), 255)),
        poisontrace_version: env!("CARGO_PKG_VERSION").to_owned(),
        emulated: emulated(),
    }
}

/// Whether this machine is emulated in software. QEMU's TCG has a signature in CPUID 0x40000000; Bochs in the DMI
/// vendor of its BIOS. A machine that names another hypervisor, or none, runs its instructions on a
/// processor.
fn emulated() -> Option<bool> {
    let dmi = std::fs::read_to_string("/sys/class/dmi/id/bios_vendor").unwrap_or_default();
    // Not just "Bochs": old QEMU called its BIOS so, on hardware too.
    if dmi.trim() == "The Bochs Project" {
        return Some(true);
    }
    hypervisor_signature().map(|signature| &signature == b"TCGTCGTCGTCG")
}

/// The 12 bytes of the hypervisor's signature, zeros where there is no hypervisor.
#[cfg(target_arch = "x86_64")]
fn hypervisor_signature() -> Option<[u8; 12]> {
    use std::arch::x86_64::__cpuid;
    const HYPERVISOR_PRESENT: u32 = 1 << 31;
    #[allow(
        unused_unsafe,
        reason = "__cpuid became safe in Rust 1.94; the workspace builds from 1.89 on"
    )]
    // SAFETY: CPUID exists on every x86-64 processor.
    let cpuid = |leaf| unsafe { __cpuid(leaf) };
    let mut signature = [0; 12];
    if cpuid(1).ecx & HYPERVISOR_PRESENT != 0 {
        let leaf = cpuid(0x4000_0000);
        for (to, from) in signature.chunks_exact_mut(4).zip([leaf.ebx, leaf.ecx, leaf.edx]) {
            to.copy_from_slice(&from.to_le_bytes());
        }
    }
    Some(signature)
}

#[cfg(not(target_arch = "x86_64"))]
fn hypervisor_signature() -> Option<[u8; 12]> {
    None
}

/// Which boot of this machine; `None` where the kernel does not say.
pub fn boot_id() -> Option<String> {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(text.trim().to_owned())
}
