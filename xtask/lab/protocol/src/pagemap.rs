//! Page frames of a process's own memory, for the programs in the lab.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

const PAGE: u64 = 4096;
/// An entry of /proc/PID/pagemap (Documentation/admin-guide/mm/pagemap.rst): the page is present, and its frame's number.
const PRESENT: u64 = 1 << 63;
const FRAME: u64 = (1 << 55) - 1;

/// The page frame behind an address; none: the page is not present.
pub fn page_frame(address: u64) -> io::Result<Option<u64>> {
    let mut entry = [0; 8];
    File::open("/proc/self/pagemap")?.read_exact_at(&mut entry, address / PAGE * 8)?;
    let entry = u64::from_ne_bytes(entry);
    Ok((entry & PRESENT != 0).then_some(entry & FRAME))
}
