//! Incidents of one VMM by what is asked of them at each event: without a search through all of its pages.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use super::{Correlator, IncidentNo};
use crate::incident::evidence::Evidence;

/// What the kernel's own words for a hugetlb page begin with.
pub const HUGE: &str = "huge page";
/// Largest page: 1 GiB.
const SHIFT_1G: u32 = 30;

/// See the module. Entries may be stale: each answer is held against its incident.
#[derive(Default)]
pub(super) struct ByProcess {
    /// Without a guest address.
    unplaced: BTreeSet<(u32, IncidentNo)>,
    /// Of huge pages, by the GiB of their guest address.
    huge: BTreeMap<(u32, u64), IncidentNo>,
    /// The latest sign of poison, and whose it was.
    latest: BTreeMap<u32, (u64, IncidentNo)>,
}

impl ByProcess {
    fn note(&mut self, no: IncidentNo, e: &Evidence) {
        let gone = e.vmm_gone();
        match e.gpa {
            None if !gone => {
                self.unplaced.insert((e.pid, no));
            }
            _ => {
                self.unplaced.remove(&(e.pid, no));
            }
        }
        if let Some(gpa) = e.gpa.filter(|_| !gone && is_huge(e)) {
            self.huge.insert((e.pid, gpa >> SHIFT_1G), no);
        }
        if gone || e.private_fault().is_some() {
            return;
        }
        let latest = self.latest.entry(e.pid).or_insert((e.last_poison, no));
        if e.last_poison > latest.0 {
            *latest = (e.last_poison, no);
        }
    }

    fn forget(&mut self, no: IncidentNo, e: &Evidence) {
        self.unplaced.remove(&(e.pid, no));
        if let Some(gpa) = e.gpa {
            let key = (e.pid, gpa >> SHIFT_1G);
            if self.huge.get(&key) == Some(&no) {
                self.huge.remove(&key);
            }
        }
        if self.latest.get(&e.pid).is_some_and(|(_, latest)| *latest == no) {
            self.latest.remove(&e.pid);
        }
    }
}

fn is_huge(e: &Evidence) -> bool {
    e.page_type.as_deref().is_some_and(|kind| kind.starts_with(HUGE))
}

impl Correlator {
    /// Keeps the index: called with each incident that an event touched.
    pub(super) fn index_process(&mut self, no: IncidentNo) {
        if let Some(evidence) = self.incidents.get(&no) {
            self.by_process.note(no, evidence);
        }
    }

    pub(super) fn unindex_process(&mut self, no: IncidentNo, evidence: &Evidence) {
        self.by_process.forget(no, evidence);
    }

    /// The live incident of this VM without a guest address, where there is only one.
    pub(super) fn only_unplaced(&self, pid: u32) -> Option<IncidentNo> {
        let all = self.by_process.unplaced.range((pid, 0)..=(pid, IncidentNo::MAX));
        let mut unplaced = all
            .map(|(_, no)| *no)
            .filter(|no| self.lives(*no, pid).is_some_and(|e| e.gpa.is_none()));
        let only = unplaced.next()?;
        unplaced.next().is_none().then_some(only)
    }

    /// The live incident of a huge page of this VM in the same GiB.
    pub(super) fn huge_around(&self, pid: u32, gpa: u64) -> Option<IncidentNo> {
        let no = *self.by_process.huge.get(&(pid, gpa >> SHIFT_1G))?;
        let around = |e: &Evidence| is_huge(e) && e.gpa.is_some_and(|known| (known ^ gpa) >> SHIFT_1G == 0);
        self.lives(no, pid).is_some_and(around).then_some(no)
    }

    /// The live incident of this VM on that page of the host.
    pub(super) fn of_pfn(&self, pid: u32, pfn: u64) -> Option<IncidentNo> {
        let pages = self.by_pid.get(&pid).map_or(0, Vec::len);
        // A page may be in many VMs, and a VM may have lost many pages.
        if (pages as u64) < self.by_pfn.count(pfn) {
            let is_it = |no: &IncidentNo| self.incidents.get(no).is_some_and(|e| e.pfn == Some(pfn));
            return self.live_of(pid).find(is_it);
        }
        let mut all = self.by_pfn.of(pfn).rev();
        all.find(|no| self.lives(*no, pid).is_some())
    }

    /// The incident of this VM with the latest sign of poison. Private memory is not reported.
    pub(super) fn latest_of(&self, pid: u32) -> Option<IncidentNo> {
        let is_one = |e: &Evidence| e.private_fault().is_none();
        if let Some((_, no)) = self.by_process.latest.get(&pid)
            && self.lives(*no, pid).is_some_and(is_one)
        {
            return Some(*no);
        }
        self.live_of(pid)
            .filter_map(|no| self.incidents.get(&no).map(|e| (no, e)))
            .filter(|(_, e)| is_one(e))
            .max_by_key(|(_, e)| e.last_poison)
            .map(|(no, _)| no)
    }

    fn lives(&self, no: IncidentNo, pid: u32) -> Option<&Evidence> {
        let evidence = self.incidents.get(&no)?;
        (evidence.pid == pid && !evidence.vmm_gone()).then_some(evidence)
    }
}
