//! The CD that the emulated host boots from: there is no folder to share, so all is on it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use xtask_support::{command, unpacked};

use crate::packages::bochs_host::Packages;

/// `quiet` saves seconds; a timer check would fail now and then under emulation.
const COMMAND_LINE: &str = "console=ttyS0,115200 nokaslr mitigations=off tsc=reliable no_timer_check audit=0 \
                            apparmor=0 nomodeset panic=-1 rdinit=/init quiet";
/// Libraries that the daemon is linked with.
pub const LIBRARIES: [&str; 3] = ["libc.so.6", "libgcc_s.so.1", "libm.so.6"];

/// Writes the CD `name` into the folder; `initramfs` writes its initramfs.
pub fn disc(
    packages: &Packages,
    folder: &Path,
    name: &str,
    initramfs: impl FnOnce(&Path) -> Result<()>,
) -> Result<()> {
    let disc = folder.join("disc");
    fs::create_dir_all(disc.join("isolinux"))?;
    initramfs(&disc.join("initrd.img"))?;
    copy(&packages.kernel.image, &disc.join("vmlinuz"))?;
    for file in [
        "usr/lib/ISOLINUX/isolinux.bin",
        "usr/lib/syslinux/modules/bios/ldlinux.c32",
    ] {
        let from = unpacked::file(&packages.tree, file)?;
        let name = from.file_name().context("a file without a name")?;
        copy(&from, &disc.join("isolinux").join(name))?;
    }
    fs::write(
        disc.join("isolinux/isolinux.cfg"),
        format!(
            "SERIAL 0 115200\nDEFAULT lab\nPROMPT 0\nTIMEOUT 1\nLABEL lab\n KERNEL /vmlinuz\n INITRD /initrd.img\n APPEND \
             {COMMAND_LINE}\n"
        ),
    )?;
    let mut xorriso = unpacked::program(&packages.tree, "usr/bin/xorriso")?;
    xorriso
        .current_dir(folder)
        .args(["-as", "mkisofs", "-quiet", "-o", name])
        .args([
            "-b",
            "isolinux/isolinux.bin",
            "-c",
            "isolinux/boot.cat",
            "-no-emul-boot",
        ])
        .args(["-boot-load-size", "4", "-boot-info-table", "disc"]);
    command::output(&mut xorriso).context("cannot make the CD")?;
    fs::remove_dir_all(&disc).context("cannot clear up after the CD")
}

/// A copy without symbols: the boot loader reads a few megabytes a second.
pub fn stripped(program: &Path, folder: &Path) -> Result<PathBuf> {
    let name = program.file_name().context("a program without a name")?;
    let to = folder.join(name);
    let mut strip = command::clean("strip");
    command::output(strip.arg("-o").arg(&to).arg(program))
        .with_context(|| format!("cannot strip {}", program.display()))?;
    Ok(to)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to).with_context(|| format!("cannot copy {}", from.display()))?;
    Ok(())
}
