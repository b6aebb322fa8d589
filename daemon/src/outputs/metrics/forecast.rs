//! Metrics of the forecast: gauges that are set anew each time, so that a pair that no VM has any more is gone.

use super::families::Families;
use poisontrace_model::forecast::Counts;

/// Pairs of outcome and cause; a host has one to three, and further ones are counted together.
const MAX_PAIRS: usize = 12;
const OTHER: &str = "other";

pub fn set(counts: &Counts, families: &Families) {
    let by = &families.vms_by_forecast;
    by.reset();
    for (n, ((outcome, cause), vms)) in counts.by_headline.iter().enumerate() {
        let labels = if n < MAX_PAIRS {
            [*outcome, *cause]
        } else {
            [OTHER, OTHER]
        };
        by.with_label_values(&labels).add(number(*vms));
    }
    let lost = &families.vms_lost_by_forecast;
    let by_setting = counts.setting_mends;
    for (saved_by, vms) in [
        ("setting", by_setting),
        ("none", counts.lost.saturating_sub(by_setting)),
    ] {
        lost.with_label_values(&[saved_by]).set(number(vms));
    }
}

fn number(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
