//! The guest's memory, and the poison in it.

use std::ffi::c_void;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::ptr;

use anyhow::{Context, Result, ensure};
use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous};

pub const SIZE: usize = 2 << 20;
pub const PAGE: u64 = 4096;

pub struct Memory {
    base: *mut c_void,
}

impl Memory {
    pub fn map() -> Result<Self> {
        // SAFETY: a new mapping at an address of the kernel's choice touches nothing that exists.
        let base = unsafe {
            mmap_anonymous(
                ptr::null_mut(),
                SIZE,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE,
            )
        }
        .context("no memory for the guest")?;
        // One page is lost, not the 2 MiB around it.
        // SAFETY: the range is the mapping above; the advice changes no content.
        unsafe { madvise(base, SIZE, Advice::LinuxNoHugepage) }.context("madvise(MADV_NOHUGEPAGE)")?;
        Ok(Self { base })
    }

    pub fn address(&self) -> u64 {
        self.base.addr() as u64
    }

    /// Host address of a guest's.
    pub fn host(&self, gpa: u64) -> u64 {
        self.address() + gpa
    }

    pub fn write(&mut self, gpa: u64, bytes: &[u8]) -> Result<()> {
        let at = usize::try_from(gpa)?;
        ensure!(at + bytes.len() <= SIZE, "{gpa:#x} is beyond the guest's memory");
        // SAFETY: the range lies inside the mapping, which lives as long as the process; no reference into it
        // exists, and the vCPU does not run meanwhile.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), self.base.cast::<u8>().add(at), bytes.len()) };
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
        let at = usize::try_from(gpa)?;
        ensure!(at < SIZE, "{gpa:#x} is beyond the guest's memory");
        let page = self.base.wrapping_byte_add(at);
        // SAFETY: the page lies inside the mapping, and nothing of this program is kept in it.
        match unsafe { madvise(page, usize::try_from(PAGE)?, Advice::LinuxHwPoison) } {
            // Up to 5.10 the kernel counts its own use of the page, and calls the recovery failed; the page is lost.
            Err(Errno::BUSY) if self.page_frame(gpa).is_err() => Ok(()),
            other => other,
        }
        .context("madvise(MADV_HWPOISON): the kernel needs CONFIG_MEMORY_FAILURE, the process CAP_SYS_ADMIN")
    }
}
