//! The CD that the emulated host boots from: there is no folder to share, so all is on it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use lab_contract::DAEMON_FILE;
use lab_contract::storm::{STORM_FILE, STORM_VMM_FILE, Storms};

use super::packages::Packages;
use super::perf;
use super::processor::Processor;
use crate::command;
use crate::lab::initramfs::{self, Extra};
use crate::lab::tree;

/// `quiet` saves seconds; a timer check would fail now and then under emulation.
const COMMAND_LINE: &str = "console=ttyS0,115200 nokaslr mitigations=off tsc=reliable no_timer_check audit=0 \
                            apparmor=0 nomodeset panic=-1 rdinit=/init quiet";
/// What the daemon is linked with.
pub const LIBRARIES: [&str; 3] = ["libc.so.6", "libgcc_s.so.1", "libm.so.6"];

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

/// The same with any initramfs.
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
        let from = tree::file(&packages.tree, file)?;
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
    let mut xorriso = tree::program(&packages.tree, "usr/bin/xorriso")?;
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
            read(&tree::loader(tree)?)?,
        ));
        for (library, name) in LIBRARIES.iter().zip(&library_names) {
            extras.push(Extra::Program(name, read(&tree::library(tree, library)?)?));
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
