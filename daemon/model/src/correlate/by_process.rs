//! Incidents of one VMM by what each event looks up: without a search through all of its pages.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use super::IncidentNo;
use crate::incident::evidence::Evidence;

/// The kernel's name for a hugetlb page begins so.
pub const HUGE: &str = "huge page";
/// Largest page: 1 GiB.
pub const SHIFT_1G: u32 = 30;

/// See the module. Entries of single incidents may be stale: each answer is held against its incident.
#[derive(Default)]
pub(super) struct ByProcess {
    /// In order of their beginning.
    all: BTreeMap<u32, Vec<IncidentNo>>,
    /// Without a guest address.
    unplaced: BTreeSet<(u32, IncidentNo)>,
    /// Whose page the kernel has not named.
    unconfirmed: BTreeSet<(u32, IncidentNo)>,
    /// Of huge pages, by the GiB of their guest address.
    huge: BTreeMap<(u32, u64), IncidentNo>,
    /// The latest sign of poison, and whose it was.
    latest: BTreeMap<u32, (u64, IncidentNo)>,
}

impl ByProcess {
    pub fn insert(&mut self, no: IncidentNo, pid: u32) {
        self.all.entry(pid).or_default().push(no);
    }

    pub fn all(&self, pid: u32) -> &[IncidentNo] {
        self.all.get(&pid).map(Vec::as_slice).unwrap_or_default()
    }

    /// A process is gone and its number another's.
    pub fn forget(&mut self, pid: u32) {
        self.all.remove(&pid);
        let unconfirmed: Vec<IncidentNo> = self.unconfirmed(pid).collect();
        for no in unconfirmed {
            self.unconfirmed.remove(&(pid, no));
        }
    }

    pub fn note(&mut self, no: IncidentNo, e: &Evidence) {
        let gone = e.vmm_gone();
        match e.gpa {
            None if !gone => {
                self.unplaced.insert((e.pid, no));
            }
            _ => {
                self.unplaced.remove(&(e.pid, no));
            }
        }
        match e.unconfirmed() && !gone {
            true => self.unconfirmed.insert((e.pid, no)),
            false => self.unconfirmed.remove(&(e.pid, no)),
        };
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

    pub fn remove(&mut self, no: IncidentNo, e: &Evidence) {
        self.unplaced.remove(&(e.pid, no));
        self.unconfirmed.remove(&(e.pid, no));
        if let Some(gpa) = e.gpa {
            let key = (e.pid, gpa >> SHIFT_1G);
            if self.huge.get(&key) == Some(&no) {
                self.huge.remove(&key);
            }
        }
        if self.latest(e.pid) == Some(no) {
            self.latest.remove(&e.pid);
        }
        if let Some(list) = self.all.get_mut(&e.pid) {
            // In order of their beginning, hence of their numbers.
            if let Ok(at) = list.binary_search(&no) {
                list.remove(at);
            }
            if list.is_empty() {
                self.all.remove(&e.pid);
            }
        }
    }

    pub fn unplaced(&self, pid: u32) -> impl Iterator<Item = IncidentNo> + '_ {
        let all = self.unplaced.range((pid, 0)..=(pid, IncidentNo::MAX));
        all.map(|(_, no)| *no)
    }

    pub fn unconfirmed(&self, pid: u32) -> impl DoubleEndedIterator<Item = IncidentNo> + '_ {
        let all = self.unconfirmed.range((pid, 0)..=(pid, IncidentNo::MAX));
        all.map(|(_, no)| *no)
    }

    pub fn huge_around(&self, pid: u32, gpa: u64) -> Option<IncidentNo> {
        self.huge.get(&(pid, gpa >> SHIFT_1G)).copied()
    }

    pub fn latest(&self, pid: u32) -> Option<IncidentNo> {
        self.latest.get(&pid).map(|(_, no)| *no)
    }
}

pub fn is_huge(e: &Evidence) -> bool {
    e.page_type.as_deref().is_some_and(|kind| kind.starts_with(HUGE))
}
