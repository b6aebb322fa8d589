//! Debian's perf, for the emulated host.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use xtask_support::debian::{self, Apt, Package};
use xtask_support::paths::Paths;
use xtask_support::progress::Progress;
use xtask_support::stamp::{self, Stamp};
use xtask_support::unpacked;

/// perf calls a shell.
const PACKAGES: [&str; 2] = ["dash", "linux-perf"];
const PROGRAMS: [(&str, &str); 2] = [("bin/perf", "usr/bin/perf"), ("bin/sh", "bin/dash")];

/// Downloads it where that has not been done; returns the tree that it is in.
pub fn set_up(paths: &Paths, progress: &Progress) -> Result<PathBuf> {
    let folder = paths.lab().join("perf-tree");
    let wanted = PACKAGES.map(str::to_owned).to_vec();
    if stamp::read(&folder, &wanted).is_none() {
        let apt = Apt::update(&paths.apt("lab"), progress)?;
        stamp::start_over(&folder)?;
        let packages = apt.download_closure(&PACKAGES, progress)?;
        let installed = packages.iter().map(Package::label).collect();
        debian::unpack(&packages, &folder, progress)?;
        stamp::write(&folder, &Stamp { wanted, installed })?;
    }
    Ok(folder)
}

/// Names in the initramfs, and contents: the programs, and what they are linked with.
pub fn files(folder: &Path) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut files = BTreeMap::new();
    for (name, path) in PROGRAMS {
        let program = unpacked::file(folder, path)?;
        for library in unpacked::linked_with(folder, &program)? {
            let name = library.file_name().context("a library without a name")?;
            files.insert(format!("lib/{}", name.to_string_lossy()), read(&library)?);
        }
        files.insert(name.to_owned(), read(&program)?);
    }
    Ok(files)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}
