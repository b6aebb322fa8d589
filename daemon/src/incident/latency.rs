//! Latency of the poison exits, from their sums and samples.

use super::model::{Claim, Distribution, GupBasis, Latency};

/// Samples kept for the percentiles; count and sum go on beyond them.
const MAX_SAMPLES: usize = 4096;

/// Running distribution with exact count, sum, minimum and maximum.
#[derive(Clone, Debug, Default)]
pub struct Sum {
    count: u64,
    sum: u64,
    min: u64,
    max: u64,
    samples: Vec<u64>,
}

impl Sum {
    pub fn add(&mut self, ns: u64) {
        self.min = if self.count == 0 { ns } else { self.min.min(ns) };
        self.max = self.max.max(ns);
        self.count += 1;
        self.sum = self.sum.saturating_add(ns);
        if self.samples.len() < MAX_SAMPLES {
            self.samples.push(ns);
        }
    }

    pub fn count(&self) -> u64 {
        self.count
    }

    /// `None` where nothing was added.
    pub fn distribution(&self) -> Option<Distribution> {
        if self.count == 0 {
            return None;
        }
        let mut sorted = self.samples.clone();
        sorted.sort_unstable();
        // Nearest rank.
        let rank = |percent: usize| sorted[(sorted.len() * percent).div_ceil(100).max(1) - 1];
        Some(Distribution {
            count: self.count,
            min: self.min,
            p50: rank(50),
            p99: rank(99),
            max: self.max,
            sum: self.sum,
        })
    }

    fn mean_times(&self, n: u64) -> Option<u64> {
        let product = u128::from(self.sum) * u128::from(n);
        u64::try_from(product.checked_div(u128::from(self.count))?).ok()
    }
}

/// All latencies of one incident's exits, nanoseconds.
#[derive(Clone, Debug, Default)]
pub struct Latencies {
    /// kvm_exit to the same vCPU's next kvm_entry.
    pub exit_to_entry: Sum,
    /// kvm_exit to return to user space, or to kvm_entry where there is none.
    pub in_kernel: Sum,
    /// In get_user_pages_unlocked.
    pub gup: Sum,
    /// In user space between.
    pub vmm: Sum,
    /// In-kernel time of just those exits whose gup was measured: what the share is a share of.
    in_kernel_with_gup: u64,
}

/// The claim that is measured against: 63 exits below this many nanoseconds.
const CLAIM_EXITS: u64 = 63;
const CLAIM_NS: u64 = 50_000;

impl Latencies {
    /// Adds the in-kernel part of one exit.
    pub fn exit(&mut self, in_kernel: Option<u64>, gup: Option<u64>) {
        if let Some(ns) = in_kernel {
            self.in_kernel.add(ns);
        }
        if let Some(ns) = gup {
            self.gup.add(ns);
            self.in_kernel_with_gup = self.in_kernel_with_gup.saturating_add(in_kernel.unwrap_or(0));
        }
    }

    pub fn report(&self) -> Latency {
        let share = (self.gup.count > 0 && self.in_kernel_with_gup > 0)
            .then(|| (self.gup.sum as f64 / self.in_kernel_with_gup as f64).clamp(0.0, 1.0));
        let claim = self.in_kernel.mean_times(CLAIM_EXITS).map(|in_kernel_ns| Claim {
            in_kernel_ns,
            with_vmm_ns: self.exit_to_entry.mean_times(CLAIM_EXITS),
            within_50us: in_kernel_ns <= CLAIM_NS,
        });
        Latency {
            exit_to_entry: self.exit_to_entry.distribution(),
            in_kernel: self.in_kernel.distribution(),
            gup: self.gup.distribution(),
            vmm: self.vmm.distribution(),
            // Six digits: the JSON of a replay must be that of the live run to the letter.
            gup_share: share.map(|share| (share * 1e6).round() / 1e6),
            gup_basis: (self.gup.count > 0).then_some(GupBasis::Exact),
            claim_63_exits: claim,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sixty_three_exits_are_held_against_fifty_microseconds() {
        let mut l = Latencies::default();
        for _ in 0..64 {
            l.exit(Some(790), Some(395));
            l.exit_to_entry.add(2_000);
        }
        let report = l.report();
        let claim = report.claim_63_exits.unwrap();
        assert_eq!(
            (claim.in_kernel_ns, claim.with_vmm_ns, claim.within_50us),
            (49_770, Some(126_000), true)
        );
        assert_eq!(report.gup_share, Some(0.5));
        assert_eq!(report.in_kernel.unwrap().sum, 64 * 790);
    }

    #[test]
    fn nothing_seen_is_null_and_not_zero() {
        let report = Latencies::default().report();
        assert_eq!(report, Latency::default());
    }

    #[test]
    fn a_million_exits_keep_exact_sums_in_bounded_memory() {
        let mut sum = Sum::default();
        for ns in 1..=1_000_000 {
            sum.add(ns);
        }
        let d = sum.distribution().unwrap();
        assert_eq!(
            (d.count, d.sum, d.min, d.max),
            (1_000_000, 500_000_500_000, 1, 1_000_000)
        );
        assert_eq!(sum.samples.len(), MAX_SAMPLES);
    }
}
