//! The storm of the LKML thread with everything it needs: Debian's QEMU, a real Linux that flushes a page reported as
//! lost, and a processor whose CLFLUSH exits.
//!
//! Which kernels flush: KERNEL.md has the table. Linux 5.8 to 5.18 do where the bank's MISC reports less than a page
//! as lost (`whole_page()` in arch/x86/kernel/cpu/mce/core.c), and QEMU itself always reports a page.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use lab_protocol::flush::{FLUSH_FILE, FlushPlan, FlushResult, MachineCheck};
use lab_protocol::{DAEMON_FILE, GUEST_INITRAMFS_FILE, GUEST_KERNEL_FILE, GuestPlan, words};

use xtask_support::paths::Paths;
use xtask_support::progress::Progress;
use xtask_support::{stamp, unpacked};

use super::lab;
use crate::emulators::bochs::{DISC, Host};
use crate::images::disc;
use crate::images::initramfs::{self, Extra};
use crate::kernels::{self, Flavour, Kernel};
use crate::packages::{bochs, bochs_host, qemu};
use crate::{HOSTNAME, Processor};

/// The guest's kernel.
const FLUSHES: &str = "5.10";
const GUEST_MODULES: [&str; 1] = ["pvpanic"];
const MEMORY_FILE: &str = "/dev/shm/guest";
/// Free once the guest is up: its kernel takes memory from both ends.
const LOST: u64 = 0xc00_0000;
/// Valid, uncorrected, enabled, MISC and ADDR valid, signalled, no action required; found by memory scrubbing.
const STATUS: u64 = 1 << 63 | 1 << 61 | 1 << 60 | 1 << 59 | 1 << 58 | 1 << 56 | 0xc0;
/// A physical address, of 2^6 bytes: a line.
const MISC: u64 = 2 << 6 | 6;
/// In progress, and the guest can go on where it was.
const MCG_STATUS: u64 = 4 | 1;
const BANK: u8 = 9;

/// QEMU and its guest need more than a tiny VMM.
const MEMORY_MIB: u32 = 1024;
const DEADLINE: Duration = Duration::from_secs(1500);

/// QEMU, and the firmware of a guest without a display, a network and a disk.
const QEMU: [&str; 5] = [
    "usr/bin/qemu-system-x86_64",
    "usr/share/qemu/kvmvapic.bin",
    "usr/share/qemu/linuxboot.bin",
    "usr/share/qemu/linuxboot_dma.bin",
    "usr/share/seabios/bios-256k.bin",
];

pub struct LinuxLab {
    folder: PathBuf,
    programs: PathBuf,
    bochs: PathBuf,
    packages: bochs_host::Packages,
    qemu: PathBuf,
    guest: Kernel,
}

/// The emulated host's result, and the folder with its files.
pub struct LinuxRun {
    pub result: FlushResult,
    pub out: PathBuf,
}

impl LinuxLab {
    pub fn set_up(paths: &Paths, series: &str, programs: &Path, progress: &Progress) -> Result<Self> {
        Ok(Self {
            folder: paths.lab().join("run"),
            programs: programs.to_path_buf(),
            bochs: bochs::set_up(paths, progress)?,
            packages: bochs_host::set_up(paths, series, progress)?,
            qemu: qemu::qemu(paths, progress)?,
            guest: kernels::set_up(paths, FLUSHES, Flavour::Plain, progress)?,
        })
    }

    /// Boots the host on Intel's processor, and the guest in it.
    pub fn run(
        &self,
        name: &str,
        daemon: &Path,
        options: Vec<String>,
        progress: &Progress,
    ) -> Result<LinuxRun> {
        let folder = self.folder.join(name);
        stamp::start_over(&folder)?;
        progress.step("lab: writing the host's CD");
        disc::disc(&self.packages, &folder, DISC, |to| {
            self.initramfs(&plan(options), daemon, &folder, to)
        })?;
        let host = Host {
            bochs: &self.bochs,
            tree: &self.packages.tree,
            processor: Processor::Intel,
            folder: &folder,
            memory_mib: MEMORY_MIB,
            deadline: DEADLINE,
        };
        let out = folder.join("out");
        lab::boot(&host, &out, progress)?;
        Ok(LinuxRun {
            result: lab::read(&out, "result.json")?,
            out,
        })
    }

    fn initramfs(&self, plan: &FlushPlan, daemon: &Path, folder: &Path, to: &Path) -> Result<()> {
        let read =
            |path: &Path| std::fs::read(path).with_context(|| format!("cannot read {}", path.display()));
        let guest_initramfs = folder.join("guest.cpio");
        initramfs::write(
            &guest_initramfs,
            &self.programs.join("lab-guest"),
            &self.guest.modules(&GUEST_MODULES)?,
            &[],
        )?;
        // By their names in the emulated host.
        let mut files = BTreeMap::from([
            (format!("lab/{DAEMON_FILE}"), disc::stripped(daemon, folder)?),
            (format!("lab/{GUEST_KERNEL_FILE}"), self.guest.image.clone()),
            (format!("lab/{GUEST_INITRAMFS_FILE}"), guest_initramfs),
            (
                "lib64/ld-linux-x86-64.so.2".to_owned(),
                unpacked::loader(&self.qemu)?,
            ),
        ]);
        for name in QEMU {
            files.insert(name.to_owned(), unpacked::file(&self.qemu, name)?);
        }
        let qemu = unpacked::file(&self.qemu, QEMU[0])?;
        let of_qemu = unpacked::linked_with(&self.qemu, &qemu)?;
        let of_daemon = disc::LIBRARIES
            .iter()
            .map(|name| unpacked::library(&self.qemu, name));
        for library in of_qemu.into_iter().map(Ok).chain(of_daemon) {
            let library = library?;
            let name = library.file_name().context("a library without a name")?;
            files.insert(format!("lib/{}", name.to_string_lossy()), library);
        }
        let folders = files
            .keys()
            .filter_map(|name| Path::new(name).parent())
            .flat_map(Path::ancestors)
            .filter_map(Path::to_str)
            .filter(|name| !name.is_empty())
            .chain(["lab/out"])
            .collect::<std::collections::BTreeSet<&str>>();
        let mut extras: Vec<Extra> = folders.into_iter().map(Extra::Folder).collect();
        extras.push(Extra::File(FLUSH_FILE, serde_json::to_vec(plan)?));
        for (name, path) in &files {
            extras.push(Extra::Program(name, read(path)?));
        }
        let modules = self
            .packages
            .kernel
            .modules(&[Processor::Intel.kvm_module(), "hwpoison_inject"])?;
        initramfs::write(to, &self.programs.join("lab-host"), &modules, &extras)
    }
}

fn plan(options: Vec<String>) -> FlushPlan {
    FlushPlan {
        hostname: HOSTNAME.to_owned(),
        // With the controls of APICv Bochs refuses to enter the guest (VM-instruction error 7).
        kvm: "enable_apicv=0".to_owned(),
        daemon: options,
        guest: GuestPlan {
            name: "flushing-guest".to_owned(),
            uuid: "5e1f1e55-0000-4000-8000-000000005ca1".to_owned(),
            cpu: "host".to_owned(),
            pvpanic: true,
            outlives_panic: true,
            memory_file: Some(MEMORY_FILE.to_owned()),
            words: vec![
                "nokaslr".to_owned(),
                "mitigations=off".to_owned(),
                format!("{}{LOST:#x}", words::FREE_PAGE),
            ],
            ..GuestPlan::default()
        },
        gpa: LOST,
        machine_check: MachineCheck {
            bank: BANK,
            status: STATUS,
            misc: MISC,
            mcg_status: MCG_STATUS,
        },
    }
}
