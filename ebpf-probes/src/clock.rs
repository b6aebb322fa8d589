//! How the processor's time stamp counter lies to CLOCK_MONOTONIC. A BPF program can read the second and not the first, in which
//! KVM notes each exit (`vcpu->arch.last_guest_tsc`); the daemon reads both.

/// What the daemon knows of it is used for so long, ns: it renews it every ten seconds.
pub const VALID_NS: u64 = 30_000_000_000;

/// Fraction bits of [`Calibration::ns_per_tick`].
const FRACTION: u32 = 32;
/// A difference is multiplied in two parts, lest 64 bits overflow: this many low bits, and the rest.
const LOW: u32 = 20;

shared! {
    /// Both clocks at one instant, and the rate of one by the other.
    pub struct Calibration {
        /// Of the host, ticks.
        pub tsc: u64,
        /// CLOCK_MONOTONIC at `tsc`.
        pub ns: u64,
        /// Nanoseconds a tick, with 32 fraction bits.
        pub ns_per_tick: u64,
        /// Shows a copy that is half old, half new: [`Calibration::checked`].
        pub check: u64,
    }
}

const _: () = assert!(size_of::<Calibration>() == 32);

impl Calibration {
    /// The same with its check.
    pub const fn checked(tsc: u64, ns: u64, ns_per_tick: u64) -> Self {
        Self {
            tsc,
            ns,
            ns_per_tick,
            check: !(tsc ^ ns ^ ns_per_tick),
        }
    }

    /// CLOCK_MONOTONIC at `tsc`, ns; `None`: nothing is known, or it is of a time too far from `now_ns`.
    #[inline(always)]
    pub fn monotonic(&self, tsc: u64, now_ns: u64) -> Option<u64> {
        if self.check != !(self.tsc ^ self.ns ^ self.ns_per_tick) || self.ns_per_tick == 0 {
            return None;
        }
        if now_ns < self.ns || now_ns - self.ns > VALID_NS {
            return None;
        }
        if tsc < self.tsc {
            let back = self.span(self.tsc - tsc);
            if back > self.ns {
                None
            } else {
                Some(self.ns - back)
            }
        } else {
            Some(self.ns.wrapping_add(self.span(tsc - self.tsc)))
        }
    }

    /// How long so many ticks are, ns. Of more than half a minute the result is of no use.
    #[inline(always)]
    pub fn span(&self, ticks: u64) -> u64 {
        let high = (ticks >> LOW).wrapping_mul(self.ns_per_tick) >> (FRACTION - LOW);
        let low = (ticks & ((1 << LOW) - 1)).wrapping_mul(self.ns_per_tick) >> FRACTION;
        high.wrapping_add(low)
    }

    /// The rate that two pairs of readings show; 0 where they show none.
    pub fn rate(ticks: u64, ns: u64) -> u64 {
        if ticks == 0 {
            return 0;
        }
        let rate = (u128::from(ns) << FRACTION) / u128::from(ticks);
        u64::try_from(rate).unwrap_or(0)
    }
}
