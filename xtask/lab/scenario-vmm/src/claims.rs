//! Poison that no kernel has lost, as any user can have it: signals that a process sends itself, and memory that
//! userfaultfd marks (UFFDIO_POISON, Linux 6.6).

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kvm_ioctls::Kvm;
use rustix::mm::{Advice, MapFlags, ProtFlags, UserfaultfdFlags, madvise, mmap_anonymous, userfaultfd};
use rustix::process::{Pid, PidfdFlags, getpid, pidfd_open};
use storm_vmm::memory::PAGE;

use crate::signals::{self, OnSigbus};

/// `si_code` of poison: action required, and action optional.
const CODES: [u32; 2] = [4, 5];
/// More than one process may have incidents of (256), and more than the programs let pass at this pace.
const SIGNALS: u64 = 3000;
const PACE: Duration = Duration::from_micros(1200);
/// Where no page of this process lies.
const NOWHERE: u64 = 0x7abc_0000_0000;
/// Pages that are marked.
const MARKED: u64 = 300;
static SEEN: AtomicU64 = AtomicU64::new(0);
/// For the daemon to look at the process while it lives.
const AFTERLIFE: Duration = Duration::from_secs(2);

/// `siginfo_t` by words of 8 bytes, as the kernel takes it (uapi `asm-generic/siginfo.h`): number and errno, code, address,
/// log2 of the lost range.
fn poison_info(code: u32, address: u64) -> [u64; 16] {
    let mut words = [0; 16];
    words[0] = libc::SIGBUS as u64;
    words[1] = u64::from(code);
    words[2] = address;
    words[3] = 12;
    words
}

/// The system calls by which a process hands over a `siginfo_t` of its own making.
#[derive(Clone, Copy)]
enum By {
    Process,
    Thread,
    Pidfd,
}

fn send(by: By, to: Pid, pidfd: i32, info: &[u64; 16]) -> io::Result<()> {
    let (pid, info) = (to.as_raw_nonzero().get(), ptr::from_ref(info));
    // SAFETY: the kernel reads 128 bytes, the size of `info`, and integers.
    let done = unsafe {
        match by {
            By::Process => libc::syscall(libc::SYS_rt_sigqueueinfo, pid, libc::SIGBUS, info),
            By::Thread => libc::syscall(libc::SYS_rt_tgsigqueueinfo, pid, pid, libc::SIGBUS, info),
            By::Pidfd => libc::syscall(libc::SYS_pidfd_send_signal, pidfd, libc::SIGBUS, info, 0),
        }
    };
    match done {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Sends itself signals of poison, with a VM open or without.
pub fn forge(with_vm: bool) -> Result<()> {
    let _vm = with_vm
        .then(|| Kvm::new()?.create_vm())
        .transpose()
        .context("no VM")?;
    signals::handle(OnSigbus::Note)?;
    let own = getpid();
    let pidfd = pidfd_open(own, PidfdFlags::empty()).context("pidfd_open")?;
    let parent = rustix::process::getppid().context("no parent")?;
    let refused = send(By::Process, parent, 0, &poison_info(CODES[0], NOWHERE));
    ensure!(
        refused.is_err(),
        "another process was sent a signal of the kernel's kind"
    );
    let mut sent = 0;
    for n in 0..SIGNALS {
        let by = [By::Process, By::Thread, By::Pidfd][n as usize % 3];
        let info = poison_info(CODES[n as usize / 3 % 2], NOWHERE + n * PAGE);
        sent += u64::from(send(by, own, pidfd.as_raw_fd(), &info).is_ok());
        sleep(PACE);
    }
    println!("{sent} signals sent to itself");
    ensure!(sent > 0, "the kernel refused all signals");
    sleep(AFTERLIFE);
    Ok(())
}

#[repr(C)]
struct Api {
    api: u64,
    features: u64,
    ioctls: u64,
}

#[repr(C)]
struct Register {
    start: u64,
    len: u64,
    mode: u64,
    ioctls: u64,
}

#[repr(C)]
struct Poison {
    start: u64,
    len: u64,
    mode: u64,
    updated: i64,
}

/// Version of the interface, and the feature UFFD_FEATURE_POISON (uapi `linux/userfaultfd.h`).
const UFFD_API: u64 = 0xaa;
const FEATURE_POISON: u64 = 1 << 14;
const MODE_MISSING: u64 = 1;
/// As any user may open it, whatever vm.unprivileged_userfaultfd is.
const USER_MODE_ONLY: u32 = 1;
// _IOWR(0xaa, number, structure).
const UFFDIO_API: libc::Ioctl = 0xc018_aa3f;
const UFFDIO_REGISTER: libc::Ioctl = 0xc020_aa00;
const UFFDIO_POISON: libc::Ioctl = 0xc020_aa08;

fn ask<T>(uffd: &File, request: libc::Ioctl, argument: &mut T, what: &'static str) -> Result<()> {
    // SAFETY: each request has the structure that it is asked with, which lives until the call is over.
    let done = unsafe { libc::ioctl(uffd.as_raw_fd(), request, ptr::from_mut(argument)) };
    match done {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()).context(what),
    }
}

/// Marks pages of this process as poisoned; what they held is gone. They are so as long as the file lives.
pub fn mark(start: u64, len: u64) -> Result<File> {
    let at = ptr::with_exposed_provenance_mut(start as usize);
    // SAFETY: the range is one of the guest's memory, or of a mapping that holds nothing of this program.
    unsafe { madvise(at, len as usize, Advice::LinuxDontNeed) }.context("madvise(MADV_DONTNEED)")?;
    // SAFETY: the descriptor is used on that range alone.
    let uffd = unsafe {
        userfaultfd(UserfaultfdFlags::CLOEXEC | UserfaultfdFlags::from_bits_retain(USER_MODE_ONLY))
    };
    let uffd = File::from(uffd.context("userfaultfd")?);
    let mut api = Api {
        api: UFFD_API,
        features: FEATURE_POISON,
        ioctls: 0,
    };
    ask(&uffd, UFFDIO_API, &mut api, "UFFDIO_API")?;
    let mut register = Register {
        start,
        len,
        mode: MODE_MISSING,
        ioctls: 0,
    };
    ask(&uffd, UFFDIO_REGISTER, &mut register, "UFFDIO_REGISTER")?;
    let mut poison = Poison {
        start,
        len,
        mode: 0,
        updated: 0,
    };
    ask(&uffd, UFFDIO_POISON, &mut poison, "UFFDIO_POISON")?;
    Ok(uffd)
}

/// Takes the mark away: the access is then made again, and succeeds.
extern "C" fn replace(_: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    SEEN.fetch_add(1, Ordering::SeqCst);
    // SAFETY: installed with SA_SIGINFO, so the kernel hands over a valid siginfo. It is sent for marked pages alone, which
    // hold nothing; mmap(2) is a system call and takes no lock here.
    unsafe {
        let page = (*info).si_addr().addr() as u64 & !(PAGE - 1);
        let _ = mmap_anonymous(
            ptr::with_exposed_provenance_mut(page as usize),
            PAGE as usize,
            ProtFlags::READ | ProtFlags::WRITE,
            MapFlags::PRIVATE | MapFlags::FIXED,
        );
    }
}

/// Reads pages of its own that it has marked, with a VM open: for each, the kernel sends it the signal of poison.
pub fn read_marked() -> Result<()> {
    let _vm = Kvm::new().and_then(|kvm| kvm.create_vm()).context("no VM")?;
    signals::with_address(replace)?;
    // SAFETY: a new mapping at an address of the kernel's choice touches nothing that exists.
    let memory = unsafe {
        mmap_anonymous(
            ptr::null_mut(),
            (MARKED * PAGE) as usize,
            ProtFlags::READ | ProtFlags::WRITE,
            MapFlags::PRIVATE,
        )
    }
    .context("no memory")?;
    let start = memory.expose_provenance() as u64;
    let _uffd = mark(start, MARKED * PAGE)?;
    for n in 0..MARKED {
        let at = ptr::with_exposed_provenance::<u8>((start + n * PAGE) as usize);
        // SAFETY: the page is mapped; what comes of the access is a signal, which is what it is for.
        unsafe { at.read_volatile() };
        sleep(PACE);
    }
    let seen = SEEN.load(Ordering::SeqCst);
    println!("{seen} signals for {MARKED} marked pages");
    ensure!(seen == MARKED, "not a signal for each page");
    sleep(AFTERLIFE);
    Ok(())
}
