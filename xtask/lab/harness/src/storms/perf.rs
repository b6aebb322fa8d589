//! The report of `perf kvm stat`: exits by reason.

use std::collections::BTreeMap;

use super::trace::Time;

/// `EPT_VIOLATION  75  53.19%  85.05%  3.16us  23.89us  6.54us ( +- 3.12% )`: reason, samples, shares of samples and time,
/// shortest, longest, mean.
pub fn by_reason(report: &str) -> BTreeMap<String, Time> {
    let line = |line: &str| {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let [reason, samples, _, _, _, _, mean, ..] = words[..] else {
            return None;
        };
        let count: u64 = samples.parse().ok()?;
        let mean: f64 = mean.strip_suffix("us")?.parse().ok()?;
        let ns = mean * 1000.0 * count as f64;
        Some((reason.to_owned(), Time { count, ns }))
    };
    report.lines().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_is_read_by_reason() {
        let report = "\n\nAnalyze events for all VMs, all VCPUs:\n\n\
             VM-EXIT    Samples  Samples%     Time%    Min Time    Max Time         Avg time \n\n\
             EPT_VIOLATION         64    47.41%    94.12%      7.10us     15.00us      7.50us ( +-   2.00% )\n\
             CPUID         64    47.41%     5.00%      0.40us      0.60us      0.50us ( +-   0.53% )\n\n\
             Total Samples:135, Total events handled time:512.00us.\n";
        let reasons = by_reason(report);
        assert_eq!(reasons.len(), 2);
        let time = |count, ns| Time { count, ns };
        assert_eq!(reasons["EPT_VIOLATION"], time(64, 480_000.0));
        assert_eq!(reasons["CPUID"], time(64, 32_000.0));
    }
}
