//! One page of the host in several VMs (ksm, shared memory): an incident each, that name each other.

use std::collections::BTreeSet;

use super::{Correlator, IncidentNo};
use crate::incident::evidence::Evidence;

/// Incidents by page frame.
pub type ByPfn = BTreeSet<(u64, IncidentNo)>;

impl Correlator {
    /// The incidents of other VMs that held this one's page at the same time. A VMM that has ended before another began
    /// shared nothing with it.
    pub(super) fn linked(&self, no: IncidentNo, evidence: &Evidence) -> impl Iterator<Item = &Evidence> {
        let pfn = evidence.pfn.into_iter();
        let (pid, began, ended) = (
            evidence.pid,
            evidence.t0,
            evidence.vmm_gone().then_some(evidence.last),
        );
        pfn.flat_map(|pfn| self.by_pfn.range((pfn, 0)..=(pfn, IncidentNo::MAX)))
            .filter(move |(_, other)| *other != no)
            .filter_map(|(_, other)| self.incidents.get(other).map(Box::as_ref))
            .filter(move |other| {
                let before_this = other.vmm_gone() && other.last < began;
                let after_this = ended.is_some_and(|ended| ended < other.t0);
                other.pid != pid && !before_this && !after_this
            })
    }
}
