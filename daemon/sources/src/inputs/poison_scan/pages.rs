//! The host's poisoned pages, by /proc/kpageflags.

use std::{
    collections::BTreeSet,
    fs::File,
    io,
    time::{Duration, Instant},
};

use super::entries::{self, Pace};

/// `KPF_HWPOISON` (uapi `linux/kernel-page-flags.h`).
const KPF_HWPOISON: u64 = 1 << 19;
/// Pages that are remembered: 256 MiB.
const MAX: usize = 65_536;
/// Between two lines of progress.
const PROGRESS: Duration = Duration::from_secs(10);

/// See the module.
pub struct Pages(BTreeSet<u64>);

impl Pages {
    /// Looks until `wanted` are found, or to the end of memory.
    ///
    /// # Errors
    /// Those of reading.
    pub fn read(flags: &File, wanted: u64) -> io::Result<Self> {
        let mut pages = BTreeSet::new();
        let mut reported = Instant::now();
        let limit = usize::try_from(wanted).map_or(MAX, |wanted| wanted.min(MAX));
        entries::each(flags, 0, u64::MAX, &mut Pace::new(), |pfn, flags| {
            if flags & KPF_HWPOISON != 0 {
                pages.insert(pfn);
            }
            if pfn % (1 << 18) == 0 && reported.elapsed() >= PROGRESS {
                reported = Instant::now();
                tracing::info!(
                    looked_at_gib = pfn >> 18,
                    found = pages.len(),
                    of = wanted,
                    "scanning for poisoned pages"
                );
            }
            pages.len() < limit
        })?;
        if pages.len() == MAX {
            tracing::warn!(pages = MAX, "more pages are poisoned than are looked up");
        }
        Ok(Self(pages))
    }

    pub fn contains(&self, pfn: u64) -> bool {
        self.0.contains(&pfn)
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }
}
