//! Programs of Debian's that are unpacked below target/, not installed.

use std::path::PathBuf;

use anyhow::Result;

use xtask_support::debian::{self, Apt, Package};
use xtask_support::paths::Paths;
use xtask_support::progress::Progress;
use xtask_support::stamp::{self, Stamp};

/// The tree `name` with these packages, without their dependencies. Those that the release does not offer are left out.
pub fn tree(paths: &Paths, name: &str, packages: &[&str], progress: &Progress) -> Result<PathBuf> {
    let tree = paths.target.join(name);
    let wanted: Vec<String> = packages.iter().map(|&name| name.to_owned()).collect();
    if stamp::read(&tree, &wanted).is_none() {
        let apt = Apt::update(&paths.apt("tests"), progress)?;
        stamp::start_over(&tree)?;
        let mut offered = wanted.clone();
        for name in &wanted {
            if apt.candidate(name)?.is_none() {
                offered.retain(|offer| offer != name);
            }
        }
        let packages = apt.download(&offered, progress)?;
        let installed = packages.iter().map(Package::label).collect();
        debian::unpack(&packages, &tree, progress)?;
        stamp::write(&tree, &Stamp { wanted, installed })?;
    }
    Ok(tree)
}
