//! One page of the host in several VMs (ksm, shared memory): an incident each, that name each other. A page may be in
//! thousands of VMs: the first few are named, the others counted.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::{boxed::Box, vec::Vec};

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
        let others = self.by_pfn.of(pfn).filter(|other| *other != no).take(LOOKED_AT);
        let mut first: Vec<&Evidence> = others
            .filter_map(|other| self.incidents.get(&other).map(Box::as_ref))
            .filter(|other| {
                let before_this = other.vmm_gone() && other.last < began;
                let after_this = ended.is_some_and(|ended| ended < other.t0);
                other.pid != pid && !before_this && !after_this && super::is_of_a_guest(other)
            })
            .collect();
        let beyond = self.by_pfn.count(pfn).saturating_sub(LOOKED_AT as u64 + 1);
        let count = first.len() as u64 + beyond;
        first.truncate(NAMED);
        Linked { first, count }
    }

    /// Notes the page of the host of an incident. The others of the page name it now.
    pub(super) fn index_pfn(&mut self, no: IncidentNo, pfn: u64) {
        self.by_pfn.insert(pfn, no);
        if self.by_pfn.is_news(pfn) {
            let others = self.known_by_pfn(pfn);
            self.changed
                .extend(others.into_iter().filter(|other| *other != no));
        }
    }
}
