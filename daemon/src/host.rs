//! What machine this is, and how its two clocks lie to each other.

use serde::{Deserialize, Serialize};

/// The commit that this was built from; `cargo xtask build` tells it.
pub const REVISION: &str = env!("POISONTRACE_BUILT_FROM");

/// The traced host, as the answer names it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    pub hostname: Option<String>,
    /// `uname -r`.
    pub kernel: Option<String>,
    /// Version of the poisontrace that traced.
    pub poisontrace: String,
    /// True under software emulation (durations then say nothing about hardware); `None`: not known.
    pub emulated: Option<bool>,
}

/// One instant on both clocks, nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockPair {
    /// CLOCK_MONOTONIC, the clock of `bpf_ktime_get_ns` and of every event.
    pub monotonic_ns: u64,
    /// CLOCK_REALTIME since the epoch; `None` where a source has no wall clock.
    pub wall_ns: Option<i64>,
}

impl ClockPair {
    pub fn now() -> Self {
        use rustix::time::{ClockId, clock_gettime};
        let monotonic = clock_gettime(ClockId::Monotonic);
        let wall = clock_gettime(ClockId::Realtime);
        Self {
            monotonic_ns: nanoseconds(monotonic).max(0) as u64,
            wall_ns: Some(nanoseconds(wall)),
        }
    }

    /// The wall clock at event time `t`, nanoseconds since the epoch.
    pub fn wall_at(&self, t: u64) -> Option<i64> {
        let offset = i64::try_from(i128::from(t) - i128::from(self.monotonic_ns)).ok()?;
        self.wall_ns?.checked_add(offset)
    }
}

fn nanoseconds(t: rustix::time::Timespec) -> i64 {
    t.tv_sec.saturating_mul(1_000_000_000).saturating_add(t.tv_nsec)
}

impl Host {
    /// This machine.
    pub fn this() -> Self {
        let uname = rustix::system::uname();
        Self {
            hostname: Some(crate::text::sanitise(&uname.nodename().to_string_lossy(), 255)),
            kernel: Some(crate::text::sanitise(&uname.release().to_string_lossy(), 255)),
            poisontrace: env!("CARGO_PKG_VERSION").to_owned(),
            emulated: emulated(),
        }
    }
}

/// Whether this machine is emulated in software. QEMU's TCG says so in CPUID 0x40000000; Bochs in the DMI
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

#[cfg(test)]
mod tests {
    use super::ClockPair;

    #[test]
    fn event_times_before_and_after_the_pair_have_a_wall_clock() {
        let pair = ClockPair {
            monotonic_ns: 1_000,
            wall_ns: Some(50_000),
        };
        assert_eq!(pair.wall_at(1_500), Some(50_500));
        assert_eq!(pair.wall_at(400), Some(49_400));
        assert_eq!(pair.wall_at(u64::MAX), None);
        assert_eq!(
            ClockPair {
                monotonic_ns: 1,
                wall_ns: None
            }
            .wall_at(5),
            None
        );
    }
}
