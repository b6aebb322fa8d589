//! Debian's QEMU with everything it needs, and a kernel, both unpacked below target/lab.

use std::path::PathBuf;

use anyhow::{Result, bail};

use crate::kernels::{self, Flavour, Kernel};
use xtask_support::debian::{self, Apt, Package};
use xtask_support::paths::Paths;
use xtask_support::progress::Progress;
use xtask_support::stamp::{self, Stamp};

const QEMU: &str = "qemu-system-x86";
/// The scenarios need the CPU properties `succor` and `overflow-recov`: 7.2 has neither, 10.0 is what they were
/// tried with.
const QEMU_VERSION: &str = "1:10.0";

pub struct Packages {
    /// Serves the machine's own QEMU and, over 9p, all programs of the emulated host.
    pub tree: PathBuf,
    pub kernel: Kernel,
    pub guest_kernel: Kernel,
}

pub fn set_up(paths: &Paths, host: &str, guest: &str, progress: &Progress) -> Result<Packages> {
    Ok(Packages {
        tree: qemu(paths, progress)?,
        kernel: kernels::set_up(paths, host, Flavour::Plain, progress)?,
        guest_kernel: kernels::set_up(paths, guest, Flavour::Plain, progress)?,
    })
}

/// Downloads QEMU where that has not been done; returns the tree that it is in.
pub fn qemu(paths: &Paths, progress: &Progress) -> Result<PathBuf> {
    let tree = paths.lab().join("tree");
    let wanted = vec![format!("{QEMU} {QEMU_VERSION}")];
    if stamp::read(&tree, &wanted).is_none() {
        let mut apt = Apt::update(&paths.apt("lab"), progress)?;
        stamp::start_over(&tree)?;
        if !recent_enough(&apt)? {
            apt = apt.with_backports(progress)?;
        }
        if !recent_enough(&apt)? {
            bail!("apt offers no {QEMU} from {QEMU_VERSION} on, in backports neither");
        }
        let packages = apt.download_closure(&[QEMU], progress)?;
        let installed = packages.iter().map(Package::label).collect();
        debian::unpack(&packages, &tree, progress)?;
        stamp::write(&tree, &Stamp { wanted, installed })?;
    }
    Ok(tree)
}

fn recent_enough(apt: &Apt) -> Result<bool> {
    let offered = apt.candidate(QEMU)?;
    Ok(offered.is_some_and(|version| debian::compare_versions(&version, QEMU_VERSION).is_ge()))
}
