//! A page that nothing in the guest uses: only its kernel accesses it, when the machine check reports it.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab_protocol::GUEST_PAGE_READY;

use crate::page::PAGE;

/// In /proc/kpageflags: the page is free, in the allocator's lists (linux/kernel-page-flags.h).
const BUDDY: u64 = 1 << 10;
/// The host injects the machine check meanwhile, and the guest's kernel acts on it.
const PATIENCE: Duration = Duration::from_secs(30);

/// Prints that the page is free, and waits. `gpa`: as the command line has it.
pub fn wait_for_death(gpa: &str) -> Result<()> {
    let gpa = gpa
        .strip_prefix("0x")
        .and_then(|digits| u64::from_str_radix(digits, 16).ok())
        .with_context(|| format!("{gpa} is no address"))?;
    let mut flags = [0; 8];
    File::open("/proc/kpageflags")
        .and_then(|file| file.read_exact_at(&mut flags, gpa / PAGE as u64 * 8))
        .context("cannot read /proc/kpageflags")?;
    let flags = u64::from_ne_bytes(flags);
    ensure!(flags & BUDDY != 0, "the page is in use: flags {flags:#x}");
    println!("{GUEST_PAGE_READY}{gpa:#x}");
    std::thread::sleep(PATIENCE);
    Ok(())
}
