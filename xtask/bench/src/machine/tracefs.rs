//! tracefs, where the daemon looks for it.

use std::path::Path;

use anyhow::{Context, Result};
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use rustix::thread::{UnshareFlags, unshare_unsafe};

const TRACEFS: &str = "/sys/kernel/tracing";

/// Mounts it if need be, in a mount namespace of this process and its children: nothing of the machine changes.
pub fn ensure() -> Result<()> {
    if Path::new(TRACEFS).join("events").is_dir() {
        return Ok(());
    }
    // SAFETY: no file descriptors are shared apart, the mounts alone are.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS) }.context("unshare(CLONE_NEWNS): run it as root")?;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .context("mount --make-rprivate /")?;
    mount("tracefs", TRACEFS, "tracefs", MountFlags::empty(), None)
        .with_context(|| format!("cannot mount tracefs at {TRACEFS}"))
}
