//! The image: Debian 12 by debootstrap, with the steps as a service of its own, written to a file system without
//! mounting anything.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use xtask_support::command;
use xtask_support::debian::{self, Apt};
use xtask_support::paths::Paths;
use xtask_support::progress::Progress;
use xtask_support::stamp::{self, Stamp};

const STEPS: &str = concat!(include_str!("steps.sh"), include_str!("walk.sh"));
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

/// Makes the image, where it is not there yet.
pub fn set_up(paths: &Paths, folder: &Path, progress: &Progress) -> Result<PathBuf> {
    let image = folder.join("debian.ext4");
    let root = folder.join("root");
    let wanted = vec![format!("bookworm {INCLUDE}"), "debootstrap".to_owned()];
    let tools = folder.join("tools");
    if stamp::read(&tools, &wanted).is_none() {
        stamp::start_over(&tools)?;
        let apt = Apt::update(&paths.apt("lab"), progress)?;
        let packages = apt.download(&["debootstrap".to_owned()], progress)?;
        debian::unpack(&packages, &tools, progress)?;
        bootstrap(&apt, &tools, &root, folder, progress)?;
        let installed = vec!["debootstrap".to_owned()];
        stamp::write(&tools, &Stamp { wanted, installed })?;
    }
    steps(&root)?;
    progress.step("lab: writing the disk");
    fs::remove_file(&image).ok();
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
        .arg(&root)
        .arg(&image)
        .arg(SIZE);
    command::logged(&mut mke2fs, &folder.join("mke2fs.log"), "mke2fs")?;
    Ok(image)
}

fn bootstrap(apt: &Apt, tools: &Path, root: &Path, folder: &Path, progress: &Progress) -> Result<()> {
    progress.step("lab: installing Debian 12 into a folder (some minutes, once)");
    stamp::start_over(root)?;
    let mut debootstrap = command::clean(tools.join("usr/sbin/debootstrap"));
    debootstrap
        .env("DEBOOTSTRAP_DIR", tools.join("usr/share/debootstrap"))
        .arg("--variant=minbase")
        .arg(format!("--include={INCLUDE}"))
        .arg("bookworm")
        .arg(root)
        .arg(apt.server()?);
    command::logged(&mut debootstrap, &folder.join("debootstrap.log"), "debootstrap")
}

/// The steps, run once the system is up.
fn steps(root: &Path) -> Result<()> {
    let program = root.join("usr/local/sbin/lab-steps");
    fs::write(&program, STEPS).with_context(|| format!("cannot write {}", program.display()))?;
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

#[cfg(test)]
mod tests {
    use super::STEPS;
    use lab_protocol::storm::StormPlan;

    /// The steps are a shell's; the plans for the VMM are checked here, before anything is booted.
    #[test]
    fn the_vmm_can_read_each_plan_of_the_steps() {
        let plans: Vec<&str> = STEPS
            .split('\'')
            .filter(|quoted| quoted.starts_with("{\"mode\""))
            .collect();
        assert_eq!(plans.len(), STEPS.matches("{\"mode\"").count());
        assert!(plans.len() >= 3, "{plans:?}");
        for plan in plans {
            serde_json::from_str::<StormPlan>(plan).unwrap_or_else(|error| panic!("{plan}: {error}"));
        }
    }
}
