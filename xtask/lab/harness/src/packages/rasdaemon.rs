//! Debian's rasdaemon, for the emulated host: a peer that stores the errors of the hardware.

use std::path::{Path, PathBuf};

use anyhow::Result;
use xtask_support::debian::{self, Apt, Package};
use xtask_support::paths::Paths;
use xtask_support::progress::Progress;
use xtask_support::stamp::{self, Stamp};
use xtask_support::unpacked;

/// Without the packages that its report in Perl needs.
const PACKAGES: [&str; 2] = ["libsqlite3-0", "rasdaemon"];

/// Downloads it where that has not been done; returns the tree that it is in.
pub fn set_up(paths: &Paths, progress: &Progress) -> Result<PathBuf> {
    let folder = paths.lab().join("rasdaemon-tree");
    let wanted = PACKAGES.map(str::to_owned).to_vec();
    if stamp::read(&folder, &wanted).is_none() {
        let apt = Apt::update(&paths.apt("lab"), progress)?;
        stamp::start_over(&folder)?;
        let packages = apt.download(&wanted, progress)?;
        let installed = packages.iter().map(Package::label).collect();
        debian::unpack(&packages, &folder, progress)?;
        stamp::write(&folder, &Stamp { wanted, installed })?;
    }
    Ok(folder)
}

/// The program, and the library that the emulated host has not.
pub fn files(tree: &Path) -> Result<[PathBuf; 2]> {
    Ok([
        unpacked::file(tree, "usr/sbin/rasdaemon")?,
        unpacked::library(tree, "libsqlite3.so.0")?,
    ])
}
