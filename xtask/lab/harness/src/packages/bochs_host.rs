//! Packages of a host in Bochs: firmware, a boot loader, a maker of CD images, the libraries of the
//! daemon, and a kernel.

use std::path::PathBuf;

use anyhow::Result;

use crate::kernels::{self, Flavour, Kernel};
use xtask_support::debian::{self, Apt, Package};
use xtask_support::paths::Paths;
use xtask_support::progress::Progress;
use xtask_support::stamp::{self, Stamp};

const PACKAGES: [&str; 6] = [
    "bochsbios",
    "isolinux",
    "libgcc-s1",
    "syslinux-common",
    "vgabios",
    "xorriso",
];

pub struct Packages {
    pub tree: PathBuf,
    pub kernel: Kernel,
}

pub fn set_up(paths: &Paths, series: &str, progress: &Progress) -> Result<Packages> {
    let tree = paths.lab().join("storm-tree");
    let wanted = PACKAGES.map(str::to_owned).to_vec();
    if stamp::read(&tree, &wanted).is_none() {
        let apt = Apt::update(&paths.apt("lab"), progress)?;
        stamp::start_over(&tree)?;
        let packages = apt.download_closure(&PACKAGES, progress)?;
        let installed = packages.iter().map(Package::label).collect();
        debian::unpack(&packages, &tree, progress)?;
        stamp::write(&tree, &Stamp { wanted, installed })?;
    }
    Ok(Packages {
        tree,
        kernel: kernels::set_up(paths, series, flavour(series), progress)?,
    })
}

/// The cloud flavours of 5.10 and 6.1 know nothing of poisoned memory.
fn flavour(series: &str) -> Flavour {
    match series {
        "5.10" | "6.1" => Flavour::Plain,
        _ => Flavour::Cloud,
    }
}
