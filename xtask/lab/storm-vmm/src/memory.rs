//! The guest's memory, and the poison in it. As in larger guests it is two memslots in two mappings: an address in one
//! is no clue to the other.

use std::ffi::c_void;
use std::ptr;

use anyhow::{Context, Result, ensure};
use lab_protocol::pagemap::page_frame;
use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};

const SIZE: usize = 2 << 20;
pub const PAGE: u64 = 4096;
/// The second half begins here, for the guest.
const HALF: usize = SIZE / 2;
/// Between the two in the VMM.
const GAP: usize = 64 << 10;

pub struct Memory {
    base: *mut c_void,
}

/// A memslot.
pub struct Half {
    pub gpa: u64,
    pub bytes: u64,
    pub hva: u64,
}

impl Memory {
    pub fn map() -> Result<Self> {
        // SAFETY: a new mapping at an address of the kernel's choice touches nothing that exists.
        let base = unsafe {
            mmap_anonymous(
                ptr::null_mut(),
                SIZE + GAP,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE,
            )
        }
        .context("no memory for the guest")?;
        // One page is lost, not the 2 MiB around it.
        // SAFETY: the range is the mapping above; the advice changes no content.
        unsafe { madvise(base, SIZE + GAP, Advice::LinuxNoHugepage) }.context("madvise(MADV_NOHUGEPAGE)")?;
        // SAFETY: the range lies inside the mapping above, and nothing is kept in it.
        unsafe { munmap(base.wrapping_byte_add(HALF), GAP) }.context("munmap")?;
        Ok(Self { base })
    }

    pub fn halves(&self) -> [Half; 2] {
        [0, HALF as u64].map(|gpa| Half {
            gpa,
            bytes: HALF as u64,
            hva: self.host(gpa),
        })
    }

    /// Host address of a guest's.
    pub fn host(&self, gpa: u64) -> u64 {
        let gap = if gpa < HALF as u64 { 0 } else { GAP as u64 };
        self.base.addr() as u64 + gpa + gap
    }

    /// Where `length` bytes of the guest's lie, none of them across the gap.
    fn range(&self, gpa: u64, length: usize) -> Result<*mut c_void> {
        let at = usize::try_from(gpa)?;
        let end = at.checked_add(length).context("beyond all memory")?;
        ensure!(
            end <= SIZE && (at < HALF) == (end <= HALF),
            "{gpa:#x} and the {length} bytes from there on are not in one half of the guest's memory"
        );
        let gap = if at < HALF { 0 } else { GAP };
        Ok(self.base.wrapping_byte_add(at + gap))
    }

    pub fn write(&mut self, gpa: u64, bytes: &[u8]) -> Result<()> {
        let to = self.range(gpa, bytes.len())?;
        // SAFETY: the range lies inside one mapping, which lives as long as the process; no reference into it
        // exists, and the vCPU does not run meanwhile.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), to.cast::<u8>(), bytes.len()) };
        Ok(())
    }

    /// Page frame behind a guest address.
    pub fn page_frame(&self, gpa: u64) -> Result<u64> {
        page_frame(self.host(gpa))
            .context("cannot read /proc/self/pagemap")?
            .context("the page to poison is not present")
    }

    /// The next touch of each of these pages is its first.
    pub fn drop_pages(&self, gpa: u64, pages: u64) -> Result<()> {
        let length = usize::try_from(pages * PAGE)?;
        let first = self.range(gpa, length)?;
        // SAFETY: the pages lie inside one mapping, and nothing of this program is kept in them.
        unsafe { madvise(first, length, Advice::LinuxDontNeed) }.context("madvise(MADV_DONTNEED)")
    }

    /// The kernel treats the page as if the hardware had reported it lost.
    pub fn poison(&self, gpa: u64) -> Result<()> {
        let page = self.range(gpa, usize::try_from(PAGE)?)?;
        // SAFETY: the page lies inside one mapping, and nothing of this program is kept in it.
        match unsafe { madvise(page, usize::try_from(PAGE)?, Advice::LinuxHwPoison) } {
            // Up to 5.10 the kernel counts its own use of the page, and calls the recovery failed; the page is lost.
            Err(Errno::BUSY) if self.page_frame(gpa).is_err() => Ok(()),
            other => other,
        }
        .context("madvise(MADV_HWPOISON): the kernel needs CONFIG_MEMORY_FAILURE, the process CAP_SYS_ADMIN")
    }
}
