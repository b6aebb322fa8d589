//! The guest's memory, and the poison in it. As in larger guests it is two memslots in two mappings: an address in one
//! is no clue to the other.

use std::ffi::c_void;
use std::fs;
use std::os::fd::{FromRawFd, OwnedFd};
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
    /// Between the two halves in the VMM, bytes.
    gap: usize,
    /// What pins it.
    _pin: Option<OwnedFd>,
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
        Ok(Self {
            base,
            gap: GAP,
            _pin: None,
        })
    }

    /// The same as one huge page of the host, which io_uring holds for its fixed buffers: pinned for long, as VFIO pins a
    /// guest's memory for a device. The kernel can neither split nor free it.
    pub fn pinned() -> Result<Self> {
        // Off on machines of little memory, as the emulated one is.
        fs::write("/sys/kernel/mm/transparent_hugepage/enabled", "madvise")
            .context("the kernel has no transparent huge pages")?;
        // SAFETY: a new mapping at an address of the kernel's choice touches nothing that exists.
        let mapped = unsafe {
            mmap_anonymous(
                ptr::null_mut(),
                2 * SIZE,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE,
            )
        }
        .context("no memory for the guest")?;
        let base = mapped.wrapping_byte_add(mapped.addr().next_multiple_of(SIZE) - mapped.addr());
        // SAFETY: the range lies inside the mapping above; the advice changes no content.
        unsafe { madvise(base, SIZE, Advice::LinuxHugepage) }.context("madvise(MADV_HUGEPAGE)")?;
        // SAFETY: the range lies inside the mapping above, and nothing else refers to it.
        unsafe { ptr::write_bytes(base.cast::<u8>(), 0, SIZE) };
        ensure!(
            huge_pages()? > 0,
            "the kernel gave no huge page for the guest's memory"
        );
        Ok(Self {
            base,
            gap: 0,
            _pin: Some(fixed_buffer(base)?),
        })
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
        let gap = if gpa < HALF as u64 { 0 } else { self.gap as u64 };
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
        let gap = if at < HALF { 0 } else { self.gap };
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

/// KiB of this process's anonymous memory that are huge pages.
fn huge_pages() -> Result<u64> {
    let text =
        fs::read_to_string("/proc/self/smaps_rollup").context("cannot read /proc/self/smaps_rollup")?;
    let line = text.lines().find_map(|line| line.strip_prefix("AnonHugePages:"));
    let number = line.and_then(|rest| rest.split_ascii_whitespace().next());
    number
        .and_then(|number| number.parse().ok())
        .context("the kernel counts no huge pages")
}

/// Registers the guest's memory as a fixed buffer of an io_uring, and returns that.
fn fixed_buffer(base: *mut c_void) -> Result<OwnedFd> {
    /// io_uring_register(2): IORING_REGISTER_BUFFERS.
    const REGISTER_BUFFERS: libc::c_uint = 0;
    /// Of `struct io_uring_params` (linux/io_uring.h), for which all bytes zero are a value.
    const PARAMS_BYTES: usize = 120;
    let mut params = [0_u64; PARAMS_BYTES / 8];
    // SAFETY: the kernel writes a structure of this size.
    let ring = unsafe { libc::syscall(libc::SYS_io_uring_setup, 1, params.as_mut_ptr()) };
    if ring < 0 {
        return Err(std::io::Error::last_os_error()).context("io_uring_setup");
    }
    // SAFETY: the kernel has just returned this descriptor, and nothing else owns it.
    let ring = unsafe { OwnedFd::from_raw_fd(i32::try_from(ring)?) };
    let buffer = libc::iovec {
        iov_base: base,
        iov_len: SIZE,
    };
    // SAFETY: the kernel reads one iovec; the memory that it names lives as long as the process.
    let done = unsafe {
        libc::syscall(
            libc::SYS_io_uring_register,
            std::os::fd::AsRawFd::as_raw_fd(&ring),
            REGISTER_BUFFERS,
            &raw const buffer,
            1,
        )
    };
    if done < 0 {
        return Err(std::io::Error::last_os_error()).context("io_uring_register(IORING_REGISTER_BUFFERS)");
    }
    Ok(ring)
}
