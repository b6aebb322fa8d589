//! One VMM's process: its descriptors, its signals, its program.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Read as _},
    mem::MaybeUninit,
    os::unix::fs::MetadataExt as _,
    path::Path,
    sync::{Mutex, PoisonError},
};

use rustix::fs::{Mode, OFlags, RawDir, open, readlinkat_raw};

use super::super::vm_registry::cmdline;
use poisontrace_model::forecast::{
    facts::Known,
    terms::{Reason, Sigbus, VmmKind},
};

/// Descriptors of one process that are looked at.
const MAX_DESCRIPTORS: usize = 4096;
/// The links that are of interest are shorter, bytes.
const LINK: usize = 256;
/// Threads that are looked at for one of a vCPU.
const MAX_THREADS: usize = 64;
const MAX_STATUS: u64 = 16 * 1024;
const MAX_CMDLINE: u64 = 64 * 1024;
/// Longest program that is searched for its version, bytes.
const MAX_PROGRAM: u64 = 96 << 20;
/// Programs that are searched.
const MAX_PROGRAMS: usize = 16;
/// SIGBUS in the masks of status: bit n - 1.
const SIGBUS: u64 = 1 << (7 - 1);

/// Why a file of a process cannot be read.
pub fn reason(err: &io::Error) -> Reason {
    match err.kind() {
        io::ErrorKind::PermissionDenied => Reason::NotPermitted,
        io::ErrorKind::NotFound => Reason::ProcessGone,
        // ESRCH: it ended while it was read.
        _ => Reason::ProcessGone,
    }
}

/// What a process has open.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Descriptors {
    pub vm: bool,
    pub vcpus: u32,
    pub vfio: bool,
    pub guest_memfd: bool,
    /// There are more than are looked at.
    pub more: bool,
}

/// Reads the links below `fd` (names of anon_inode_getfd() in virt/kvm and drivers/vfio): by names in the folder, as most of the time
/// would go to walking the whole path for each.
pub fn descriptors(dir: &Path) -> Result<Descriptors, Reason> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = open(dir.join("fd"), flags, Mode::empty()).map_err(|err| reason(&err.into()))?;
    let (mut names, mut link) = ([MaybeUninit::uninit(); 8192], [MaybeUninit::uninit(); LINK]);
    let mut entries = RawDir::new(&folder, &mut names);
    let (mut all, mut looked_at) = (Descriptors::default(), 0);
    while let Some(Ok(entry)) = entries.next() {
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        if looked_at == MAX_DESCRIPTORS {
            all.more = true;
            break;
        }
        looked_at += 1;
        if let Ok((to, _)) = readlinkat_raw(&folder, name, &mut link) {
            all.add(to);
        }
    }
    // A VMM that handed its VM's descriptor to another process still has its vCPUs.
    all.vm |= all.vcpus > 0;
    Ok(all)
}

impl Descriptors {
    fn add(&mut self, to: &[u8]) {
        match to.strip_prefix(b"anon_inode:") {
            Some(b"kvm-vm") => self.vm = true,
            Some(b"[vfio-device]") => self.vfio = true,
            Some(b"[kvm-gmem]") => self.guest_memfd = true,
            // kvm-vcpu-stats:3 is another descriptor.
            Some(inode) => self.vcpus += u32::from(inode.starts_with(b"kvm-vcpu:")),
            None if to.starts_with(b"/dev/vfio/") => self.vfio = true,
            None => self.guest_memfd |= memchr::memmem::find(to, b"kvm_gmem").is_some(),
        }
    }
}

/// The lines of status that are used.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Status {
    blocked: u64,
    ignored: u64,
    caught: u64,
    /// RssAnon, RssFile and RssShmem, bytes.
    pub resident: u64,
    /// HugetlbPages, bytes.
    pub hugetlb: u64,
}

impl Status {
    pub fn read(dir: &Path) -> Result<Self, Reason> {
        let text = bounded(&dir.join("status"), MAX_STATUS).map_err(|err| reason(&err))?;
        Ok(Self::parse(&String::from_utf8_lossy(&text)))
    }

    fn parse(text: &str) -> Self {
        let mut status = Self::default();
        for line in text.lines() {
            let Some((name, value)) = line.split_once(':') else {
                continue;
            };
            let value = value.trim();
            let mask = || u64::from_str_radix(value, 16).unwrap_or(0);
            let bytes = || kibibytes(value);
            match name {
                "SigBlk" => status.blocked = mask(),
                "SigIgn" => status.ignored = mask(),
                "SigCgt" => status.caught = mask(),
                "RssAnon" | "RssFile" | "RssShmem" => {
                    status.resident = status.resident.saturating_add(bytes());
                }
                "HugetlbPages" => status.hugetlb = bytes(),
                _ => {}
            }
        }
        status
    }

    const fn sigbus(&self, blocked: u64) -> Sigbus {
        if blocked & SIGBUS != 0 {
            Sigbus::Blocked
        } else if self.ignored & SIGBUS != 0 {
            Sigbus::Ignored
        } else if self.caught & SIGBUS != 0 {
            Sigbus::Caught
        } else {
            Sigbus::Default
        }
    }
}

/// SIGBUS in a vCPU's thread, by the names that VMMs give these; without such a name, in the first thread.
pub fn sigbus(dir: &Path, status: Result<&Status, &Reason>) -> Known<Sigbus> {
    match status {
        Err(reason) => Known::Not(*reason),
        Ok(status) => {
            let thread = vcpu_thread(dir).and_then(|thread| Status::read(&thread).ok());
            Known::Is(status.sigbus(thread.map_or(status.blocked, |thread| thread.blocked)))
        }
    }
}

fn vcpu_thread(dir: &Path) -> Option<std::path::PathBuf> {
    let threads = fs::read_dir(dir.join("task")).ok()?.flatten().take(MAX_THREADS);
    let mut paths = threads.map(|thread| thread.path());
    paths.find(|path| {
        // "CPU 0/KVM" (QEMU), "fc_vcpu 0", "vcpu0", "crosvm_vcpu0".
        let name = bounded(&path.join("comm"), 64).unwrap_or_default();
        let name = String::from_utf8_lossy(&name);
        name.contains("vcpu") || name.split(' ').next() == Some("CPU") && name.trim_end().ends_with("/KVM")
    })
}

/// How a program of this name handles SIGBUS.
pub fn kind(program: Option<&str>) -> VmmKind {
    match program.unwrap_or_default() {
        "kvm" | "qemu-kvm" => VmmKind::Qemu,
        name if name.starts_with("qemu-system") => VmmKind::Qemu,
        "firecracker" => VmmKind::Firecracker,
        // A comm has 15 characters.
        "cloud-hypervisor" | "cloud-hyperviso" => VmmKind::CloudHypervisor,
        "crosvm" => VmmKind::Crosvm,
        _ => VmmKind::Other,
    }
}

/// Whether the VMM starts the guest's kernel itself, with machine checks off; `None`: it does not name its command line.
pub fn mce_off(dir: &Path) -> Option<bool> {
    let arguments = cmdline::split(&bounded(&dir.join("cmdline"), MAX_CMDLINE).ok()?);
    let at = arguments
        .iter()
        .position(|argument| argument.trim_start_matches('-') == "append" && argument.starts_with('-'))?;
    let append = arguments.get(at + 1)?;
    Some(
        append
            .split_whitespace()
            .any(|word| matches!(word, "mce=off" | "nomce")),
    )
}

/// Major and minor version.
type Version = (u32, u32);
/// A program's device, inode and time of change, seconds: an upgrade may have the inode of what it replaced.
type Program = (u64, u64, i64);

/// Versions of QEMU's programs, each searched for once.
#[derive(Default)]
pub struct Versions(Mutex<BTreeMap<Program, Known<Version>>>);

impl Versions {
    /// What the program prints for `--version`, found in it.
    pub fn of(&self, dir: &Path) -> Known<Version> {
        let path = dir.join("exe");
        let file = match fs::File::open(&path).and_then(|file| Ok((file.metadata()?, file))) {
            Ok((metadata, file)) if metadata.is_file() => (metadata, file),
            Ok(_) => return Known::Not(Reason::NotShown),
            Err(err) => return Known::Not(reason(&err)),
        };
        let (metadata, file) = file;
        let key = (metadata.dev(), metadata.ino(), metadata.mtime());
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(version) = known.get(&key) {
            return version.clone();
        }
        if known.len() >= MAX_PROGRAMS || metadata.len() > MAX_PROGRAM {
            return Known::Not(Reason::TooCostly);
        }
        let version = searched(file).map_or(Known::Not(Reason::NotShown), Known::Is);
        known.insert(key, version.clone());
        version
    }
}

/// Read at a time: a program of 30 MB need not be in memory as a whole.
const PIECE: usize = 256 * 1024;
/// Digits of a version.
const DIGITS: usize = 16;

/// QEMU's `version()` has one literal: "QEMU emulator version 10.0.2 (Debian …)".
fn searched(file: fs::File) -> Option<Version> {
    const BEFORE: &[u8] = b"QEMU emulator version ";
    let mut rest = file.take(MAX_PROGRAM);
    let mut piece = Vec::with_capacity(PIECE + BEFORE.len() + DIGITS);
    let finder = memchr::memmem::Finder::new(BEFORE);
    loop {
        let before = piece.len();
        (&mut rest).take(PIECE as u64).read_to_end(&mut piece).ok()?;
        if let Some(at) = finder.find(&piece)
            && let Some(digits) = piece.get(at + BEFORE.len()..)?.get(..DIGITS)
        {
            return version(digits);
        }
        if piece.len() == before {
            return None;
        }
        // The literal may begin in this piece and end in the next.
        let done = piece.len().saturating_sub(BEFORE.len() + DIGITS);
        piece.drain(..done);
    }
}

fn version(digits: &[u8]) -> Option<Version> {
    let end = digits.iter().position(|byte| !matches!(byte, b'0'..=b'9' | b'.'));
    let text = std::str::from_utf8(digits.get(..end.unwrap_or(digits.len()))?).ok()?;
    let mut parts = text.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// A size as /proc shows it, `262144 kB`, in bytes; 0 where it is none.
pub fn kibibytes(value: &str) -> u64 {
    let number = value
        .split_whitespace()
        .next()
        .and_then(|n| n.parse::<u64>().ok());
    number.unwrap_or(0).saturating_mul(1024)
}

/// # Errors
/// As the file's.
pub fn bounded(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_status_shows_what_sigbus_does() {
        let of = |masks: &str| {
            let status = Status::parse(masks);
            status.sigbus(status.blocked)
        };
        assert_eq!(
            of("SigBlk:\t0\nSigIgn:\t0\nSigCgt:\t0000000000000040\n"),
            Sigbus::Caught
        );
        assert_eq!(of("SigBlk:\t0\nSigIgn:\t0000000000000040\n"), Sigbus::Ignored);
        assert_eq!(of("SigBlk:\t0000000000000040\nSigCgt:\t40\n"), Sigbus::Blocked);
        assert_eq!(of("SigBlk:\t0\nSigIgn:\t80\nSigCgt:\t20\n"), Sigbus::Default);
    }

    #[test]
    fn the_thread_of_a_vcpu_decides_what_is_blocked() {
        let dir = tempfile::tempdir().unwrap();
        for (tid, comm, blocked) in [(7, "qemu-system-x86\n", "0"), (8, "CPU 0/KVM\n", "40")] {
            let thread = dir.path().join(format!("task/{tid}"));
            fs::create_dir_all(&thread).unwrap();
            fs::write(thread.join("comm"), comm).unwrap();
            fs::write(thread.join("status"), format!("SigBlk:\t{blocked}\n")).unwrap();
        }
        let status = Status::parse("SigBlk:\t0\nSigCgt:\t40\n");
        assert_eq!(sigbus(dir.path(), Ok(&status)), Known::Is(Sigbus::Blocked));
    }

    #[test]
    fn descriptors_show_the_vm_its_vcpus_and_what_pins_its_memory() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("fd")).unwrap();
        let links = [
            "anon_inode:kvm-vm",
            "anon_inode:kvm-vcpu:0",
            "anon_inode:kvm-vcpu:1",
            "anon_inode:kvm-vcpu-stats:0",
            "anon_inode:[vfio-device]",
            "/dev/null",
        ];
        for (n, to) in links.iter().enumerate() {
            symlink(to, dir.path().join(format!("fd/{n}"))).unwrap();
        }
        let found = descriptors(dir.path()).unwrap();
        assert_eq!((found.vm, found.vcpus, found.vfio), (true, 2, true));
        assert!(!found.guest_memfd);
    }

    #[test]
    fn a_program_names_its_version_and_a_kernel_command_line_its_machine_checks() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("program");
        fs::write(
            &program,
            b"\x7fELF...QEMU emulator version 10.0.2 (Debian)\n\0...",
        )
        .unwrap();
        symlink(&program, dir.path().join("exe")).unwrap();
        let versions = Versions::default();
        assert_eq!(versions.of(dir.path()), Known::Is((10, 0)));
        assert_eq!(versions.0.lock().unwrap().len(), 1);
        // Across the border of what is read at a time.
        for before in PIECE - 24..=PIECE {
            let mut long = vec![b'.'; before];
            long.extend(b"QEMU emulator version 9.1.0\0and more that is not read");
            fs::write(&program, long).unwrap();
            assert_eq!(
                searched(fs::File::open(&program).unwrap()),
                Some((9, 1)),
                "{before}"
            );
        }
        fs::write(dir.path().join("cmdline"), b"qemu\0-append\0quiet mce=off\0").unwrap();
        assert_eq!(mce_off(dir.path()), Some(true));
        fs::write(dir.path().join("cmdline"), b"qemu\0-append\0quiet\0").unwrap();
        assert_eq!(mce_off(dir.path()), Some(false));
        fs::write(dir.path().join("cmdline"), b"qemu\0-m\x00256\0").unwrap();
        assert_eq!(mce_off(dir.path()), None);
    }
}
