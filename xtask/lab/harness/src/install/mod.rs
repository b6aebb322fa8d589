//! A real Debian 12 under its real systemd, on a disk of the emulated host: the package is installed, run, poisoned,
//! upgraded, stopped and purged in it.

mod image;
mod post_install;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use lab_protocol::SWITCH_FILE;

use xtask_support::paths::Paths;
use xtask_support::progress::Progress;
use xtask_support::stamp;

use crate::emulators::process::End;
use crate::emulators::qemu::Host;
use crate::images::initramfs::{self, Extra};
use crate::packages::qemu::{self as packages, Packages};

/// systemd under software emulation takes a minute to come up, and each step of dpkg some seconds.
const DEADLINE: Duration = Duration::from_secs(1200);
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

/// One line a check, as the steps wrote them, and the folder with all that they left.
pub struct Installed {
    pub checks: Vec<Check>,
    pub out: PathBuf,
}

pub struct Check {
    pub name: String,
    pub failed: Option<String>,
}

/// Version of the package that replaces the first one.
pub const UPGRADE: &str = "0.1.0+upgrade";

/// `debs`: the package, and the same with the version [`UPGRADE`].
pub fn run(
    paths: &Paths,
    series: &str,
    programs: &Path,
    debs: [&Path; 2],
    progress: &Progress,
) -> Result<Installed> {
    let packages = packages::set_up(paths, series, series, progress)?;
    let folder = paths.lab().join("install");
    let base = image::set_up(paths, &folder, progress)?;
    let share = folder.join("share");
    stamp::start_over(&share)?;
    for dir in ["bin", "out"] {
        fs::create_dir(share.join(dir))?;
    }
    fs::copy(programs.join("storm-vmm"), share.join("bin/storm-vmm")).context("cannot copy storm-vmm")?;
    if let Some(kvm) = packages.kernel.modules(&["kvm_amd"])?.last() {
        fs::write(share.join("kvm_amd.ko"), &kvm.code).context("cannot write kvm_amd.ko")?;
    }
    for (name, deb) in ["first.deb", "second.deb"].into_iter().zip(debs) {
        fs::copy(deb, share.join(name)).with_context(|| format!("cannot copy {}", deb.display()))?;
    }
    let initramfs = initramfs(&packages, &folder, series, programs)?;
    let disk = folder.join("disk.ext4");
    fs::copy(&base, &disk).context("cannot copy the image")?;
    let host = Host {
        tree: &packages.tree,
        kernel: &packages.kernel.image,
        initramfs: &initramfs,
        share: &share,
        disk: Some(&disk),
        deadline: DEADLINE,
    };
    let out = share.join("out");
    match progress.task("lab: install", || host.boot(progress))? {
        End::Done => {
            let mut checks = checks(&out)?;
            for (name, outcome) in [
                (
                    "one_record_a_change_with_the_incident_in_it",
                    post_install::journal(&out),
                ),
                ("privileges_are_given_up", post_install::privileges(&out)),
                ("the_store_only_writes", post_install::store_thread(&out)),
            ] {
                checks.push(Check {
                    name: name.to_owned(),
                    failed: outcome.err().map(|why| format!("{why:#}")),
                });
            }
            Ok(Installed { checks, out })
        }
        End::Failed(reason) | End::Silent(reason) => {
            bail!("the lab failed: {reason}; see {}", out.display())
        }
    }
}

fn initramfs(packages: &Packages, folder: &Path, series: &str, programs: &Path) -> Result<PathBuf> {
    let file = folder.join(format!("switch-{series}.cpio"));
    // ext4 asks for it by its algorithm's name; kernels without the module have it built in.
    let mut modules = packages.kernel.modules(&["crc32c_generic"]).unwrap_or_default();
    modules.extend(packages.kernel.modules(&MODULES)?);
    let extras = [
        Extra::Folder("root"),
        Extra::File(SWITCH_FILE.trim_start_matches('/'), Vec::new()),
    ];
    initramfs::write(&file, &programs.join("lab-host"), &modules, &extras)?;
    Ok(file)
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
