//! Programs that the machine itself must have. Everything else is unpacked below target/, without root.

use anyhow::Result;

use crate::command;
use crate::paths::program;
use crate::progress::Progress;

/// Programs, and the Debian packages that have them.
pub const ALWAYS: [(&str, &str); 3] = [("cc", "gcc libc6-dev"), ("apt-get", "apt"), ("dpkg-deb", "dpkg")];
/// Bochs is built from source.
pub const FOR_BOCHS: [(&str, &str); 2] = [("c++", "g++"), ("make", "make")];

/// The report's page and the full screen are looked at.
pub const FOR_LOOKING: [(&str, &str); 2] = [("chromium", "chromium fonts-dejavu-core"), ("tmux", "tmux")];

/// False where something is missing that only root can install; the command to run was printed then.
pub fn ensure(needed: &[(&str, &str)], progress: &Progress) -> Result<bool> {
    let root = rustix::process::geteuid().is_root();
    // Without apt the caller that needs it reports so: others can do without.
    let missing: Vec<&str> = needed
        .iter()
        .filter(|(name, _)| program(name).is_none() && program("apt-get").is_some())
        .flat_map(|(_, packages)| packages.split(' '))
        .collect();
    if missing.is_empty() {
        if !root {
            progress.note(
                "not root: system packages cannot be installed, but none is missing; all goes under target/",
            );
        }
        return Ok(true);
    }
    let packages = missing.join(" ");
    if !root {
        progress.note(format!(
            "not root: cannot install {packages}; run `sudo apt-get install {packages}`, then this again"
        ));
        return Ok(false);
    }
    progress.step(format!("installing {packages}"));
    // A fresh machine may have no lists yet, or lists of packages that are gone.
    progress.aside(|| command::shown(command::clean("apt-get").arg("update"), "apt-get update"))?;
    let mut install = command::clean("apt-get");
    install
        .args(["install", "--yes", "--no-install-recommends"])
        .args(&missing);
    install.env("DEBIAN_FRONTEND", "noninteractive");
    progress.aside(|| command::shown(&mut install, "apt-get install"))?;
    Ok(true)
}
