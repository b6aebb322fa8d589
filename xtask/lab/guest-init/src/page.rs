//! The page that the host will poison.

use std::io;

use anyhow::{Context, Result, bail};
use lab_protocol::GUEST_PAGE_READY;
use lab_protocol::pagemap::page_frame;

pub const PAGE: usize = 4096;
pub const FILL: u8 = 0x5a;

/// Prints the page's address, and waits for the host's command.
pub fn ready(page: *const u8) -> Result<()> {
    println!("{GUEST_PAGE_READY}{:#x}", guest_physical_address(page)?);
    let mut word = String::new();
    while word.trim() != "g" {
        word.clear();
        if io::stdin().read_line(&mut word)? == 0 {
            bail!("the console was closed before the host's command");
        }
    }
    println!("guest: touching");
    Ok(())
}

pub fn guest_physical_address(page: *const u8) -> Result<u64> {
    let frame = page_frame(page.addr() as u64).context("cannot read /proc/self/pagemap")?;
    // It is 0 for those who may not know.
    frame
        .filter(|frame| *frame != 0)
        .map(|frame| frame * PAGE as u64)
        .context("/proc/self/pagemap hides the page's frame")
}
