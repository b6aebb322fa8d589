//! Poison from before the start: which pages the kernel has marked lost, and which running VMMs hold them. Looked at
//! once, on a thread of its own, at a bounded rate, and only where HardwareCorrupted is above 0.

mod entries;
mod pages;
mod vmms;

use std::{fs::File, io, path::Path};

use tokio::sync::mpsc;

use pages::Pages;
use vmms::Vmm;

/// Pages found that wait to be taken.
const WAITING: usize = 64;
const PAGE_KB: u64 = 4;

/// A poisoned page of a VMM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    pub pid: u32,
    /// Address in the VMM.
    pub hva: u64,
    pub pfn: u64,
}

/// All that is needed, opened: what is opened may be read after privileges are gone.
pub struct PoisonScan {
    flags: File,
    vmms: Vec<Vmm>,
    /// Pages that the kernel counts as lost.
    lost: u64,
}

impl PoisonScan {
    /// `corrupted_kb`: HardwareCorrupted; `None`, with the reason in the log, if nothing is lost or it cannot be looked for.
    pub fn open(proc: &Path, corrupted_kb: Option<u64>, pids: &[u32]) -> Option<Self> {
        let lost = corrupted_kb.map_or(0, |kb| kb.div_ceil(PAGE_KB));
        if lost == 0 {
            return None;
        }
        let flags = match File::open(proc.join("kpageflags")) {
            Ok(flags) => flags,
            Err(err) => {
                tracing::warn!(
                    pages = lost,
                    reason = %err,
                    "cannot scan for poisoned pages that predate the daemon: /proc/kpageflags is not readable"
                );
                return None;
            }
        };
        let open = |pid: &u32| {
            Vmm::open(proc, *pid)
                .map_err(
                    |err| tracing::warn!(pid, reason = %err, "a VMM's pages cannot be looked at for poison"),
                )
                .ok()
        };
        Some(Self {
            flags,
            vmms: pids.iter().filter_map(open).collect(),
            lost,
        })
    }

    /// Looks on a thread; what is found comes through the channel, which closes at the end.
    ///
    /// # Errors
    /// If no thread can be started.
    pub fn start(self) -> io::Result<mpsc::Receiver<Found>> {
        let (sender, found) = mpsc::channel(WAITING);
        std::thread::Builder::new()
            .name("poison_scan".to_owned())
            .spawn(move || {
                self.look(|page| sender.blocking_send(page).is_ok());
            })?;
        Ok(found)
    }

    /// Calls `take` with each page until it returns false.
    fn look(mut self, mut take: impl FnMut(Found) -> bool) {
        tracing::info!(
            pages = self.lost,
            vms = self.vmms.len(),
            "memory was poisoned before the start: scanning for its pages and their VMs"
        );
        let pages = match Pages::read(&self.flags, self.lost) {
            Ok(pages) => pages,
            Err(err) => {
                tracing::warn!(reason = %err, "/proc/kpageflags cannot be read");
                return;
            }
        };
        let mut held = 0;
        for vmm in &mut self.vmms {
            for page in vmm.lost(&pages) {
                held += 1;
                if !take(page) {
                    return;
                }
            }
        }
        tracing::info!(
            pages = pages.len(),
            of_vms = held,
            "scan for preexisting poisoned pages done"
        );
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const POISONED: u64 = 1 << 19;
    const PRESENT: u64 = 1 << 63;
    const SWAPPED: u64 = 1 << 62;
    const HWPOISON_TYPE: u64 = 27;

    fn entries(path: &Path, entries: &[u64]) {
        let bytes: Vec<u8> = entries.iter().flat_map(|entry| entry.to_le_bytes()).collect();
        fs::write(path, bytes).unwrap();
    }

    /// A /proc with 8 frames of which 3 and 5 are lost, and a VMM with four pages at 0.
    fn proc(pagemap: &[u64]) -> tempfile::TempDir {
        let proc = tempfile::tempdir().unwrap();
        let mut flags = [0; 8];
        flags[3] = POISONED | 1 << 5;
        flags[5] = POISONED;
        entries(&proc.path().join("kpageflags"), &flags);
        let vmm = proc.path().join("42");
        fs::create_dir(&vmm).unwrap();
        fs::write(
            vmm.join("maps"),
            "0-4000 rw-p 00000000 00:00 0 [heap]\nnonsense\nffffffffff600000-ffffffffff601000 --xp 0 0 0 [vsyscall]\n",
        )
        .unwrap();
        entries(&vmm.join("pagemap"), pagemap);
        proc
    }

    fn found(proc: &Path) -> Vec<Found> {
        let mut all = Vec::new();
        PoisonScan::open(proc, Some(8), &[42]).unwrap().look(|page| {
            all.push(page);
            true
        });
        all
    }

    #[test]
    fn a_lost_page_is_found_by_its_poison_entry_or_where_it_is_still_mapped() {
        let proc = proc(&[
            PRESENT | 1,
            SWAPPED | 3 << 5 | HWPOISON_TYPE,
            // Slot 3 of the first swap file: no page frame.
            SWAPPED | 3 << 5,
            PRESENT | 5,
        ]);
        let page = |hva, pfn| Found { pid: 42, hva, pfn };
        assert_eq!(found(proc.path()), [page(0x1000, 3), page(0x3000, 5)]);
    }

    #[test]
    fn a_vmm_that_is_gone_or_short_of_pages_ends_the_look_quietly() {
        let proc = proc(&[]);
        assert_eq!(found(proc.path()), []);
        fs::remove_dir_all(proc.path().join("42")).unwrap();
        assert_eq!(found(proc.path()), []);
    }

    #[test]
    fn where_nothing_is_lost_nothing_is_opened() {
        assert!(PoisonScan::open(Path::new("/no/such"), Some(0), &[42]).is_none());
        assert!(PoisonScan::open(Path::new("/no/such"), None, &[42]).is_none());
        assert!(PoisonScan::open(Path::new("/no/such"), Some(4), &[42]).is_none());
    }
}
