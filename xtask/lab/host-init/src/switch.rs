//! From the initramfs to the system on the disk: a real Debian, with its own init.

use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use rustix::mount::{MountFlags, mount, mount_move};
use rustix::process::{chdir, chroot};

const DISK: &str = "/dev/vda";
const ROOT: &str = "/root";
const INIT: &str = "/sbin/init";
const PATIENCE: Duration = Duration::from_secs(20);

/// Does not return where it succeeds.
pub fn to_disk() -> Result<()> {
    std::fs::create_dir_all(ROOT)?;
    let until = Instant::now() + PATIENCE;
    // The disk shows itself some time after its driver was loaded.
    while let Err(error) = mount(DISK, ROOT, "ext4", MountFlags::empty(), None) {
        if Instant::now() > until {
            bail!("cannot mount {DISK}: {error}");
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    chdir(ROOT)?;
    mount_move(".", "/")?;
    chroot(".")?;
    chdir("/")?;
    let error = Command::new(INIT).env_clear().exec();
    bail!("cannot start {INIT}: {error}")
}
