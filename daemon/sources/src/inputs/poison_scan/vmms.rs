//! A VMM's page table, by /proc/PID/pagemap.

use std::{fs::File, io, io::Read as _, path::Path};

use super::{
    Found,
    entries::{self, Pace},
    pages::Pages,
};

const PAGE_SHIFT: u32 = 12;
const PRESENT: u64 = 1 << 63;
const SWAPPED: u64 = 1 << 62;
/// Bits 0–54: the page frame of a present page.
const PFN: u64 = (1 << 55) - 1;
/// Of one that is not: 5 bits of the swap type, the rest its offset.
const TYPE_BITS: u32 = 5;
/// Swap files have the types from 0 on, at most MAX_SWAPFILES of them, which is 23 or more in every configuration; the
/// types above are not swap. That of a poisoned page (SWP_HWPOISON, make_hwpoison_entry) has the page frame for its offset.
const FIRST_SPECIAL: u64 = 20;
/// Of `maps`.
const MAX_MAPS: u64 = 4 << 20;
/// Pages of one VMM that are looked at: 4 TiB of addresses.
const MAX_PAGES: u64 = 1 << 30;
/// Poisoned pages of one VMM.
const MAX_FOUND: usize = 16_384;

/// See the module.
pub struct Vmm {
    pid: u32,
    maps: String,
    pagemap: File,
}

impl Vmm {
    /// # Errors
    /// A process that is gone, or may not be looked at.
    pub fn open(proc: &Path, pid: u32) -> io::Result<Self> {
        let dir = proc.join(pid.to_string());
        let mut maps = String::new();
        File::open(dir.join("maps"))?
            .take(MAX_MAPS)
            .read_to_string(&mut maps)?;
        Ok(Self {
            pid,
            maps,
            pagemap: File::open(dir.join("pagemap"))?,
        })
    }

    /// Its pages that are among the lost ones. A huge page of hugetlbfs does not show in the pagemap once it is lost.
    pub fn lost(&mut self, pages: &Pages) -> Vec<Found> {
        let mut found = Vec::new();
        let mut pace = Pace::new();
        let (mut present, mut shown) = (false, false);
        for (first, end) in self.maps.lines().filter_map(mapping) {
            let left = MAX_PAGES.saturating_sub(pace.entries);
            if end - first > left {
                tracing::warn!(
                    pid = self.pid,
                    "this VMM has more than 4 TiB of addresses: not all are scanned for poisoned pages"
                );
            }
            let end = end.min(first.saturating_add(left));
            let read = entries::each(&self.pagemap, first, end, &mut pace, |page, entry| {
                present |= entry & PRESENT != 0;
                shown |= entry & PRESENT != 0 && entry & PFN != 0;
                if let Some(pfn) = frame(entry).filter(|pfn| pages.contains(*pfn)) {
                    found.push(Found {
                        pid: self.pid,
                        hva: page << PAGE_SHIFT,
                        pfn,
                    });
                }
                found.len() < MAX_FOUND
            });
            if let Err(err) = read {
                // It may have ended meanwhile.
                tracing::debug!(pid = self.pid, error = %err, "a pagemap cannot be read");
                break;
            }
        }
        if present && !shown {
            tracing::warn!(
                pid = self.pid,
                "cannot see this VMM's page frames; give CAP_SYS_ADMIN: whether it holds poisoned pages is unknown"
            );
        }
        found
    }
}

/// First page and the one after the last of a line of `maps`; of memory that a guest can be given.
fn mapping(line: &str) -> Option<(u64, u64)> {
    let (range, rest) = line.split_once(' ')?;
    let (start, end) = range.split_once('-')?;
    let page = |digits| Some(u64::from_str_radix(digits, 16).ok()? >> PAGE_SHIFT);
    let (start, end) = (page(start)?, page(end)?);
    (rest.starts_with('r') && start < end).then_some((start, end))
}

/// The page frame that an entry speaks of; 0 where this process may not see it.
fn frame(entry: u64) -> Option<u64> {
    let frame = entry & PFN;
    if entry & PRESENT != 0 {
        return (frame != 0).then_some(frame);
    }
    (entry & SWAPPED != 0 && frame & ((1 << TYPE_BITS) - 1) >= FIRST_SPECIAL).then_some(frame >> TYPE_BITS)
}
