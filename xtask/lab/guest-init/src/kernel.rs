//! The page is touched by the guest's kernel, in a system call.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result};
use rustix::mm::{MapFlags, ProtFlags, mlock, mmap};

use crate::page::{FILL, PAGE, ready};

/// MCi_STATUS of the bank in which QEMU reports poisoned memory: IA32_MC9_STATUS.
const BANK_STATUS: u64 = 0x425;

/// write() from the application's pages, `count` of them, evenly spread over 2 MiB: the kernel copies from them with a
/// fixup at hand (`copy_from_user`), and the call fails where it meets poisoned memory.
pub fn pages(count: usize, first: *mut u8) -> Result<()> {
    ready(first)?;
    let (mut from, mut to) = std::io::pipe().context("no pipe")?;
    for n in 0..count {
        // SAFETY: with a count of one it is the page itself, else pages of a mapping of 2 MiB that is never unmapped.
        let page = unsafe { std::slice::from_raw_parts(first.add(n * ((2 << 20) / count)), PAGE) };
        match to.write_all(page) {
            Ok(()) => {
                let mut copy = vec![0; PAGE];
                from.read_exact(&mut copy).context("cannot read the pipe")?;
                println!("guest: write() took page {n}");
            }
            Err(error) => println!("guest: write() of page {n}: {error}"),
        }
    }
    Ok(())
}

/// read() of a page of the kernel's own, of a file in memory: the kernel copies from it without a fixup.
pub fn file_page() -> Result<()> {
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open("/page")
        .context("cannot create a file")?;
    file.write_all(&[FILL; PAGE])?;
    // SAFETY: a new mapping at an address of the kernel's choice overlaps nothing.
    let page = unsafe {
        mmap(
            std::ptr::null_mut(),
            PAGE,
            ProtFlags::READ,
            MapFlags::SHARED,
            &file,
            0,
        )
    }
    .context("cannot map the file")?;
    // SAFETY: the mapping above; locking does not change what it holds.
    unsafe { mlock(page, PAGE) }.context("cannot lock the page")?;
    ready(page.cast())?;
    // As after the early notice was read and dealt with: what follows is no overflow.
    let msr = OpenOptions::new()
        .write(true)
        .open("/dev/cpu/0/msr")
        .context("no /dev/cpu/0/msr")?;
    msr.write_all_at(&0_u64.to_ne_bytes(), BANK_STATUS)
        .context("cannot clear the bank")?;
    let mut copy = [0; PAGE];
    File::open("/page")?.read_exact(&mut copy).context("read()")?;
    println!("guest: read() took the page");
    Ok(())
}

/// Guest physical address of the page in which the kernel's #MC handler begins. The kernel runs where it was linked
/// (`nokaslr`), which is 0xffffffff80000000 above its place in memory.
pub fn handler_page() -> Result<u64> {
    const TEXT: u64 = 0xffff_ffff_8000_0000;
    let symbols = fs::read_to_string("/proc/kallsyms").context("cannot read /proc/kallsyms")?;
    let address = symbols
        .lines()
        .find_map(|line| line.strip_suffix(" do_machine_check")?.split(' ').next())
        .context("the kernel has no do_machine_check")?;
    let address = u64::from_str_radix(address, 16).context("no address")?;
    address
        .checked_sub(TEXT)
        .map(|at| at & !(PAGE as u64 - 1))
        .context("kallsyms hides its addresses")
}
