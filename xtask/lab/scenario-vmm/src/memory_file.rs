//! Guest memory that is a file.

use std::fs::File;

use anyhow::{Context, Result};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap};
use storm_vmm::memory::PAGE;

/// A file of one page.
pub fn create() -> Result<File> {
    // No close-on-exec: the second VMM inherits it.
    let file = File::from(memfd_create("guest-memory", MemfdFlags::empty()).context("memfd_create")?);
    file.set_len(PAGE).context("cannot size the memory file")?;
    Ok(file)
}

/// Maps the file in place of the guest's page at `hva`.
pub fn map_at(file: &File, hva: u64) -> Result<()> {
    let at = std::ptr::with_exposed_provenance_mut(hva as usize);
    // SAFETY: the page is one of the guest's memory, which nothing of this program lies in; the kernel notifies KVM.
    let mapped = unsafe {
        mmap(
            at,
            PAGE as usize,
            ProtFlags::READ | ProtFlags::WRITE,
            MapFlags::SHARED | MapFlags::FIXED,
            file,
            0,
        )
    };
    mapped.context("cannot map the memory file").map(drop)
}
