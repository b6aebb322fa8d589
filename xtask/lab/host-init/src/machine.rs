//! The emulated machine itself: file systems, modules, the kernel's log, power.

use std::collections::BTreeSet;
use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read};
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use lab_protocol::unit_limits::CONTROL_GROUPS;
use lab_protocol::{KERNEL_LOG, MODULE_ORDER_FILE, SHARE_TAG, TAINT, TREE_TAG};
use rustix::fs::OFlags;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use rustix::system::{RebootCommand, delete_module, finit_module, reboot, sethostname};

use crate::log::{Log, uptime};

pub const SHARE: &str = "/lab";
const TREE: &str = "/tree";
pub const HUGE_PAGES: &str = "/dev/hugepages";

const FILE_SYSTEMS: [(&str, &str); 9] = [
    ("proc", "/proc"),
    ("sysfs", "/sys"),
    ("devtmpfs", "/dev"),
    ("devpts", "/dev/pts"),
    ("tmpfs", "/dev/shm"),
    ("tmpfs", "/run"),
    ("tmpfs", "/tmp"),
    ("debugfs", "/sys/kernel/debug"),
    ("tracefs", "/sys/kernel/tracing"),
];

pub fn bring_up() -> Result<()> {
    for (kind, target) in FILE_SYSTEMS {
        mount_on(kind, kind, target, MountFlags::empty(), "")?;
    }
    mount_on("bpf", "bpf", "/sys/fs/bpf", MountFlags::empty(), "")?;
    load_modules()
}

/// Version 2.
pub fn mount_control_groups() -> Result<()> {
    mount_on("cgroup2", "cgroup2", CONTROL_GROUPS, MountFlags::empty(), "")
}

/// The kernel's random numbers are then the same in every boot, if the processor has none. The kernel would
/// wait for other sources where there are hardly any.
pub fn seed() -> Result<()> {
    const RNDADDENTROPY: libc::c_ulong = 0x4008_5203;
    const BYTES: usize = 64;
    /// `struct rand_pool_info` of linux/random.h.
    #[repr(C)]
    struct Seed {
        bits: libc::c_int,
        bytes: libc::c_int,
        seed: [u8; BYTES],
    }
    let seed = Seed {
        bits: BYTES as libc::c_int * 8,
        bytes: BYTES as libc::c_int,
        seed: [0x5a; BYTES],
    };
    let random = File::options()
        .write(true)
        .open("/dev/random")
        .context("no /dev/random")?;
    // SAFETY: the kernel reads the structure, whose length it contains; the file is open.
    let done = unsafe { libc::ioctl(random.as_raw_fd(), RNDADDENTROPY, &raw const seed) };
    if done != 0 {
        return Err(std::io::Error::last_os_error()).context("RNDADDENTROPY");
    }
    Ok(())
}

/// The loopback interface, on which the daemon serves its metrics.
pub fn loopback_up() -> Result<()> {
    let socket = UdpSocket::bind("0.0.0.0:0").context("no socket")?;
    // SAFETY: a plain C structure, for which all bits zero are a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
    // SAFETY: the kernel reads an ifreq (netdevice(7)), which lives until the call is over; the socket is open.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) };
    if done != 0 {
        return Err(std::io::Error::last_os_error()).context("cannot bring the loopback interface up");
    }
    Ok(())
}

/// Huge pages of 2 MiB for a guest of 256 MiB, and a few to spare.
pub fn reserve_huge_pages() -> Result<()> {
    const PAGES: &str = "136";
    const COUNT: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages";
    fs::write(COUNT, PAGES).context("the kernel has no huge pages")?;
    mount_on(
        "hugetlbfs",
        "hugetlbfs",
        HUGE_PAGES,
        MountFlags::empty(),
        "pagesize=2M",
    )
}

/// The folders of the developer's machine that a scenario lives in.
pub fn mount_share() -> Result<()> {
    let options = "trans=virtio,version=9p2000.L,msize=524288,cache=loose";
    mount_on("9p", SHARE_TAG, SHARE, MountFlags::empty(), options)?;
    mount_on("9p", TREE_TAG, TREE, MountFlags::RDONLY, options)?;
    link_tree()
}

/// Programs find their loader and libraries where Debian has them, so they keep their own names in /proc.
fn link_tree() -> Result<()> {
    symlink(format!("{TREE}/usr"), "/usr")?;
    for name in ["bin", "lib", "lib64", "sbin"] {
        // Up to Debian 12 some packages unpack outside /usr; later ones do not.
        let split = format!("{TREE}/{name}");
        let target = if Path::new(&split).is_dir() {
            split
        } else {
            format!("{TREE}/usr/{name}")
        };
        symlink(&target, format!("/{name}")).with_context(|| format!("cannot link /{name} to {target}"))?;
    }
    Ok(())
}

fn load_modules() -> Result<()> {
    let order = fs::read_to_string(MODULE_ORDER_FILE).context("the initramfs has no list of modules")?;
    order.lines().try_for_each(|path| load(path, ""))
}

fn load(path: &str, parameters: &str) -> Result<()> {
    let module = File::open(path).with_context(|| format!("cannot open {path}"))?;
    let parameters = CString::new(parameters)?;
    finit_module(&module, &parameters, 0).with_context(|| format!("cannot load {path}"))
}

/// KVM's modules of the list, the core first.
fn kvm_modules() -> Result<Vec<String>> {
    let order = fs::read_to_string(MODULE_ORDER_FILE).context("the initramfs has no list of modules")?;
    Ok(order
        .lines()
        .filter(|path| path.starts_with("/modules/kvm"))
        .map(str::to_owned)
        .collect())
}

/// Unloads the processor's module and then the core, which its users have `patience` to release.
pub fn unload_kvm(patience: Duration) -> Result<()> {
    for path in kvm_modules()?.iter().rev() {
        let name = path.trim_start_matches("/modules/").trim_end_matches(".ko");
        let deadline = Instant::now() + patience;
        while let Err(error) = delete_module(&CString::new(name)?, OFlags::NONBLOCK.bits().cast_signed()) {
            if Instant::now() > deadline {
                return Err(error).with_context(|| format!("cannot unload {name}"));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    Ok(())
}

/// Loads them again; `parameters` are the processor's module's.
pub fn load_kvm(parameters: &str) -> Result<()> {
    let modules = kvm_modules()?;
    let last = modules.len().saturating_sub(1);
    modules
        .iter()
        .enumerate()
        .try_for_each(|(n, path)| load(path, if n == last { parameters } else { "" }))
}

fn mount_on(kind: &str, source: &str, target: &str, flags: MountFlags, options: &str) -> Result<()> {
    fs::create_dir_all(target).with_context(|| format!("cannot create {target}"))?;
    let options = CString::new(options)?;
    mount(source, target, kind, flags, options.as_c_str()).with_context(|| format!("cannot mount {target}"))
}

/// The same once the kernel has had time to free what nothing holds any more, which it does a little later.
pub fn left_attached() -> Vec<String> {
    const TRIES: usize = 10;
    for _ in 0..TRIES {
        if attached().is_empty() {
            break;
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    attached()
}

/// BPF programs that are loaded (a link holds one), probes, and what is pinned in the BPF file system.
pub fn attached() -> Vec<String> {
    let mut found = Vec::new();
    for file in [
        "/sys/kernel/debug/kprobes/list",
        "/sys/kernel/tracing/enabled_functions",
    ] {
        let text = fs::read_to_string(file).unwrap_or_default();
        found.extend(text.lines().map(|line| format!("{file}: {line}")));
    }
    let symbols = fs::read_to_string("/proc/kallsyms").unwrap_or_default();
    // dump_bpf_map and dump_bpf_prog are the kernel's own.
    let programs = symbols.lines().filter(|line| {
        line.ends_with("[bpf]") && line.contains(" bpf_prog_") && !line.contains("_dump_bpf_")
    });
    found.extend(programs.map(str::to_owned));
    if let Ok(entries) = fs::read_dir("/sys/fs/bpf") {
        let names = entries.flatten().map(|entry| entry.path().display().to_string());
        // The kernel's own iterators, where it was built with them.
        found.extend(names.filter(|name| !name.ends_with(".debug")));
    }
    found
}

/// The kernel's messages on the console would interrupt our own.
pub fn quiet_console() -> Result<()> {
    fs::write("/proc/sys/kernel/printk", "1").context("cannot silence the console")
}

pub fn name(hostname: &str) -> Result<()> {
    sethostname(hostname.as_bytes()).context("cannot set the host's name")
}

pub fn kernel_release() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

/// Gives simulated poison's page back, so that the next storm begins as the first did.
pub fn forget_poison(pfn: u64, log: &Log) {
    let file = "/sys/kernel/debug/hwpoison/unpoison-pfn";
    if let Err(error) = fs::write(file, format!("{pfn:#x}")) {
        log.line(&format!("lab: cannot give page frame {pfn:#x} back: {error}"));
    }
}

/// The same with all frames that the kernel has reported, after which a daemon starts on a host that never lost memory. After an
/// error of the machine itself the kernel gives none back.
pub fn forget_all_poison(log: &Log) -> Result<()> {
    if !hardware_corrupted()? {
        return Ok(());
    }
    let lost: BTreeSet<u64> = kernel_log()?
        .iter()
        .filter_map(|line| line.split_once("Memory failure: 0x")?.1.split_once(':'))
        .filter_map(|(frame, _)| u64::from_str_radix(frame, 16).ok())
        .collect();
    lost.into_iter().for_each(|pfn| forget_poison(pfn, log));
    Ok(())
}

/// Whether the kernel counts memory as lost.
pub fn hardware_corrupted() -> Result<bool> {
    let memory = fs::read_to_string("/proc/meminfo").context("cannot read /proc/meminfo")?;
    let corrupted = |line: &str| line.starts_with("HardwareCorrupted:") && !line.ends_with(" 0 kB");
    Ok(memory.lines().any(corrupted))
}

/// Notes the kernel's taint, which a warning changes.
pub fn log_taint(log: &Log) {
    let taint = fs::read_to_string("/proc/sys/kernel/tainted").unwrap_or_default();
    log.line(&format!("[{:9.3}] {TAINT}{}", uptime(), taint.trim()));
}

/// Copies the kernel's log to the end of `log`.
pub fn append_kernel_log(log: &Log) -> Result<()> {
    log_taint(log);
    log.line(KERNEL_LOG);
    for line in kernel_log()? {
        log.line(&line);
    }
    Ok(())
}

/// All records of the kernel's log, as dmesg prints them.
pub fn kernel_log() -> Result<Vec<String>> {
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let mut kmsg = OpenOptions::new()
        .read(true)
        .custom_flags(flags)
        .open("/dev/kmsg")?;
    let mut lines = Vec::new();
    let mut record = [0; 8192];
    loop {
        match kmsg.read(&mut record) {
            Ok(length) => lines.extend(readable(&String::from_utf8_lossy(&record[..length]))),
            // The oldest records were overwritten meanwhile; the next read goes on behind them.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(lines),
            Err(error) => return Err(error).context("cannot read the kernel's log"),
        }
    }
}

/// `priority,sequence,microseconds,flags;text`, then lines of no interest here.
fn readable(record: &str) -> Option<String> {
    let (head, text) = record.lines().next()?.split_once(';')?;
    let micros: u64 = head.split(',').nth(2)?.parse().ok()?;
    Some(format!(
        "[{:5}.{:06}] {text}",
        micros / 1_000_000,
        micros % 1_000_000
    ))
}

/// The share's file system holds writes back; the other side reads them after our last word.
pub fn write_back() {
    rustix::fs::sync();
    // Fails where something has a file open still.
    unmount(SHARE, UnmountFlags::empty()).ok();
}

/// Does not return, unless the kernel refuses.
pub fn power_off() {
    if let Err(error) = reboot(RebootCommand::PowerOff) {
        println!("cannot power off: {error}");
    }
}
