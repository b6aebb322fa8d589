//! What the latencies come to, in words: the same on every page.

use super::duration;
use poisontrace_model::incident::model::Latency;

/// One sentence a finding.
pub fn words(l: &Latency) -> Vec<String> {
    [shares(l), gup(l), claim(l), floor(l)]
        .into_iter()
        .flatten()
        .collect()
}

fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

fn shares(l: &Latency) -> Option<String> {
    Some(format!(
        "of exit to entry the kernel has {}, the VMM {}",
        percent(l.in_kernel_share?),
        percent(l.vmm_share?)
    ))
}

fn gup(l: &Latency) -> Option<String> {
    let basis = l.gup_basis.map_or("?", |basis| basis.word());
    Some(format!(
        "the host-side gup is {} of the time in the kernel ({basis})",
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

fn floor(l: &Latency) -> Option<String> {
    let floor = l.floor.as_ref()?;
    Some(format!(
        "63 bare exits ({}, no memory touched) take {} on this host",
        floor.exits_of,
        duration(l.claim_63_exits.as_ref()?.floor_ns?)
    ))
}
