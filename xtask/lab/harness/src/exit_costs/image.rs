//! The emulated host's disc: our programs, the peers, and what all are linked with.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use lab_protocol::DAEMON_FILE;
use lab_protocol::bench::{BENCH_FILE, Bench};
use lab_protocol::storm::STORM_VMM_FILE;

use crate::Processor;
use crate::images::disc::{LIBRARIES, disc, stripped};
use crate::images::initramfs::{self, Extra};
use crate::packages::bochs_host::Packages;
use xtask_support::unpacked;

pub struct Content<'a> {
    pub packages: &'a Packages,
    /// The folder with lab-host and storm-vmm.
    pub programs: &'a Path,
    pub daemon: &'a Path,
    pub tool: &'a Path,
    /// Objects for the tool, by their names in the emulated host.
    pub objects: &'a BTreeMap<String, PathBuf>,
    /// Other programs and libraries, by name.
    pub peers: (BTreeMap<String, PathBuf>, BTreeMap<String, PathBuf>),
    pub processor: Processor,
    pub bench: &'a Bench,
}

pub fn write(content: &Content, folder: &Path, name: &str) -> Result<()> {
    disc(content.packages, folder, name, |to| {
        initramfs(content, folder, to)
    })
}

fn initramfs(content: &Content, folder: &Path, to: &Path) -> Result<()> {
    let read = |path: &Path| fs::read(path).with_context(|| format!("cannot read {}", path.display()));
    let tree = &content.packages.tree;
    let (programs, libraries) = &content.peers;
    let mut files: Vec<(String, Vec<u8>)> = Vec::new();
    for (name, program) in [
        (format!("lab/{DAEMON_FILE}"), content.daemon),
        ("bin/poisontrace-bench".to_owned(), content.tool),
    ] {
        files.push((name, read(&stripped(program, folder)?)?));
    }
    for (name, program) in programs {
        files.push((format!("bin/{name}"), read(program)?));
    }
    for (name, object) in content.objects {
        files.push((name.clone(), read(object)?));
    }
    files.push((
        "lib64/ld-linux-x86-64.so.2".to_owned(),
        read(&unpacked::loader(tree)?)?,
    ));
    for name in LIBRARIES.iter().filter(|name| !libraries.contains_key(**name)) {
        files.push((format!("lib/{name}"), read(&unpacked::library(tree, name)?)?));
    }
    for (name, library) in libraries {
        files.push((format!("lib/{name}"), read(library)?));
    }
    let mut extras = vec![
        Extra::File(BENCH_FILE, serde_json::to_vec(content.bench)?),
        Extra::Program(STORM_VMM_FILE, read(&content.programs.join("storm-vmm"))?),
    ];
    extras.extend(["bin", "lab", "lab/bin", "lab/out", "lib", "lib64"].map(Extra::Folder));
    extras.extend(
        files
            .iter()
            .map(|(name, bytes)| Extra::Program(name, bytes.clone())),
    );
    let modules = content
        .packages
        .kernel
        .modules(&[content.processor.kvm_module()])?;
    initramfs::write(to, &content.programs.join("lab-host"), &modules, &extras)
}
