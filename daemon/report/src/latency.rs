//! What the latencies come to, in words: the same on every page.

use super::duration;
use poisontrace_model::incident::model::{Distribution, Latency};

/// One sentence a finding.
pub fn words(l: &Latency) -> Vec<String> {
    [shares(l), gup(l), claim(l), baseline(l)]
        .into_iter()
        .flatten()
        .collect()
}

fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

fn shares(l: &Latency) -> Option<String> {
    Some(format!(
        "exit-to-entry time: kernel {}, VMM {}",
        percent(l.in_kernel_share?),
        percent(l.vmm_share?)
    ))
}

fn gup(l: &Latency) -> Option<String> {
    let basis = l.gup_basis.map_or("?", |basis| basis.word());
    Some(format!(
        "host-side gup: {} of the in-kernel time ({basis})",
        percent(l.gup_share?)
    ))
}

fn claim(l: &Latency) -> Option<String> {
    let claim = l.claim_63_exits.as_ref()?;
    let with = claim
        .with_vmm_ns
        .map_or_else(String::new, |ns| format!(" ({} with the VMM)", duration(ns)));
    let holds = if claim.within_50us { "within" } else { "over" };
    Some(format!(
        "63 such exits take {}{with}: {holds} the 50 µs claimed on LKML in 2020",
        duration(claim.in_kernel_ns)
    ))
}

fn baseline(l: &Latency) -> Option<String> {
    let baseline = l.baseline_exit.as_ref()?;
    Some(format!(
        "63 baseline exits ({}, no memory touched) take {} on this host",
        baseline.exits_of,
        duration(l.claim_63_exits.as_ref()?.baseline_exit_ns?)
    ))
}

/// The measured distributions and their names in the report.
pub fn rows(l: &Latency) -> Vec<(&'static str, &Distribution)> {
    [
        ("exit to entry", &l.exit_to_entry),
        ("in kernel", &l.in_kernel),
        ("gup", &l.gup),
        ("in the VMM", &l.vmm),
    ]
    .into_iter()
    .filter_map(|(name, distribution)| Some((name, distribution.as_ref()?)))
    .chain(
        l.baseline_exit
            .as_ref()
            .map(|baseline| ("baseline exit", &baseline.exit_to_entry)),
    )
    .collect()
}
