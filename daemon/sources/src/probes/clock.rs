//! Where the time stamp counter stands to CLOCK_MONOTONIC, for the programs: they read the second, and KVM notes exits in the first.

use aya::{
    Pod,
    maps::{Array, MapData},
};
use poisontrace_probes::clock::Calibration;

use crate::host::machine::clock_pair;

#[derive(Clone, Copy)]
#[repr(transparent)]
struct Value(Calibration);
// SAFETY: repr(C) integers without padding, checked at compile time in poisontrace-probes.
unsafe impl Pod for Value {}

/// The best of so many readings: one that is interrupted is far off.
const READINGS: usize = 8;
/// Two readings show a rate if they lie so far apart, ns.
const APART_NS: u64 = 50_000_000;

/// Both clocks at one instant.
#[derive(Clone, Copy)]
struct Reading {
    tsc: u64,
    ns: u64,
    /// The counter's ticks between which the other clock was read.
    width: u64,
}

impl Reading {
    fn take() -> Option<Self> {
        let readings = (0..READINGS).map(|_| {
            let before = ticks()?;
            let ns = clock_pair().monotonic_ns;
            let width = ticks()?.saturating_sub(before);
            Some(Self {
                tsc: before.saturating_add(width / 2),
                ns,
                width,
            })
        });
        readings.flatten().min_by_key(|reading| reading.width)
    }
}

/// The counter; `None` on a processor without one.
fn ticks() -> Option<u64> {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86-64 processor has the instruction; the kernel forbids it to no process by itself (CR4.TSD).
    return Some(unsafe { core::arch::x86_64::_rdtsc() });
    #[cfg(not(target_arch = "x86_64"))]
    None
}

/// See the module.
pub struct Clock {
    map: Array<MapData, Value>,
    last: Option<Reading>,
    given: Option<Calibration>,
}

impl Clock {
    /// Takes the map out of the loaded object; `None`: it has none.
    pub fn new(ebpf: &mut aya::Ebpf) -> Option<Self> {
        let map = Array::try_from(ebpf.take_map("CLOCK")?).ok()?;
        Some(Self {
            map,
            last: Reading::take(),
            given: None,
        })
    }

    /// Reads both clocks, and gives the programs the rate since the last reading. To be called every ten seconds.
    pub fn renew(&mut self) {
        let (Some(now), Some(last)) = (Reading::take(), self.last) else {
            return;
        };
        let passed = now.ns.saturating_sub(last.ns);
        if passed < APART_NS {
            return;
        }
        let rate = Calibration::rate(now.tsc.saturating_sub(last.tsc), passed);
        let calibration = Calibration::checked(now.tsc, now.ns, rate);
        if let Err(err) = self.map.set(0, Value(calibration), 0) {
            tracing::debug!(error = %err, "the programs cannot convert times of the time stamp counter");
            return;
        }
        self.last = Some(now);
        self.given = Some(calibration);
    }

    /// How far off the conversion is now that the programs do, ns, as both clocks show; `None`: they do none.
    pub fn error_ns(&self) -> Option<u64> {
        let (given, now) = (self.given?, Reading::take()?);
        let converted = given.monotonic(now.tsc, now.ns)?;
        Some(converted.abs_diff(now.ns).saturating_add(given.span(now.width)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_of_the_counter_is_converted_to_within_what_a_reading_takes() {
        let Some(first) = Reading::take() else { return };
        std::thread::sleep(std::time::Duration::from_millis(60));
        let second = Reading::take().unwrap();
        let rate = Calibration::rate(second.tsc - first.tsc, second.ns - first.ns);
        let calibration = Calibration::checked(second.tsc, second.ns, rate);
        let third = Reading::take().unwrap();
        for reading in [first, third] {
            let converted = calibration.monotonic(reading.tsc, third.ns).unwrap();
            let allowed = 2 * calibration.span(first.width + second.width + reading.width) + 2_000;
            assert!(
                converted.abs_diff(reading.ns) <= allowed,
                "{converted} {}",
                reading.ns
            );
        }
    }

    #[test]
    fn a_copy_that_is_half_old_converts_nothing() {
        let old = Calibration::checked(1_000, 2_000, 1 << 31);
        assert_eq!(old.monotonic(3_000, 4_000), Some(3_000));
        assert_eq!(old.monotonic(0, 4_000), Some(1_500));
        assert_eq!(Calibration { ns: 2_001, ..old }.monotonic(3_000, 4_000), None);
        let too_old = 2_000 + poisontrace_probes::clock::VALID_NS + 1;
        assert_eq!(old.monotonic(3_000, too_old), None);
    }
}
