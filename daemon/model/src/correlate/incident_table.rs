//! The incidents: their evidence by number, which of them changed since they were last reported, and which the
//! current event belongs to. Pages and threads refer to an incident by its number alone.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::{boxed::Box, vec::Vec};

use super::{
    IncidentNo,
    by_page::ByPage,
    by_process::{ByProcess, is_huge},
    is_of_a_guest,
};
use crate::incident::evidence::Evidence;

/// Whose incidents make room: the last first. Processes are had without end by any user, VMMs by whoever may use KVM, and pages
/// that the kernel names by nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Named,
    /// [`Evidence::unconfirmed`].
    Unconfirmed,
    /// Of a process that is not known to run a guest.
    Stranger,
}

impl Rank {
    fn of(e: &Evidence) -> Self {
        match (is_of_a_guest(e), e.unconfirmed()) {
            (false, _) => Self::Stranger,
            (true, true) => Self::Unconfirmed,
            (true, false) => Self::Named,
        }
    }
}

struct Entry {
    evidence: Box<Evidence>,
    rank: Rank,
}

/// See the module.
pub(super) struct IncidentTable {
    incidents: BTreeMap<IncidentNo, Entry>,
    limit: usize,
    evicted: u64,
    next: IncidentNo,
    by_process: ByProcess,
    by_page: ByPage,
    /// Logs are imported.
    pages_tracked: bool,
    /// Of each process, for who makes room.
    shares: BTreeMap<(Rank, u32), BTreeSet<IncidentNo>>,
    /// Processes by the number of their incidents.
    by_share: BTreeSet<(Rank, usize, u32)>,
    changed: BTreeSet<IncidentNo>,
    /// Each once, in order. A list, as an event is of one incident or a few.
    touched: Vec<IncidentNo>,
}

impl IncidentTable {
    pub fn new(limit: usize) -> Self {
        Self {
            incidents: BTreeMap::new(),
            limit,
            evicted: 0,
            next: 1,
            by_process: ByProcess::default(),
            by_page: ByPage::default(),
            pages_tracked: false,
            shares: BTreeMap::new(),
            by_share: BTreeSet::new(),
            changed: BTreeSet::new(),
            touched: Vec::new(),
        }
    }

    pub fn len(&self) -> usize {
        self.incidents.len()
    }

    /// Notes an incident that was not opened: its process has too many.
    pub fn note_refused(&mut self) {
        self.evicted += 1;
    }

    /// Incidents evicted so far because the table was full, and those that were not opened.
    pub fn evicted(&self) -> u64 {
        self.evicted
    }

    pub fn get(&self, no: IncidentNo) -> Option<&Evidence> {
        self.incidents.get(&no).map(|entry| entry.evidence.as_ref())
    }

    /// For what changes no report by itself.
    pub fn get_mut(&mut self, no: IncidentNo) -> Option<&mut Evidence> {
        self.incidents.get_mut(&no).map(|entry| entry.evidence.as_mut())
    }

    /// For a change that comes of another incident's event.
    pub fn change(&mut self, no: IncidentNo) -> Option<&mut Evidence> {
        self.changed.insert(no);
        self.get_mut(no)
    }

    /// For a change that comes of an event of this incident.
    pub fn touch(&mut self, no: IncidentNo) -> Option<&mut Evidence> {
        self.note_touched(no);
        self.change(no)
    }

    fn note_touched(&mut self, no: IncidentNo) {
        if let Err(place) = self.touched.binary_search(&no) {
            self.touched.insert(place, no);
        }
    }

    /// Oldest first.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (IncidentNo, &Evidence)> + Clone {
        self.incidents
            .iter()
            .map(|(no, entry)| (*no, entry.evidence.as_ref()))
    }

    /// Takes an incident out if there is no room for one more: the oldest of the process with most of them, so that a
    /// flood costs nobody but its VM; and, lest one of many processes cost the VMs theirs, of the last [`Rank`] that has any.
    pub fn evict(&mut self) -> Option<(IncidentNo, Box<Evidence>)> {
        if self.incidents.len() < self.limit {
            return None;
        }
        let (rank, _, largest) = self.by_share.last()?;
        let no = *self.shares.get(&(*rank, *largest))?.first()?;
        self.evicted += 1;
        self.remove(no).map(|old| (no, old))
    }

    pub fn insert(&mut self, evidence: Evidence) -> IncidentNo {
        let no = self.next;
        self.next += 1;
        self.by_process.insert(no, evidence.pid);
        let rank = Rank::of(&evidence);
        self.share(rank, evidence.pid, |share| share.insert(no));
        let evidence = Box::new(evidence);
        self.incidents.insert(no, Entry { evidence, rank });
        self.changed.insert(no);
        self.note_touched(no);
        no
    }

    pub fn remove(&mut self, no: IncidentNo) -> Option<Box<Evidence>> {
        let Entry { evidence: old, rank } = self.incidents.remove(&no)?;
        self.by_process.remove(no, &old);
        self.by_page.remove(no);
        self.share(rank, old.pid, |share| share.remove(&no));
        self.changed.remove(&no);
        self.touched.retain(|other| *other != no);
        Some(old)
    }

    /// Changes the incidents of a process.
    fn share(&mut self, rank: Rank, pid: u32, change: impl FnOnce(&mut BTreeSet<IncidentNo>) -> bool) {
        let share = self.shares.entry((rank, pid)).or_default();
        self.by_share.remove(&(rank, share.len(), pid));
        change(share);
        match share.len() {
            0 => {
                self.shares.remove(&(rank, pid));
            }
            n => {
                self.by_share.insert((rank, n, pid));
            }
        }
    }

    /// Notes that the incident is to be reported again.
    pub fn mark_changed(&mut self, no: IncidentNo) {
        self.changed.insert(no);
    }

    /// Numbers of those that changed since the last call.
    pub fn take_changed(&mut self) -> BTreeSet<IncidentNo> {
        core::mem::take(&mut self.changed)
    }

    /// Those that the current event belongs to.
    pub fn touched(&self) -> impl Iterator<Item = (IncidentNo, &Evidence)> {
        self.touched.iter().filter_map(|no| Some((*no, self.get(*no)?)))
    }

    pub fn clear_touched(&mut self) {
        self.touched.clear();
    }

    /// Updates what is kept by process and page of the incidents that the current event belongs to, and hands each to `index`.
    /// `counts`: the event is one of theirs.
    pub fn index_touched(&mut self, counts: bool, mut index: impl FnMut(IncidentNo, &Evidence)) {
        let touched = core::mem::take(&mut self.touched);
        for no in &touched {
            let Some(Entry { evidence, rank }) = self.incidents.get_mut(no) else {
                continue;
            };
            evidence.events += u64::from(counts);
            self.by_process.note(*no, evidence);
            if self.pages_tracked {
                self.by_page.note(*no, evidence);
            }
            index(*no, evidence);
            let (pid, before, now) = (evidence.pid, *rank, Rank::of(evidence));
            *rank = now;
            if before != now {
                self.share(before, pid, |share| share.remove(no));
                self.share(now, pid, |share| share.insert(*no));
            }
        }
        self.touched = touched;
    }

    /// Keeps the incidents by page from now on.
    pub fn track_pages(&mut self) {
        if !self.pages_tracked {
            self.pages_tracked = true;
            for (no, entry) in &self.incidents {
                self.by_page.note(*no, &entry.evidence);
            }
        }
    }

    /// The incidents by the pages that logs name; empty before [`Self::track_pages`].
    pub fn pages(&self) -> &ByPage {
        &self.by_page
    }

    /// All incidents of a process, oldest first.
    pub fn of_process(&self, pid: u32) -> &[IncidentNo] {
        self.by_process.all(pid)
    }

    /// A process is gone and its number another's.
    pub fn forget_process(&mut self, pid: u32) {
        self.by_process.forget(pid);
    }

    /// Incidents of this process while it lives, newest first.
    pub fn live_of(&self, pid: u32) -> impl Iterator<Item = IncidentNo> + '_ {
        self.live_evidence_of(pid).map(|(no, _)| no)
    }

    /// As [`Self::live_of`], with their evidence.
    pub fn live_evidence_of(&self, pid: u32) -> impl Iterator<Item = (IncidentNo, &Evidence)> + '_ {
        let all = self.of_process(pid).iter().rev();
        all.filter_map(move |no| Some((*no, self.lives(*no, pid)?)))
    }

    /// The evidence of an incident of that process, while the process lives.
    pub fn lives(&self, no: IncidentNo, pid: u32) -> Option<&Evidence> {
        self.get(no).filter(|e| e.pid == pid && !e.vmm_gone())
    }

    /// The live incident of this VM without a guest address, where there is only one.
    pub fn only_unplaced(&self, pid: u32) -> Option<IncidentNo> {
        let mut unplaced = self
            .by_process
            .unplaced(pid)
            .filter(|no| self.lives(*no, pid).is_some_and(|e| e.gpa.is_none()));
        let only = unplaced.next()?;
        unplaced.next().is_none().then_some(only)
    }

    /// The latest live incident of this VM whose page the kernel has not named, where there are so many of these.
    pub fn last_unconfirmed(&self, pid: u32, many: usize) -> Option<IncidentNo> {
        let mut unconfirmed = self.by_process.unconfirmed(pid);
        let last = unconfirmed.next_back()?;
        (unconfirmed.count() + 1 >= many).then_some(last)
    }

    /// The live incident of a huge page of this VM in the same GiB.
    pub fn huge_around(&self, pid: u32, gpa: u64) -> Option<IncidentNo> {
        let no = self.by_process.huge_around(pid, gpa)?;
        let around = |e: &Evidence| {
            is_huge(e)
                && e.gpa
                    .is_some_and(|known| (known ^ gpa) >> super::by_process::SHIFT_1G == 0)
        };
        self.lives(no, pid).is_some_and(around).then_some(no)
    }

    /// The incident of this VM with the latest sign of poison. Errors of private memory are not injected.
    pub fn latest_of(&self, pid: u32) -> Option<IncidentNo> {
        let is_one = |e: &Evidence| e.private_fault().is_none();
        if let Some(no) = self.by_process.latest(pid)
            && self.lives(no, pid).is_some_and(is_one)
        {
            return Some(no);
        }
        self.live_evidence_of(pid)
            .filter(|(_, e)| is_one(e))
            .max_by_key(|(_, e)| e.last_poison)
            .map(|(no, _)| no)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{event::Vmm, incident::evidence::HostLoss};

    #[test]
    fn room_is_made_by_the_process_with_most_incidents() {
        let mut table = IncidentTable::new(10);
        let of = |pid| Evidence::new(1, pid, Default::default());
        let first = table.insert(of(8));
        (0..9).for_each(|_| {
            table.insert(of(7));
        });
        for _ in 0..100 {
            let (_, evicted) = table.evict().unwrap();
            assert_eq!(evicted.pid, 7);
            table.insert(of(7));
        }
        assert!(table.get(first).is_some(), "though it is the oldest of all");
        let left: Vec<u32> = table.iter().map(|(_, e)| e.pid).collect();
        assert_eq!(left.iter().filter(|pid| **pid == 7).count(), 9);
    }

    #[test]
    fn room_is_made_by_strangers_before_vms_and_by_claims_before_named_pages() {
        let mut table = IncidentTable::new(10);
        let vmm = Vmm {
            is_vmm: Some(true),
            ..Vmm::default()
        };
        let of = |pid, vmm: &Vmm| Evidence::new(1, pid, vmm.clone().into());
        let named: Vec<IncidentNo> = (0..3).map(|_| table.insert(of(9000, &vmm))).collect();
        let claim = |pid| {
            let mut evidence = of(pid, &vmm);
            evidence.host_loss = HostLoss::OtherMemory;
            evidence
        };
        let claimed = table.insert(claim(9001));
        for pid in 1..=100 {
            table.evict();
            table.insert(of(pid, &Vmm::default()));
        }
        assert!(table.get(claimed).is_some());
        for pid in 101..=200 {
            table.evict();
            table.insert(claim(pid));
        }
        assert!(named.iter().all(|no| table.get(*no).is_some()));
        // What was a claim when it began may be named since.
        let last = table.insert(claim(9002));
        if let Some(evidence) = table.touch(last) {
            evidence.pfn = Some(5);
        }
        table.index_touched(true, |_, _| ());
        for pid in 201..=300 {
            table.evict();
            table.insert(claim(pid));
        }
        assert!(table.get(last).is_some());
    }
}
