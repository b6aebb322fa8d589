//! A real Debian 12 under its real systemd, on a disk of the emulated host. It performs steps, a shell's, which leave a line
//! for each of their checks.

pub mod image;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use lab_protocol::SWITCH_FILE;
use xtask_support::paths::Paths;
use xtask_support::progress::Progress;
use xtask_support::stamp;

use crate::emulators::process::until_done;
use crate::emulators::qemu::Host;
use crate::images::initramfs::{self, Extra};
use crate::packages::qemu::{self as packages, Packages};
use image::System;

const COMMON: &str = include_str!("common.sh");
const MODULES: [&str; 8] = [
    "virtio_pci",
    "virtio_blk",
    "ext4",
    "9pnet_virtio",
    "9p",
    "ccp",
    "kvm_amd",
    "hwpoison_inject",
];

/// Why it cannot be done on this machine.
pub fn unavailable() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("an image of Debian is made with chroot, which needs root".to_owned());
    }
    crate::unavailable()
}

/// One line of the steps.
pub struct Check {
    pub name: String,
    pub failed: Option<String>,
}

/// The lines of the steps, and the folder with all that they left.
pub struct Performed {
    pub checks: Vec<Check>,
    pub out: PathBuf,
}

impl Performed {
    /// Adds a check that was made after the steps.
    pub fn add(&mut self, name: &str, outcome: Result<()>) {
        self.checks.push(Check {
            name: name.to_owned(),
            failed: outcome.err().map(|why| format!("{why:#}")),
        });
    }
}

/// What is to be performed.
pub struct Plan<'a> {
    /// Of its folder, and of its time in the table.
    pub name: &'a str,
    pub system: System,
    /// The kernel's series.
    pub series: &'a str,
    pub steps: &'a str,
    pub deadline: Duration,
}

/// The machine, set up but for what its steps find in the share.
pub struct Machine<'a> {
    plan: Plan<'a>,
    packages: Packages,
    folder: PathBuf,
    image: PathBuf,
    initramfs: PathBuf,
}

impl<'a> Machine<'a> {
    /// `programs`: the folder of the lab's own.
    pub fn set_up(paths: &Paths, plan: Plan<'a>, programs: &Path, progress: &Progress) -> Result<Self> {
        let packages = packages::set_up(paths, plan.series, plan.series, progress)?;
        let image = image::set_up(paths, plan.system, progress)?;
        let folder = paths.lab().join(plan.name);
        let share = folder.join("share");
        stamp::start_over(&share)?;
        for dir in ["bin", "out", "guest"] {
            fs::create_dir(share.join(dir))?;
        }
        let steps = format!("{COMMON}{}", plan.steps);
        fs::write(share.join("steps.sh"), steps).context("cannot write the steps")?;
        let initramfs = folder.join(format!("switch-{}.cpio", plan.series));
        switch(&packages, &initramfs, programs)?;
        Ok(Self {
            plan,
            packages,
            folder,
            image,
            initramfs,
        })
    }

    /// QEMU and the kernels.
    pub fn packages(&self) -> &Packages {
        &self.packages
    }

    /// The folder that the steps see as /lab.
    pub fn share(&self) -> PathBuf {
        self.folder.join("share")
    }

    /// Copies a file into the share.
    pub fn give(&self, from: &Path, to: &str) -> Result<()> {
        fs::copy(from, self.share().join(to)).with_context(|| format!("cannot copy {}", from.display()))?;
        Ok(())
    }

    pub fn perform(&self, progress: &Progress) -> Result<Performed> {
        let disk = self.folder.join("disk.ext4");
        let share = self.share();
        let out = share.join("out");
        let host = Host {
            tree: &self.packages.tree,
            kernel: &self.packages.kernel.image,
            initramfs: &self.initramfs,
            share: &share,
            disk: Some(&disk),
            deadline: self.plan.deadline,
        };
        until_done(self.plan.name, &out, progress, || {
            stamp::start_over(&out)?;
            fs::copy(&self.image, &disk).context("cannot copy the image")?;
            host.boot(progress)
        })?;
        Ok(Performed {
            checks: checks(&out)?,
            out,
        })
    }
}

/// The initramfs, which goes on with the system on the disk.
fn switch(packages: &Packages, file: &Path, programs: &Path) -> Result<()> {
    // ext4 asks for it by its algorithm's name; kernels without the module have it built in.
    let mut modules = packages.kernel.modules(&["crc32c_generic"]).unwrap_or_default();
    modules.extend(packages.kernel.modules(&MODULES)?);
    let extras = [
        Extra::Folder("root"),
        Extra::File(SWITCH_FILE.trim_start_matches('/'), Vec::new()),
    ];
    initramfs::write(file, &programs.join("lab-host"), &modules, &extras)
}

fn checks(out: &Path) -> Result<Vec<Check>> {
    let text = fs::read_to_string(out.join("checks.txt")).context("the steps left no checks")?;
    let checks: Vec<Check> = text
        .lines()
        .filter_map(|line| match line.split_once(' ')? {
            ("ok", name) => Some(Check {
                name: name.to_owned(),
                failed: None,
            }),
            ("FAILED", rest) => {
                let (name, why) = rest.split_once(": ").unwrap_or((rest, ""));
                Some(Check {
                    name: name.to_owned(),
                    failed: Some(why.to_owned()),
                })
            }
            _ => None,
        })
        .collect();
    if checks.is_empty() {
        bail!("the steps checked nothing; see {}", out.display());
    }
    Ok(checks)
}
