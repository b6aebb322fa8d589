//! The images: Debian 12 by debootstrap, and the same with libvirt, QEMU and a container runtime, written to file systems without
//! mounting anything. Each has the lab's steps as a service of its own, which finds them in the share.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use xtask_support::command;
use xtask_support::debian::{self, Apt, Package};
use xtask_support::paths::Paths;
use xtask_support::progress::Progress;
use xtask_support::stamp::{self, Stamp};

const STUB: &str = "#!/bin/sh
mkdir -p /lab
mount -t 9p -o trans=virtio,version=9p2000.L,msize=524288 lab /lab && cp /lab/steps.sh /run/ && exec sh /run/steps.sh
";
const UNIT: &str = "[Unit]
Description=The lab's steps
After=multi-user.target
[Service]
Type=oneshot
ExecStart=/usr/local/sbin/lab-steps
StandardOutput=journal+console
TimeoutStartSec=infinity
";
/// Packages that the steps use, as an operator's machine has them.
const INCLUDE: &str = "systemd,systemd-sysv,dbus,curl,procps,kmod";
const SIZE: &str = "1536M";

/// What runs VMs: libvirt as a host of Debian's has it, AppArmor, and the smallest runtime of containers.
const VIRTUALIZATION: [&str; 5] = [
    "libvirt-daemon-system",
    "libvirt-clients",
    "qemu-system-x86",
    "apparmor",
    "crun",
];
/// QEMU 7.2 of Debian 12 itself injects Intel's machine checks into AMD guests, which none of them survives; and its libvirt is older
/// than the QEMU of backports.
const FROM_BACKPORTS: &str = "*libvirt* qemu-* seabios ipxe-*";

/// What is installed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum System {
    Plain,
    Virtualization,
}

impl System {
    fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Virtualization => "virtualization",
        }
    }

    fn wanted(self) -> Vec<String> {
        let mut wanted = vec![format!("bookworm {INCLUDE}"), STUB.to_owned(), UNIT.to_owned()];
        if self == Self::Virtualization {
            wanted.extend(VIRTUALIZATION.map(str::to_owned));
            wanted.push(FROM_BACKPORTS.to_owned());
        }
        wanted
    }
}

/// Makes the image, where it is not there yet.
pub fn set_up(paths: &Paths, system: System, progress: &Progress) -> Result<PathBuf> {
    let folder = paths.lab().join("debian").join(system.name());
    let image = folder.join("debian.ext4");
    let wanted = system.wanted();
    if stamp::read(&folder, &wanted).is_some() {
        return Ok(image);
    }
    let apt = Apt::update(&paths.apt("debian"), progress)?;
    let base = bootstrapped(paths, &apt, progress)?;
    stamp::start_over(&folder)?;
    let root = folder.join("root");
    progress.step(format!("lab: making the image {}", system.name()));
    command::output(command::clean("cp").arg("--archive").arg(&base).arg(&root))?;
    let mut installed = vec!["debootstrap".to_owned()];
    if system == System::Virtualization {
        let apt = apt
            .with_some_of_backports(FROM_BACKPORTS, progress)?
            .beside(&root)?;
        let packages = apt.download_closure(&VIRTUALIZATION, progress)?;
        installed.extend(packages.iter().map(Package::label));
        debian::install_into(&root, &packages, &folder.join("dpkg.log"), progress)?;
    }
    steps(&root)?;
    write(&root, &image, &folder.join("mke2fs.log"))?;
    fs::remove_dir_all(&root).context("cannot remove the image's folder")?;
    stamp::write(&folder, &Stamp { wanted, installed })?;
    Ok(image)
}

/// The folder with the plain system.
fn bootstrapped(paths: &Paths, apt: &Apt, progress: &Progress) -> Result<PathBuf> {
    let folder = paths.lab().join("debian/base");
    let root = folder.join("root");
    let wanted = vec![format!("bookworm {INCLUDE}"), "debootstrap".to_owned()];
    if stamp::read(&folder, &wanted).is_some() {
        return Ok(root);
    }
    stamp::start_over(&folder)?;
    let tools = folder.join("tools");
    let packages = apt.download(&["debootstrap".to_owned()], progress)?;
    debian::unpack(&packages, &tools, progress)?;
    progress.step("lab: installing Debian 12 into a folder (some minutes, once)");
    let server = apt.server()?;
    let install = || {
        stamp::start_over(&root)?;
        let mut debootstrap = command::clean(tools.join("usr/sbin/debootstrap"));
        debootstrap
            .env("DEBOOTSTRAP_DIR", tools.join("usr/share/debootstrap"))
            .arg("--variant=minbase")
            .arg(format!("--include={INCLUDE}"))
            .arg("bookworm")
            .arg(&root)
            .arg(&server);
        command::logged(&mut debootstrap, &folder.join("debootstrap.log"), "debootstrap")
    };
    // Its downloads are many, and it gives up at the first that fails.
    install().or_else(|error| {
        progress.note(format!("lab: {error:#}; once more"));
        install()
    })?;
    let installed = vec!["debootstrap".to_owned()];
    stamp::write(&folder, &Stamp { wanted, installed })?;
    Ok(root)
}

fn write(root: &Path, image: &Path, log: &Path) -> Result<()> {
    let mut mke2fs = command::clean("mke2fs");
    mke2fs
        // Neither needs a module of its own then (crc32c).
        .args([
            "-q",
            "-t",
            "ext4",
            "-F",
            "-O",
            "^metadata_csum,^has_journal",
            "-d",
        ])
        .arg(root)
        .arg(image)
        .arg(SIZE);
    command::logged(&mut mke2fs, log, "mke2fs")
}

/// The steps, run once the system is up.
fn steps(root: &Path) -> Result<()> {
    let program = root.join("usr/local/sbin/lab-steps");
    fs::write(&program, STUB).with_context(|| format!("cannot write {}", program.display()))?;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
    let units = root.join("etc/systemd/system");
    fs::write(units.join("lab-steps.service"), UNIT)?;
    let wants = units.join("graphical.target.wants");
    fs::create_dir_all(&wants)?;
    for (link, target) in [
        (
            wants.join("lab-steps.service"),
            "/etc/systemd/system/lab-steps.service",
        ),
        // Without udev systemd does not learn of the console, and the boot waits a minute and a half for it.
        (units.join("serial-getty@ttyS0.service"), "/dev/null"),
    ] {
        fs::remove_file(&link).ok();
        symlink(target, &link)?;
    }
    fs::write(root.join("etc/hostname"), "lab-debian\n")?;
    Ok(())
}
