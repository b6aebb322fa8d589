//! Histograms that are filled from the kernel's exact totals, not by single observations.
//!
//! The kernel keeps log2 buckets of nanoseconds: bucket n counts 2^n to 2^(n+1) - 1 ns. The edges here are powers of two of a
//! nanosecond, so that each is exact (to the nanosecond that lies on it), and 50 µs, the claim of 2020, which the kernel
//! counts by itself. Recordings that were made before it did have no such count: there the share below 50 µs of the bucket
//! around it is taken as linear.

use std::sync::{Arc, Mutex, PoisonError};

use prometheus::{
    core::{Collector, Desc},
    proto,
};

use poisontrace_probes::page_totals::CLAIM_NS;

use poisontrace_model::event::totals::DurationTotals;

/// Edges, nanoseconds; above the last is +Inf.
pub const EDGES_NS: [u64; 14] = [
    1 << 10,
    1 << 12,
    1 << 13,
    1 << 14,
    1 << 15,
    CLAIM_NS,
    1 << 16,
    1 << 17,
    1 << 18,
    1 << 20,
    1 << 22,
    1 << 24,
    1 << 27,
    1 << 30,
];

/// Cumulative counts of one incident at the edges, then all. As narrow as the kernel's own buckets: ten thousand incidents
/// have four each.
pub type Counts = [u32; EDGES_NS.len() + 1];

/// Counts of a duration at the edges.
pub fn counts(duration: &DurationTotals) -> Counts {
    let narrow = |count: u64| u32::try_from(count).unwrap_or(u32::MAX);
    let mut counts = [0; EDGES_NS.len() + 1];
    for (count, edge) in counts.iter_mut().zip(EDGES_NS) {
        *count = match duration.within_claim {
            Some(within) if edge == CLAIM_NS => within,
            _ => narrow(below(duration, edge)),
        };
    }
    counts[EDGES_NS.len()] = narrow(duration.count);
    counts
}

/// How many lie below `edge`.
fn below(duration: &DurationTotals, edge: u64) -> u64 {
    let mut sum = 0;
    for (n, count) in (0u32..).zip(&duration.buckets) {
        let (start, width) = (1u64 << n.min(63), 1u64 << n.min(63));
        let count = u64::from(*count);
        if start.saturating_add(width) <= edge {
            sum += count;
        } else if start < edge {
            sum += count * (edge - start) / width;
        }
    }
    sum
}

/// See the module.
#[derive(Clone)]
pub struct Histogram {
    desc: Desc,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    counts: [u64; EDGES_NS.len() + 1],
    sum_ns: u64,
}

impl Histogram {
    pub fn new(name: String, help: &str) -> prometheus::Result<Self> {
        Ok(Self {
            desc: Desc::new(name, help.to_owned(), Vec::new(), Default::default())?,
            state: Arc::default(),
        })
    }

    /// Adds what has come since `before`.
    pub fn add(&self, now: &Counts, sum_ns: u64, before: &Counts, before_ns: u64) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let new: Vec<u64> = now
            .iter()
            .zip(before)
            .map(|(now, before)| u64::from(now.saturating_sub(*before)))
            .collect();
        // Cumulative counts must not fall from edge to edge, whatever the two readings say.
        let mut least = 0;
        for (count, new) in state.counts.iter_mut().zip(new) {
            least = least.max(new);
            *count += least;
        }
        state.sum_ns = state.sum_ns.saturating_add(sum_ns.saturating_sub(before_ns));
    }

    /// Adds one observation.
    pub fn observe(&self, ns: u64) {
        let mut now = [0; EDGES_NS.len() + 1];
        for (count, edge) in now.iter_mut().zip(EDGES_NS) {
            *count = u32::from(ns <= edge);
        }
        now[EDGES_NS.len()] = 1;
        self.add(&now, ns, &[0; EDGES_NS.len() + 1], 0);
    }

    #[cfg(test)]
    pub fn read(&self) -> ([u64; EDGES_NS.len() + 1], u64) {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        (state.counts, state.sum_ns)
    }
}

impl Collector for Histogram {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.desc]
    }

    fn collect(&self) -> Vec<proto::MetricFamily> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let buckets = state.counts.iter().zip(EDGES_NS).map(|(count, edge)| {
            let mut bucket = proto::Bucket::default();
            bucket.set_upper_bound(edge as f64 / 1e9);
            bucket.set_cumulative_count(*count);
            bucket
        });
        let mut histogram = proto::Histogram::default();
        histogram.set_bucket(buckets.collect());
        histogram.set_sample_count(state.counts[EDGES_NS.len()]);
        histogram.set_sample_sum(state.sum_ns as f64 / 1e9);
        let mut metric = proto::Metric::from_label(Vec::new());
        metric.set_histogram(histogram);
        let mut family = proto::MetricFamily::default();
        family.set_name(self.desc.fq_name.clone());
        family.set_help(self.desc.help.clone());
        family.set_field_type(proto::MetricType::HISTOGRAM);
        family.set_metric(vec![metric]);
        vec![family]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(edge: u64) -> usize {
        EDGES_NS.iter().position(|e| *e == edge).unwrap()
    }

    #[test]
    fn powers_of_two_are_exact_edges_and_nothing_is_lost() {
        let mut duration = DurationTotals::default();
        for ns in [900, 1_500, 40_000, 70_000, 5_000_000_000] {
            duration.add(ns);
        }
        let counts = counts(&duration);
        assert_eq!(counts[at(1 << 10)], 1);
        assert_eq!(counts[at(1 << 12)], 2);
        assert_eq!(counts[at(1 << 15)], 2);
        assert_eq!(counts[at(1 << 16)], 3);
        assert_eq!(counts[at(1 << 17)], 4);
        assert_eq!(counts[at(1 << 30)], 4);
        assert_eq!(counts[EDGES_NS.len()], 5);
    }

    #[test]
    fn the_edge_at_50_us_is_counted_and_where_it_was_not_its_bucket_is_shared_out() {
        let mut duration = DurationTotals::default();
        for n in 0..1000 {
            duration.add(32_768 + n * 32);
        }
        let exact = (0..1000).filter(|n| 32_768 + n * 32 <= 50_000).count() as u32;
        assert_eq!(counts(&duration)[at(CLAIM_NS)], exact);
        duration.within_claim = None;
        let counts = counts(&duration);
        assert!(
            counts[at(CLAIM_NS)].abs_diff(exact) <= 20,
            "{} for {exact}",
            counts[at(CLAIM_NS)]
        );
        assert!(counts[at(1 << 15)] <= counts[at(CLAIM_NS)] && counts[at(CLAIM_NS)] <= counts[at(1 << 16)]);
    }

    #[test]
    fn a_second_reading_adds_only_what_is_new() {
        let histogram = Histogram::new("h_seconds".into(), "h").unwrap();
        let mut duration = DurationTotals::default();
        duration.add(2_000);
        let first = counts(&duration);
        histogram.add(&first, duration.sum, &[0; EDGES_NS.len() + 1], 0);
        duration.add(3_000);
        histogram.add(&counts(&duration), duration.sum, &first, 2_000);
        let (read, sum) = histogram.read();
        assert_eq!((read[EDGES_NS.len()], sum), (2, 5_000));
    }
}
