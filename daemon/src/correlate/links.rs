//! One page of the host in several VMs (ksm, shared memory): an incident each, that name each other.

use std::collections::{BTreeMap, HashMap};

use super::IncidentNo;
use crate::incident::evidence::Evidence;

/// Incidents of the pages of the host that are lost in more than one of them.
pub type Shared = HashMap<u64, Vec<IncidentNo>>;

/// By page frame; `only`: of this one.
pub fn shared(incidents: &BTreeMap<IncidentNo, Evidence>, only: Option<u64>) -> Shared {
    let mut by_pfn = Shared::new();
    for (no, evidence) in incidents {
        if let Some(pfn) = evidence.pfn
            && only.is_none_or(|only| only == pfn)
        {
            by_pfn.entry(pfn).or_default().push(*no);
        }
    }
    by_pfn.retain(|_, incidents| incidents.len() > 1);
    by_pfn
}

/// The incidents of other VMs that held this one's page at the same time. A VMM that has ended before another began
/// shared nothing with it.
pub fn of<'a>(
    no: IncidentNo,
    evidence: &'a Evidence,
    incidents: &'a BTreeMap<IncidentNo, Evidence>,
    shared: &Shared,
) -> impl Iterator<Item = &'a Evidence> {
    let all = evidence.pfn.and_then(|pfn| shared.get(&pfn));
    let others = all.map(Vec::as_slice).unwrap_or_default().to_vec();
    others
        .into_iter()
        .filter(move |other| *other != no)
        .filter_map(|other| incidents.get(&other))
        .filter(move |other| {
            let before = |a: &Evidence, b: &Evidence| a.vmm_gone() && a.last < b.t0;
            other.pid != evidence.pid && !before(other, evidence) && !before(evidence, other)
        })
}
