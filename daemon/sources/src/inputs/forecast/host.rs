//! The host's part: settings of its kernel, its processor, its firmware.

use std::{fs, io, os::unix::fs::FileExt as _, path::Path};

use super::process::bounded;
use crate::host::kernel_counters::KernelCounters;
use poisontrace_model::{
    event::McVendor,
    forecast::{
        facts::{HostFacts, Known},
        terms::Reason,
    },
};

/// The first processor's part of cpuinfo.
const MAX_CPUINFO: u64 = 64 * 1024;
const MAX_HEST: u64 = 1 << 20;
/// MCG_CAP, and its bit for software error recovery (Intel SDM volume 4).
const MCG_CAP: u64 = 0x179;
const SER_P: u64 = 1 << 24;

/// Reads them below `root` (`/`).
pub fn read(root: &Path) -> HostFacts {
    let cpu = Cpu::read(root);
    let vendor = cpu
        .as_ref()
        .map_or_else(|reason| Known::Not(*reason), |cpu| Known::Is(cpu.vendor));
    HostFacts {
        early_kill: setting(root, "memory_failure_early_kill", Reason::NoMemoryFailure),
        recovery: setting(root, "memory_failure_recovery", Reason::NoMemoryFailure),
        panic_on_unrecoverable: setting(root, "panic_on_unrecoverable_memory_failure", Reason::NotShown),
        edac_controllers: edac(root),
        firmware_first: firmware_first(root),
        recovers: cpu.map_or_else(Known::Not, |cpu| cpu.recovers(root)),
        vendor,
        svm: svm(root),
        hardware_corrupted: KernelCounters::read(root)
            .hardware_corrupted
            .map_or(Known::Not(Reason::NotShown), Known::Is),
    }
}

fn reason(err: &io::Error, absent: Reason) -> Reason {
    match err.kind() {
        io::ErrorKind::PermissionDenied => Reason::NotPermitted,
        _ => absent,
    }
}

/// A switch below /proc/sys/vm.
fn setting(root: &Path, name: &str, absent: Reason) -> Known<bool> {
    match bounded(&root.join("proc/sys/vm").join(name), 64) {
        Ok(text) => match String::from_utf8_lossy(&text).trim().parse::<u32>() {
            Ok(value) => Known::Is(value != 0),
            Err(_) => Known::Not(Reason::NotShown),
        },
        Err(err) => Known::Not(reason(&err, absent)),
    }
}

fn edac(root: &Path) -> Known<u32> {
    let Ok(entries) = fs::read_dir(root.join("sys/devices/system/edac/mc")) else {
        return Known::Is(0);
    };
    let is_controller = |name: &str| {
        let digits = name.strip_prefix("mc");
        digits.is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()))
    };
    let names = entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok());
    Known::Is(u32::try_from(names.filter(|name| is_controller(name)).count()).unwrap_or(u32::MAX))
}

/// Whether a source of machine checks in ACPI's HEST is marked FIRMWARE_FIRST (ACPI 6.5, 18.3.2).
fn firmware_first(root: &Path) -> Known<bool> {
    let table = match bounded(&root.join("sys/firmware/acpi/tables/HEST"), MAX_HEST) {
        Ok(table) => table,
        Err(err) if err.kind() == io::ErrorKind::PermissionDenied => return Known::Not(Reason::NotPermitted),
        // No such table: the firmware handles no errors.
        Err(_) => return Known::Is(false),
    };
    marked(&table).map_or(Known::Not(Reason::NotShown), Known::Is)
}

fn marked(table: &[u8]) -> Option<bool> {
    /// The header of every table, and the number of sources.
    const HEADER: usize = 36 + 4;
    const FIRMWARE_FIRST: u8 = 1 << 0;
    let mut at = HEADER;
    while let Some(source) = table.get(at..).filter(|rest| !rest.is_empty()) {
        let kind = u16::from_le_bytes([*source.first()?, *source.get(1)?]);
        let flags = *source.get(6)?;
        let banks = |at: usize| source.get(at).map(|n| usize::from(*n) * 28);
        let length = match kind {
            0 => 40 + banks(32)?,
            1 => 48 + banks(44)?,
            2 => 20,
            6 => 48,
            7 => 44,
            8 => 56,
            9 => 64,
            10 => 92,
            _ => return None,
        };
        if kind <= 1 && flags & FIRMWARE_FIRST != 0 {
            return Some(true);
        }
        at += length;
    }
    Some(false)
}

/// Which processor's module KVM runs on.
fn svm(root: &Path) -> Known<bool> {
    let has = |module: &str| root.join("sys/module").join(module).is_dir();
    match (has("kvm_amd"), has("kvm_intel")) {
        (true, false) => Known::Is(true),
        (false, true) => Known::Is(false),
        _ => Known::Not(Reason::NotShown),
    }
}

struct Cpu {
    vendor: McVendor,
    succor: bool,
}

impl Cpu {
    fn read(root: &Path) -> Result<Self, Reason> {
        let text =
            bounded(&root.join("proc/cpuinfo"), MAX_CPUINFO).map_err(|err| reason(&err, Reason::NotShown))?;
        let text = String::from_utf8_lossy(&text);
        let value = |wanted: &str| {
            let mut lines = text.lines().filter_map(|line| line.split_once(':'));
            lines
                .find(|(name, _)| name.trim() == wanted)
                .map(|(_, value)| value.trim())
        };
        let vendor = match value("vendor_id").ok_or(Reason::NotShown)? {
            "GenuineIntel" => McVendor::Intel,
            "AuthenticAMD" | "HygonGenuine" => McVendor::Amd,
            _ => McVendor::Other,
        };
        let flags = value("flags").unwrap_or_default();
        Ok(Self {
            vendor,
            succor: flags.split_whitespace().any(|flag| flag == "succor"),
        })
    }

    fn recovers(&self, root: &Path) -> Known<bool> {
        match self.vendor {
            McVendor::Amd => Known::Is(self.succor),
            // Linux shows it in no file; the module `msr` shows the register.
            McVendor::Intel => match mcg_cap(root) {
                Ok(cap) => Known::Is(cap & SER_P != 0),
                Err(err) => Known::Not(reason(&err, Reason::NotShown)),
            },
            McVendor::Other => Known::Not(Reason::NotShown),
        }
    }
}

fn mcg_cap(root: &Path) -> io::Result<u64> {
    let mut value = [0; 8];
    fs::File::open(root.join("dev/cpu/0/msr"))?.read_exact_at(&mut value, MCG_CAP)?;
    Ok(u64::from_le_bytes(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(root: &Path, path: &str, content: &[u8]) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    #[test]
    fn the_settings_of_an_intel_host_are_read() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        write(root, "proc/sys/vm/memory_failure_early_kill", b"0\n");
        write(root, "proc/sys/vm/memory_failure_recovery", b"1\n");
        write(
            root,
            "proc/cpuinfo",
            b"processor\t: 0\nvendor_id\t: GenuineIntel\nflags\t\t: fpu mce\n",
        );
        write(root, "proc/meminfo", b"HardwareCorrupted:     4 kB\n");
        fs::create_dir_all(root.join("sys/module/kvm_intel")).unwrap();
        fs::create_dir_all(root.join("sys/devices/system/edac/mc/mc0")).unwrap();
        let mut msr = vec![0; 0x181];
        msr[0x179..0x181].copy_from_slice(&(SER_P | 0x13).to_le_bytes());
        write(root, "dev/cpu/0/msr", &msr);
        let facts = read(root);
        assert_eq!(facts.early_kill, Known::Is(false));
        assert_eq!(facts.recovery, Known::Is(true));
        assert_eq!(facts.panic_on_unrecoverable, Known::Not(Reason::NotShown));
        assert_eq!(facts.recovers, Known::Is(true));
        assert_eq!(facts.svm, Known::Is(false));
        assert_eq!(facts.edac_controllers, Known::Is(1));
        assert_eq!(facts.hardware_corrupted, Known::Is(4096));
        assert_eq!(facts.firmware_first, Known::Is(false));
    }

    #[test]
    fn a_host_that_shows_nothing_has_its_reasons() {
        let root = tempfile::tempdir().unwrap();
        let facts = read(root.path());
        assert_eq!(facts.recovery, Known::Not(Reason::NoMemoryFailure));
        assert_eq!(facts.vendor, Known::Not(Reason::NotShown));
        assert_eq!(facts.recovers, Known::Not(Reason::NotShown));
    }

    #[test]
    fn hest_marks_sources_as_firmware_first() {
        let mut table = vec![0; 40];
        // A machine-check source with one bank, then a generic source.
        let mut source = vec![0_u8; 40 + 28];
        source[32] = 1;
        table.extend(&source);
        let mut generic = vec![0_u8; 64];
        generic[0] = 9;
        table.extend(&generic);
        assert_eq!(marked(&table), Some(false));
        table[40 + 6] = 1;
        assert_eq!(marked(&table), Some(true));
        // Torn, and of an unknown kind.
        assert_eq!(marked(&table[..43]), None);
        assert_eq!(marked(&[&[0; 40][..], &[77, 0, 0, 0, 0, 0, 0, 0]].concat()), None);
    }
}
