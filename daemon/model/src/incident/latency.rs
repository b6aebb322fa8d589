//! Latency of the poison exits: counts and sums are the kernel's and exact; percentiles come from samples where
//! every exit is among them, else from the log2 histograms.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use poisontrace_probes::page_totals::CLAIM_NS;
use serde::{Deserialize, Serialize};

use super::{
    limits::Detail,
    model::{BaselineTimes, Claim, Distribution, GupBasis, Latency},
};
use crate::{
    compact_map,
    event::totals::{BaselineKind, DurationTotals, PageTotals},
};

/// Samples kept for the percentiles, each kind.
const MAX_SAMPLES: usize = 4096;

/// Single durations, nanoseconds, of the first exits.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Sample(Vec<u64>);

impl Sample {
    /// Adds one duration, nanoseconds.
    pub fn add(&mut self, ns: u64, detail: Detail) {
        if self.0.len() < detail.of(MAX_SAMPLES) {
            compact_map::push(&mut self.0, ns);
        }
    }
}

/// The single durations of each kind.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Samples {
    /// From the exit to the next entry.
    pub exit_to_entry: Sample,
    /// The part of it in the kernel.
    pub in_kernel: Sample,
    /// In `get_user_pages_unlocked()`.
    pub gup: Sample,
    /// In user space: the VMM.
    pub vmm: Sample,
    /// Fault to signal of exits whose gup was not measured: it lies within.
    pub bound: Sample,
    /// Upper bounds of gup where it was not measured.
    pub bound_total: DurationTotals,
}

impl Samples {
    /// Adds another incident's.
    pub fn absorb(&mut self, other: Self) {
        let kinds = [
            (&mut self.exit_to_entry, other.exit_to_entry),
            (&mut self.in_kernel, other.in_kernel),
            (&mut self.gup, other.gup),
            (&mut self.vmm, other.vmm),
            (&mut self.bound, other.bound),
        ];
        for (to, from) in kinds {
            from.0.into_iter().for_each(|ns| to.add(ns, Detail::default()));
        }
        self.bound_total.merge(&other.bound_total);
    }
}

/// The claim that is measured against: so many exits within [`CLAIM_NS`].
const CLAIM_EXITS: u64 = 63;

/// What a bare exit and entry cost on the host: of the kind that costs least, so that others' work in the kernel is not
/// taken for it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BaselineExit {
    kind: BaselineKind,
    time: DurationTotals,
}

impl BaselineExit {
    /// The kind with the least mean.
    pub fn cheapest(kinds: &BTreeMap<BaselineKind, DurationTotals>) -> Option<Self> {
        let (kind, time) = kinds
            .iter()
            .filter(|(_, time)| time.count > 0)
            .min_by_key(|(_, time)| time.mean())?;
        Some(Self {
            kind: *kind,
            time: time.clone(),
        })
    }
}

/// The contract's latencies.
pub fn report(total: &PageTotals, samples: &Samples, baseline: Option<&BaselineExit>) -> Latency {
    let in_kernel = &total.in_kernel_time;
    let bound = total.gup.count == 0 && samples.bound_total.count == total.exits;
    let (gup, gup_sample) = if bound {
        (&samples.bound_total, &samples.bound)
    } else {
        (&total.gup, &samples.gup)
    };
    let gup_share = (gup.count > 0 && in_kernel.sum > 0).then(|| share(gup.sum, in_kernel.sum));
    let claim = mean_times(in_kernel, CLAIM_EXITS).map(|in_kernel_ns| Claim {
        in_kernel_ns,
        with_vmm_ns: mean_times(&total.exit_to_entry, CLAIM_EXITS),
        within_50us: in_kernel_ns <= CLAIM_NS,
        baseline_exit_ns: baseline.and_then(|baseline| mean_times(&baseline.time, CLAIM_EXITS)),
    });
    // Of the exits that went back into the guest: the last one of a guest that died has no way back.
    let (back, vmm) = (&total.exit_to_entry, &total.vmm);
    let vmm_share = (back.sum > 0 && back.count >= vmm.count).then(|| share(vmm.sum, back.sum));
    Latency {
        exit_to_entry: distribution(&total.exit_to_entry, &samples.exit_to_entry),
        in_kernel: distribution(in_kernel, &samples.in_kernel),
        gup: distribution(gup, gup_sample),
        vmm: distribution(&total.vmm, &samples.vmm),
        gup_share,
        gup_basis: (gup.count > 0).then_some(if bound { GupBasis::Bound } else { GupBasis::Exact }),
        in_kernel_share: vmm_share.map(|share| rounded(1.0 - share)),
        vmm_share,
        baseline_exit: baseline.and_then(|baseline| {
            let exit_to_entry = distribution(&baseline.time, &Sample::default())?;
            Some(BaselineTimes {
                exits_of: baseline.kind,
                exit_to_entry,
            })
        }),
        claim_63_exits: claim,
    }
}

/// Whether kvm_exit is late, so that times are lower bounds: up to 6.4 KVM emits it on SVM in svm_handle_exit, with
/// interrupts back on, and from 6.6 in svm_vcpu_run. No format shows which, so the version has to.
pub fn exit_is_late(svm: bool, kernel: Option<&str>) -> bool {
    let version = || {
        let mut numbers = kernel?.split(|c: char| !c.is_ascii_digit());
        let mut number = || numbers.next()?.parse::<u32>().ok();
        Some((number()?, number()?))
    };
    svm && version().is_some_and(|version| version < (6, 6))
}

fn share(part: u64, whole: u64) -> f64 {
    rounded((part as f64 / whole as f64).clamp(0.0, 1.0))
}

/// Six digits: the JSON of a replay must be that of the live run to the letter.
fn rounded(share: f64) -> f64 {
    // Without std there is no round(); a share is not negative.
    ((share * 1e6 + 0.5) as u64) as f64 / 1e6
}

fn distribution(total: &DurationTotals, sample: &Sample) -> Option<Distribution> {
    if total.count == 0 {
        return None;
    }
    let (p50, p99) = if sample.0.len() as u64 == total.count {
        let mut sorted = sample.0.clone();
        sorted.sort_unstable();
        // Nearest rank.
        let rank = |percent: usize| sorted[(sorted.len() * percent).div_ceil(100).max(1) - 1];
        (rank(50), rank(99))
    } else {
        (from_buckets(total, 50), from_buckets(total, 99))
    };
    Some(Distribution {
        count: total.count,
        min: total.min,
        p50,
        p99,
        max: total.max,
        sum: total.sum,
        buckets: total.buckets.clone(),
    })
}

/// A percentile from the histogram: the middle of its bucket, within the extremes.
fn from_buckets(total: &DurationTotals, percent: u64) -> u64 {
    let rank = (u128::from(total.count) * u128::from(percent))
        .div_ceil(100)
        .max(1);
    let mut seen = 0u128;
    for (n, count) in total.buckets.iter().enumerate() {
        seen += u128::from(*count);
        if seen >= rank {
            let low = 1u64 << n.min(63);
            // Not clamp(): a damaged recording has totals whose least is more than their most.
            return (low + low / 2).max(total.min).min(total.max);
        }
    }
    total.max
}

fn mean_times(total: &DurationTotals, n: u64) -> Option<u64> {
    let product = u128::from(total.sum) * u128::from(n);
    u64::try_from(product.checked_div(u128::from(total.count))?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sixty_three_exits_are_held_against_fifty_microseconds() {
        let mut total = PageTotals::default();
        for _ in 0..64 {
            total.in_kernel_time.add(790);
            total.gup.add(395);
            total.exit_to_entry.add(2_000);
            total.vmm.add(1_500);
        }
        let mut kinds = BTreeMap::new();
        for (kind, ns) in [(BaselineKind::Msr, 900), (BaselineKind::Cpuid, 300)] {
            kinds.entry(kind).or_insert_with(DurationTotals::default).add(ns);
        }
        let baseline = BaselineExit::cheapest(&kinds).unwrap();
        let report = report(&total, &Samples::default(), Some(&baseline));
        let claim = report.claim_63_exits.unwrap();
        assert_eq!(
            (claim.in_kernel_ns, claim.with_vmm_ns, claim.within_50us),
            (49_770, Some(126_000), true)
        );
        assert_eq!(
            (report.gup_share, report.in_kernel_share, report.vmm_share),
            (Some(0.5), Some(0.25), Some(0.75))
        );
        assert_eq!(claim.baseline_exit_ns, Some(63 * 300));
        assert_eq!(report.baseline_exit.unwrap().exits_of, BaselineKind::Cpuid);
        assert_eq!(report.in_kernel.unwrap().sum, 64 * 790);
    }

    #[test]
    fn times_of_svm_before_6_6_are_lower_bounds() {
        for (kernel, late) in [
            ("6.1.0-44-amd64", true),
            ("5.10.262", true),
            ("6.6.87", false),
            ("6.12.117+deb12-cloud-amd64", false),
            ("7.3.4", false),
            ("none", false),
        ] {
            assert_eq!(exit_is_late(true, Some(kernel)), late, "{kernel}");
        }
        assert!(!exit_is_late(false, Some("6.1.0")));
    }

    #[test]
    fn nothing_seen_is_null_and_not_zero() {
        assert_eq!(
            report(&PageTotals::default(), &Samples::default(), None),
            Latency::default()
        );
    }

    #[test]
    fn damaged_totals_have_a_percentile_too() {
        let mut total = DurationTotals::default();
        total.add(790);
        total.add(800);
        total.min = u64::MAX;
        let d = distribution(&total, &Sample::default()).unwrap();
        assert_eq!((d.min, d.p50, d.max), (u64::MAX, 800, 800));
    }

    #[test]
    fn a_million_exits_keep_exact_sums_and_percentiles_of_the_right_size() {
        let mut total = DurationTotals::default();
        let mut sample = Sample::default();
        for ns in 1..=1_000_000 {
            total.add(ns);
            sample.add(ns, Detail::default());
        }
        assert_eq!(sample.0.len(), MAX_SAMPLES);
        let d = distribution(&total, &sample).unwrap();
        assert_eq!(
            (d.count, d.sum, d.min, d.max),
            (1_000_000, 500_000_500_000, 1, 1_000_000)
        );
        // Within a factor of two of the true 500,000 and 990,000.
        assert!(
            (250_000..=1_000_000).contains(&d.p50) && (495_000..=1_000_000).contains(&d.p99),
            "{d:?}"
        );
    }
}
