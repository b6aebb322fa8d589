//! The guest's memory, and the poison in it.

use std::ffi::c_void;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::ptr;

use anyhow::{Context, Result, ensure};
use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous};

pub const PAGE: u64 = 4096;
/// Of each slot.
pub const SIZE: usize = 1 << 20;
/// Where the second slot begins in the guest, which holds the page to poison and nothing else.
pub const SECOND: u64 = SIZE as u64;

/// Two slots, in mappings that do not touch: as in a VMM with more memory than fits below the hole, one of them tells
/// nothing of where the other is.
pub struct Memory {
    slots: [*mut c_void; 2],
}

impl Memory {
    pub fn map() -> Result<Self> {
        let first = anonymous(SIZE, ProtFlags::READ | ProtFlags::WRITE)?;
        // The kernel puts a new mapping next to the last one, and would make one of two alike.
        anonymous(SIZE, ProtFlags::empty())?;
        let second = anonymous(SIZE, ProtFlags::READ | ProtFlags::WRITE)?;
        // One page is lost, not the 2 MiB around it.
        // SAFETY: the range is the mapping above; the advice changes no content.
        unsafe { madvise(second, SIZE, Advice::LinuxNoHugepage) }.context("madvise(MADV_NOHUGEPAGE)")?;
        Ok(Self {
            slots: [first, second],
        })
    }

    /// Guest address and host address of each slot.
    pub fn slots(&self) -> [(u64, u64); 2] {
        [(0, self.host(0)), (SECOND, self.host(SECOND))]
    }

    /// Host address of a guest's.
    pub fn host(&self, gpa: u64) -> u64 {
        let slot = self.slots[usize::from(gpa >= SECOND)];
        slot.addr() as u64 + gpa % SECOND
    }

    /// The same as a pointer to `len` bytes that are the guest's.
    fn pointer(&self, gpa: u64, len: usize) -> Result<*mut u8> {
        let at = usize::try_from(gpa % SECOND)?;
        ensure!(
            gpa < 2 * SECOND && at + len <= SIZE,
            "{gpa:#x} is beyond the guest's memory"
        );
        Ok(self.slots[usize::from(gpa >= SECOND)]
            .cast::<u8>()
            .wrapping_add(at))
    }

    pub fn write(&mut self, gpa: u64, bytes: &[u8]) -> Result<()> {
        let to = self.pointer(gpa, bytes.len())?;
        // SAFETY: the range lies inside the mapping, which lives as long as the process; no reference into it
        // exists, and the vCPU does not run meanwhile.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
        Ok(())
    }

    /// Page frame behind a guest address.
    pub fn page_frame(&self, gpa: u64) -> Result<u64> {
        const PRESENT: u64 = 1 << 63;
        let pagemap = File::open("/proc/self/pagemap").context("cannot open /proc/self/pagemap")?;
        let mut entry = [0; 8];
        pagemap
            .read_exact_at(&mut entry, self.host(gpa) / PAGE * 8)
            .context("cannot read /proc/self/pagemap")?;
        let entry = u64::from_le_bytes(entry);
        ensure!(entry & PRESENT != 0, "the page to poison is not present");
        Ok(entry & ((1 << 55) - 1))
    }

    /// The kernel treats the page as if the hardware had reported it lost.
    pub fn poison(&self, gpa: u64) -> Result<()> {
        let len = usize::try_from(PAGE)?;
        let page = self.pointer(gpa, len)?;
        // SAFETY: the page lies inside the mapping, and nothing of this program is kept in it.
        match unsafe { madvise(page.cast(), len, Advice::LinuxHwPoison) } {
            // Up to 5.10 the kernel counts its own use of the page, and calls the recovery failed; the page is lost.
            Err(Errno::BUSY) if self.page_frame(gpa).is_err() => Ok(()),
            other => other,
        }
        .context("madvise(MADV_HWPOISON): the kernel needs CONFIG_MEMORY_FAILURE, the process CAP_SYS_ADMIN")
    }
}

fn anonymous(size: usize, access: ProtFlags) -> Result<*mut c_void> {
    // SAFETY: a new mapping at an address of the kernel's choice touches nothing that exists.
    unsafe { mmap_anonymous(ptr::null_mut(), size, access, MapFlags::PRIVATE) }
        .context("no memory for the guest")
}
