//! A host in QEMU that runs one scenario: the daemon, and guests or tiny VMMs in turn.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use lab_protocol::vmm_fate::SCENARIO_VMM_FILE;
use lab_protocol::{
    DAEMON_FILE, Fate, GUEST_INITRAMFS_FILE, GUEST_KERNEL_FILE, LabResult, RASDAEMON_FILE, RESULT_FILE,
    SCENARIO_FILE, SQLITE_FILE, Scenario,
};
use xtask_support::paths::Paths;
use xtask_support::progress::Progress;
use xtask_support::stamp;

use crate::emulators::process::until_done;
use crate::emulators::qemu::{self, Host};
use crate::host_log;
use crate::images::initramfs;
use crate::packages::qemu::{self as packages, Packages};
use crate::packages::rasdaemon;

const HOST_MODULES: [&str; 6] = [
    "virtio_pci",
    "9pnet_virtio",
    "9p",
    "ccp",
    "kvm_amd",
    "hwpoison_inject",
];
const GUEST_MODULES: [&str; 2] = ["pvpanic_mmio", "msr"];

/// Everything that does not change from one scenario to the next.
pub struct Lab {
    folder: PathBuf,
    packages: Packages,
    host_initramfs: PathBuf,
    guest_initramfs: PathBuf,
    scenario_vmm: PathBuf,
    rasdaemon: PathBuf,
}

/// A scenario that ran: its result, and the folder with its files.
pub struct Run {
    pub result: LabResult,
    pub out: PathBuf,
}

impl Lab {
    /// Downloads the packages of a later [`Lab::set_up`], which needs the programs as well.
    pub fn download(paths: &Paths, host: &str, guest: &str, progress: &Progress) -> Result<()> {
        progress.task("QEMU and kernels", || {
            packages::set_up(paths, host, guest, progress).map(drop)
        })
    }

    /// `host`, `guest`: series of their kernels.
    pub fn set_up(
        paths: &Paths,
        host: &str,
        guest: &str,
        programs: &Path,
        progress: &Progress,
    ) -> Result<Self> {
        let packages = packages::set_up(paths, host, guest, progress)?;
        progress.step("lab: writing the initramfs files");
        let folder = paths.lab();
        let host_initramfs = folder.join(format!("host-{host}.cpio"));
        let guest_initramfs = folder.join(format!("guest-{guest}.cpio"));
        let host_modules = packages.kernel.modules(&HOST_MODULES)?;
        initramfs::write(&host_initramfs, &programs.join("lab-host"), &host_modules, &[])?;
        let guest_modules = packages.guest_kernel.modules(&GUEST_MODULES)?;
        initramfs::write(&guest_initramfs, &programs.join("lab-guest"), &guest_modules, &[])?;
        Ok(Self {
            folder,
            packages,
            host_initramfs,
            guest_initramfs,
            scenario_vmm: programs.join("scenario-vmm"),
            rasdaemon: rasdaemon::set_up(paths, progress)?,
        })
    }

    /// Boots the host for one scenario. `daemon` is what runs in it.
    pub fn run(&self, name: &str, scenario: &Scenario, daemon: &Path, progress: &Progress) -> Result<Run> {
        let share = self.folder.join("run").join(name);
        let log = share.join("out/host.log");
        until_done(name, &log, progress, || {
            self.fill(&share, scenario, daemon)?;
            let host = Host {
                tree: &self.packages.tree,
                kernel: &self.packages.kernel.image,
                initramfs: &self.host_initramfs,
                share: &share,
                disk: None,
                deadline: qemu::deadline(scenario.guests.len()),
            };
            host.boot(progress)
        })?;
        host_log::check(&log)?;
        let result =
            fs::read_to_string(share.join(RESULT_FILE)).context("the emulated host left no result")?;
        let result = serde_json::from_str(&result).context("the lab's result is not readable")?;
        Ok(Run {
            result,
            out: share.join("out"),
        })
    }

    /// Fills the folder that the emulated host shares with us; nothing of an earlier run stays in it.
    fn fill(&self, share: &Path, scenario: &Scenario, daemon: &Path) -> Result<()> {
        stamp::start_over(share)?;
        for dir in ["bin", "guest", "out"] {
            fs::create_dir(share.join(dir))?;
        }
        let copies = [
            (self.packages.guest_kernel.image.as_path(), GUEST_KERNEL_FILE),
            (self.guest_initramfs.as_path(), GUEST_INITRAMFS_FILE),
            (daemon, DAEMON_FILE),
            (self.scenario_vmm.as_path(), SCENARIO_VMM_FILE),
        ];
        for (from, to) in copies {
            if from == daemon && !scenario.daemon {
                continue;
            }
            fs::copy(from, share.join(to)).with_context(|| format!("cannot copy {}", from.display()))?;
        }
        if scenario
            .guests
            .iter()
            .any(|guest| guest.fate == Fate::MachineCheck)
        {
            for (from, to) in rasdaemon::files(&self.rasdaemon)?
                .iter()
                .zip([RASDAEMON_FILE, SQLITE_FILE])
            {
                fs::copy(from, share.join(to)).with_context(|| format!("cannot copy {}", from.display()))?;
            }
        }
        fs::write(share.join(SCENARIO_FILE), serde_json::to_string_pretty(scenario)?)?;
        Ok(())
    }
}
