//! The application whose memory is poisoned: one locked page, read line by line on the host's command.

use anyhow::{Context, Result, bail};
use lab_protocol::{GUEST_READ_ALL, words};
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mlock, mmap_anonymous};

use crate::kernel;
use crate::page::{FILL, PAGE, guest_physical_address, ready};

const LINE: usize = 64;
const HUGE: usize = 2 << 20;
/// Pages of 4 KiB that are touched of a huge one.
const HUGE_TOUCHES: usize = 4;

/// `how`: as the word `lab.touch=` names it.
pub fn run(how: &str) -> Result<()> {
    match how {
        words::READ_CALL => kernel::file_page(),
        words::WRITE_CALL => kernel::pages(1, locked_page()?),
        words::HUGE => kernel::pages(HUGE_TOUCHES, huge_page()?),
        _ => loads(),
    }
}

fn loads() -> Result<()> {
    let page = locked_page()?;
    ready(page)?;
    let mut sum = 0_u64;
    for line in (0..PAGE).step_by(LINE) {
        // SAFETY: `page` is a mapping of PAGE readable bytes that is never unmapped, and `line` lies within it.
        sum += u64::from(unsafe { page.add(line).read_volatile() });
    }
    println!("{GUEST_READ_ALL} sum={sum:#x}");
    Ok(())
}

/// 2 MiB that are one page of the guest's too, and so lie in one page of the host's.
fn huge_page() -> Result<*mut u8> {
    // A kernel with less than 512 MiB of memory gives none by itself.
    std::fs::write("/sys/kernel/mm/transparent_hugepage/enabled", "madvise")
        .context("the guest's kernel has no transparent huge pages")?;
    // SAFETY: a new anonymous mapping at an address of the kernel's choice overlaps nothing.
    let area = unsafe {
        mmap_anonymous(
            std::ptr::null_mut(),
            2 * HUGE,
            ProtFlags::READ | ProtFlags::WRITE,
            MapFlags::PRIVATE,
        )
    }
    .context("cannot map two huge pages")?;
    // SAFETY: the range is the mapping above; the advice changes no content.
    unsafe { madvise(area, 2 * HUGE, Advice::LinuxHugepage) }.context("madvise(MADV_HUGEPAGE)")?;
    let page = area.map_addr(|at| at.next_multiple_of(HUGE)).cast::<u8>();
    // SAFETY: HUGE bytes from its first multiple on lie within the mapping of twice as many.
    unsafe { page.write_bytes(FILL, HUGE) };
    if guest_physical_address(page)? % HUGE as u64 != 0 {
        bail!("the guest's kernel gave no huge page");
    }
    Ok(page)
}

fn locked_page() -> Result<*mut u8> {
    // SAFETY: a new anonymous mapping at an address of the kernel's choice overlaps nothing.
    let page = unsafe {
        mmap_anonymous(
            std::ptr::null_mut(),
            PAGE,
            ProtFlags::READ | ProtFlags::WRITE,
            MapFlags::PRIVATE,
        )
    }
    .context("cannot map a page")?
    .cast::<u8>();
    // SAFETY: the mapping above is PAGE writable bytes.
    unsafe { page.write_bytes(FILL, PAGE) };
    // SAFETY: the same mapping; locking does not change what it holds.
    unsafe { mlock(page.cast(), PAGE) }.context("cannot lock the page")?;
    Ok(page)
}
