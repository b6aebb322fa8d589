//! One page of the host in several VMs (ksm, shared memory): an incident each, that name each other. A page may be in
//! thousands of VMs: the first few are named, the others counted.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use super::{Correlator, IncidentNo};
use crate::incident::evidence::Evidence;

/// Incidents that are named.
pub const NAMED: usize = 8;
/// Incidents of one page that are looked at: of more, all are taken to have held it at the same time.
const LOOKED_AT: usize = 64;

/// Incidents by page frame.
#[derive(Default)]
pub struct ByPfn {
    incidents: BTreeSet<(u64, IncidentNo)>,
    /// Incidents of the page frames that have several.
    shared: BTreeMap<u64, u64>,
}

impl ByPfn {
    pub fn insert(&mut self, pfn: u64, no: IncidentNo) {
        let known = self.count(pfn);
        if self.incidents.insert((pfn, no)) && known > 0 {
            self.shared.insert(pfn, known + 1);
        }
    }

    pub fn remove(&mut self, pfn: u64, no: IncidentNo) {
        if !self.incidents.remove(&(pfn, no)) {
            return;
        }
        match self.shared.get_mut(&pfn) {
            Some(count) if *count > 2 => *count -= 1,
            _ => {
                self.shared.remove(&pfn);
            }
        }
    }

    /// Those of the page frames `first` to `last`.
    pub fn range(&self, first: u64, last: u64) -> impl DoubleEndedIterator<Item = IncidentNo> + '_ {
        self.incidents
            .range((first, 0)..=(last, IncidentNo::MAX))
            .map(|(_, no)| *no)
    }

    pub fn of(&self, pfn: u64) -> impl DoubleEndedIterator<Item = IncidentNo> + '_ {
        self.range(pfn, pfn)
    }

    pub fn count(&self, pfn: u64) -> u64 {
        match self.shared.get(&pfn) {
            Some(count) => *count,
            None => u64::from(self.of(pfn).next().is_some()),
        }
    }

    /// Whether the others of the page are to be reported again, now that it has one more: each while all are named, then
    /// each time that there are twice as many.
    fn is_news(&self, pfn: u64) -> bool {
        let count = self.count(pfn);
        count <= NAMED as u64 + 1 || count.is_power_of_two()
    }
}

/// The incidents of other VMs that held the same page.
#[derive(Default)]
pub struct Linked<'a> {
    pub first: Vec<&'a Evidence>,
    /// All of them.
    pub count: u64,
}

impl Correlator {
    /// The incidents of other VMs that held this one's page at the same time. A VMM that has ended before another began
    /// shared nothing with it.
    pub(super) fn linked(&self, no: IncidentNo, evidence: &Evidence) -> Linked<'_> {
        let Some(pfn) = evidence.pfn else {
            return Linked::default();
        };
        let (pid, began, ended) = (
            evidence.pid,
            evidence.t0,
            evidence.vmm_gone().then_some(evidence.last),
        );
        let others = self
            .pages
            .pfns
            .of(pfn)
            .filter(|other| *other != no)
            .take(LOOKED_AT);
        let mut first: Vec<&Evidence> = others
            .filter_map(|other| self.incidents.get(other))
            .filter(|other| {
                let before_this = other.vmm_gone() && other.last < began;
                let after_this = ended.is_some_and(|ended| ended < other.t0);
                other.pid != pid && !before_this && !after_this && super::is_of_a_guest(other)
            })
            .collect();
        let beyond = self.pages.pfns.count(pfn).saturating_sub(LOOKED_AT as u64 + 1);
        let count = first.len() as u64 + beyond;
        first.truncate(NAMED);
        Linked { first, count }
    }

    /// Notes the page of the host of an incident. The others of the page name it now.
    pub(super) fn index_pfn(&mut self, no: IncidentNo, pfn: u64) {
        self.pages.pfns.insert(pfn, no);
        if self.pages.pfns.is_news(pfn) {
            for other in self.known_by_pfn(pfn) {
                if other != no {
                    self.incidents.mark_changed(other);
                }
            }
        }
    }

    /// The live incident of this VM on that page of the host.
    pub(super) fn of_pfn(&self, pid: u32, pfn: u64) -> Option<IncidentNo> {
        let pages = self.incidents.of_process(pid).len();
        // A page may be in many VMs, and a VM may have lost many pages.
        if (pages as u64) < self.pages.pfns.count(pfn) {
            let mut live = self.incidents.live_evidence_of(pid);
            return live.find(|(_, e)| e.pfn == Some(pfn)).map(|(no, _)| no);
        }
        let mut all = self.pages.pfns.of(pfn).rev();
        all.find(|no| self.incidents.lives(*no, pid).is_some())
    }
}
