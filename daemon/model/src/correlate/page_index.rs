//! Which incident a page belongs to: by its address in the VMM, by guest address, and by page frame of the host.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use super::{IncidentNo, shared_pages::ByPfn};
use crate::{
    event::{Event, EventKind},
    incident::{evidence::Evidence, limits::PAGE_SIZE},
};

/// Entries are at most as many as the incidents have pages; the correlator removes them with their incident.
#[derive(Default)]
pub(super) struct PageIndex {
    hvas: Ranges,
    gpas: Ranges,
    pub pfns: ByPfn,
}

impl PageIndex {
    /// The incident of an address in the VMM `pid`.
    pub fn of_hva(&self, pid: u32, hva: u64) -> Option<IncidentNo> {
        self.hvas.find(pid, hva)
    }

    /// The incident of a page that begins within `size` bytes from `base` in the VMM `pid`.
    pub fn within_hvas(&self, pid: u32, base: u64, size: u64) -> Option<IncidentNo> {
        self.hvas.within(pid, base, size)
    }

    /// The incident of a GPA of this VM: the same 4 KiB page, or the same huge page.
    pub fn of_gpa(&self, pid: u32, gpa: u64) -> Option<IncidentNo> {
        self.gpas.find(pid, gpa & !(PAGE_SIZE - 1))
    }

    pub fn insert_hva(&mut self, pid: u32, hva: u64, size: u64, no: IncidentNo) {
        self.hvas.insert(pid, hva, size, no);
    }

    /// Adds the guest addresses of an incident that an event belongs to.
    pub fn index(&mut self, no: IncidentNo, evidence: &Evidence, event: &Event) {
        if evidence.vmm_gone() {
            return;
        }
        let pid = evidence.pid;
        let size = evidence.size().unwrap_or(PAGE_SIZE);
        if let Some(gpa) = evidence.gpa {
            self.insert_gpa(pid, gpa, size, no);
        }
        let page = match &event.what {
            EventKind::PoisonExit(exit) => exit.gpa.map(|gpa| gpa.0 & !(PAGE_SIZE - 1)),
            EventKind::PageTotals(totals) => Some(totals.gpa.0),
            _ => None,
        };
        let inserted = |page| size == PAGE_SIZE && evidence.gpa == Some(page);
        if let Some(page) = page.filter(|page| event.pid == pid && !inserted(*page)) {
            self.insert_piece(pid, page, no);
        }
    }

    pub fn insert_gpa(&mut self, pid: u32, gpa: u64, size: u64, no: IncidentNo) {
        self.gpas.insert(pid, gpa & !(size - 1), size, no);
    }

    /// Adds a 4 KiB page unless a range holds it: a huge page whose GPAs are not aligned as its HVA is has pages beyond
    /// its range.
    pub fn insert_piece(&mut self, pid: u32, gpa: u64, no: IncidentNo) {
        if self.gpas.find(pid, gpa).is_none() {
            self.gpas.insert(pid, gpa, PAGE_SIZE, no);
        }
    }

    /// Incidents of processes that live.
    pub fn incidents(&self) -> impl Iterator<Item = IncidentNo> + '_ {
        self.hvas.ranges.values().map(|(_, no)| *no)
    }

    /// Removes the addresses of a process that is gone; page frames stay with their incidents.
    pub fn remove_process(&mut self, pid: u32) {
        self.hvas.remove_pid(pid);
        self.gpas.remove_pid(pid);
    }

    /// Removes the pages of an incident.
    pub fn remove(&mut self, no: IncidentNo, evidence: &Evidence) {
        let pid = evidence.pid;
        if let Some(pfn) = evidence.pfn {
            self.pfns.remove(pfn, no);
        }
        if let Some(hva) = evidence.hva {
            self.hvas.remove(pid, hva, no);
        }
        if let Some(gpa) = evidence.gpa {
            let size = evidence.size().unwrap_or(PAGE_SIZE);
            self.gpas.remove(pid, gpa & !(size - 1), no);
        }
        for gpa in &evidence.gpas {
            self.gpas.remove(pid, *gpa, no);
        }
    }
}

/// Incidents by ranges of addresses of a process.
#[derive(Default)]
struct Ranges {
    /// (pid, first byte) to (bytes, incident).
    ranges: BTreeMap<(u32, u64), (u64, IncidentNo)>,
}

impl Ranges {
    /// A small range may lie within a large one, which then begins a few entries before it.
    fn find(&self, pid: u32, address: u64) -> Option<IncidentNo> {
        const NESTED: usize = 8;
        // None begins nearer to the address than its own page.
        let page = address & !(PAGE_SIZE - 1);
        if let Some((size, no)) = self.ranges.get(&(pid, page))
            && address - page < *size
        {
            return Some(*no);
        }
        self.ranges
            .range((pid, 0)..=(pid, address))
            .rev()
            .take(NESTED)
            .find(|((_, base), (size, _))| address - base < *size)
            .map(|(_, (_, no))| *no)
    }

    fn insert(&mut self, pid: u32, base: u64, size: u64, no: IncidentNo) {
        self.ranges.insert((pid, base), (size, no));
    }

    /// The incident of a page within these bytes.
    fn within(&self, pid: u32, base: u64, size: u64) -> Option<IncidentNo> {
        let last = base.saturating_add(size - 1);
        let (_, (_, no)) = self.ranges.range((pid, base)..=(pid, last)).next()?;
        Some(*no)
    }

    fn remove_pid(&mut self, pid: u32) {
        let of_pid = self.ranges.range((pid, 0)..=(pid, u64::MAX));
        let gone: Vec<(u32, u64)> = of_pid.map(|(key, _)| *key).collect();
        for key in gone {
            self.ranges.remove(&key);
        }
    }

    /// Removes the range that begins at `base`, if it is this incident's.
    fn remove(&mut self, pid: u32, base: u64, no: IncidentNo) {
        let range = self.ranges.get(&(pid, base));
        if range.is_some_and(|(_, other)| *other == no) {
            self.ranges.remove(&(pid, base));
        }
    }
}
