//! The CD of storms: the plan, the VMM, the daemon and what it is linked with.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use lab_protocol::DAEMON_FILE;
use lab_protocol::storm::{STORM_FILE, STORM_VMM_FILE, Storms};
use xtask_support::unpacked;

use crate::Processor;
use crate::images::disc::{LIBRARIES, disc, stripped};
use crate::images::initramfs::{self, Extra};
use crate::packages::bochs_host::Packages;
use crate::packages::perf;

pub struct Content<'a> {
    pub packages: &'a Packages,
    /// The folder with lab-host and storm-vmm.
    pub programs: &'a Path,
    pub daemon: Option<&'a Path>,
    /// perf's tree.
    pub perf: Option<&'a Path>,
    pub processor: Processor,
    pub storms: &'a Storms,
}

/// Writes `name` into the folder.
pub fn write(content: &Content, folder: &Path, name: &str) -> Result<()> {
    disc(content.packages, folder, name, |to| {
        initramfs(content, folder, to)
    })
}

fn initramfs(content: &Content, folder: &Path, to: &Path) -> Result<()> {
    let read = |path: &Path| fs::read(path).with_context(|| format!("cannot read {}", path.display()));
    let tree = &content.packages.tree;
    let mut extras = vec![
        Extra::File(STORM_FILE, serde_json::to_vec(content.storms)?),
        Extra::Program(STORM_VMM_FILE, read(&content.programs.join("storm-vmm"))?),
        Extra::Folder("lab"),
        Extra::Folder("lab/bin"),
        Extra::Folder("lab/out"),
        Extra::Folder("lib"),
        Extra::Folder("lib64"),
    ];
    let daemon_name = format!("lab/{DAEMON_FILE}");
    let library_names = LIBRARIES.map(|library| format!("lib/{library}"));
    if let Some(daemon) = content.daemon {
        extras.push(Extra::Program(&daemon_name, read(&stripped(daemon, folder)?)?));
        extras.push(Extra::Program(
            "lib64/ld-linux-x86-64.so.2",
            read(&unpacked::loader(tree)?)?,
        ));
        for (library, name) in LIBRARIES.iter().zip(&library_names) {
            extras.push(Extra::Program(name, read(&unpacked::library(tree, library)?)?));
        }
    }
    let perf = content.perf.map(perf::files).transpose()?.unwrap_or_default();
    // Once is enough of what the daemon needs as well.
    let new = |(name, _): &(&String, &Vec<u8>)| !library_names.contains(name);
    extras.push(Extra::Folder("bin"));
    extras.extend(
        perf.iter()
            .filter(new)
            .map(|(name, bytes)| Extra::Program(name, bytes.clone())),
    );
    let modules = content
        .packages
        .kernel
        .modules(&[content.processor.kvm_module(), "hwpoison_inject"])?;
    initramfs::write(to, &content.programs.join("lab-host"), &modules, &extras)
}
