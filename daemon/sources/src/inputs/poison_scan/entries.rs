//! Files of one u64 a page (Documentation/admin-guide/mm/pagemap.rst), read a part at a time and not too fast.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt as _,
    time::{Duration, Instant},
};

/// Bytes of an entry.
const ENTRY: u64 = 8;
/// Entries read at once.
const PART: u64 = 8192;
/// Entries a second: 16 GiB of memory. Reading takes the kernel less time than the pauses.
const RATE: u64 = 4 << 20;

/// Keeps to the rate over several files.
pub struct Pace {
    began: Instant,
    pub entries: u64,
}

impl Pace {
    pub fn new() -> Self {
        Self {
            began: Instant::now(),
            entries: 0,
        }
    }

    fn wait(&mut self, entries: u64) {
        self.entries += entries;
        let due = Duration::from_secs_f64(self.entries as f64 / RATE as f64);
        let ahead = due.saturating_sub(self.began.elapsed());
        // A sleep of less is not worth its timer.
        if ahead > Duration::from_millis(2) {
            std::thread::sleep(ahead);
        }
    }
}

/// Calls `each` with (number, entry) for the entries from `first` up to `end`, or to the file's end, until it returns false.
///
/// # Errors
/// Those of reading.
pub fn each(
    file: &File,
    first: u64,
    end: u64,
    pace: &mut Pace,
    mut each: impl FnMut(u64, u64) -> bool,
) -> io::Result<()> {
    let mut bytes = vec![0; (PART * ENTRY) as usize];
    let mut at = first;
    while at < end {
        let wanted = PART.min(end - at) * ENTRY;
        let read = match file.read_at(&mut bytes[..wanted as usize], at.saturating_mul(ENTRY)) {
            Err(err) if err.kind() == io::ErrorKind::Interrupted => continue,
            other => other?,
        };
        let (entries, _) = bytes[..read].as_chunks::<8>();
        if entries.is_empty() {
            break;
        }
        for entry in entries {
            if !each(at, u64::from_le_bytes(*entry)) {
                return Ok(());
            }
            at += 1;
        }
        pace.wait(entries.len() as u64);
    }
    Ok(())
}
