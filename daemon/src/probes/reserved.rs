//! A tracepoint's perf event of our own. It can be kept ready for a program: it is opened while that is allowed, and gets the
//! program when there is poison, which takes no privilege. Until then the kernel leaves the event's handler at once, as
//! nobody listens (`perf_trace_##call`, include/trace/perf.h): no field is laid out.
//!
//! It is never enabled. A program does not ask for that, and an enabled event is on its processor's list of those who
//! listen: after a program that returns 1, as ours do lest they hide the event from others, the kernel would lay out a
//! sample for it (`perf_trace_run_bpf_submit()`, kernel/events/core.c).

use std::{
    ffi::CString,
    fs, io,
    os::{
        fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use aya::programs::{Program, ProgramError};
use aya_obj::generated::perf_event_attr;

use crate::kernel::facts::live::tracefs;

/// uapi `linux/perf_event.h`.
const PERF_TYPE_TRACEPOINT: u32 = 2;
const PERF_FLAG_FD_CLOEXEC: libc::c_ulong = 8;
/// `_IOW('$', 8, __u32)`.
const PERF_EVENT_IOC_SET_BPF: libc::c_ulong = 0x4004_2408;

/// uapi `linux/bpf.h`: commands of bpf(2), and the attach type of a perf event's link.
const BPF_OBJ_PIN: libc::c_long = 6;
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_PERF_EVENT: u32 = 41;

/// bpf(2)'s argument for BPF_LINK_CREATE.
#[repr(C)]
struct LinkCreate {
    prog_fd: u32,
    target_fd: u32,
    attach_type: u32,
    flags: u32,
}

/// The same for BPF_OBJ_PIN.
#[repr(C)]
struct ObjPin {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

/// See the module. Closing it detaches the program.
pub struct Reserved(OwnedFd);

impl Reserved {
    /// Opens the event of a tracepoint.
    ///
    /// # Errors
    /// Those of tracefs and of perf_event_open(2).
    pub fn open(group: &str, name: &str) -> io::Result<Self> {
        let tracefs = tracefs(Path::new("/")).map_err(io::Error::other)?;
        let path = tracefs.join("events").join(group).join(name).join("id");
        let id: u64 = fs::read_to_string(path)?
            .trim()
            .parse()
            .map_err(io::Error::other)?;
        // SAFETY: all-zero is a valid perf_event_attr: plain numbers, and unions of them.
        let mut attr: perf_event_attr = unsafe { std::mem::zeroed() };
        attr.type_ = PERF_TYPE_TRACEPOINT;
        attr.size = size_of::<perf_event_attr>() as u32;
        attr.config = id;
        attr.set_disabled(1);
        // Of all threads on one CPU: that a program is attached to the tracepoint by it holds for all CPUs.
        let (pid, cpu, group_fd): (libc::pid_t, libc::c_int, libc::c_int) = (-1, 0, -1);
        // SAFETY: the kernel reads `size` bytes at `attr`, which lives until it returns.
        let fd = unsafe {
            libc::syscall(
                libc::SYS_perf_event_open,
                &raw const attr,
                pid,
                cpu,
                group_fd,
                PERF_FLAG_FD_CLOEXEC,
            )
        };
        let fd = i32::try_from(fd).map_err(io::Error::other)?;
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a descriptor that the kernel has just made, and that nobody else has.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Attaches a loaded program.
    ///
    /// # Errors
    /// If it is not loaded, or the kernel refuses.
    pub fn attach(&self, program: &Program) -> Result<(), ProgramError> {
        let program = raw(program)?;
        // SAFETY: both descriptors are open; the kernel takes no memory of ours.
        let done = unsafe { libc::ioctl(self.0.as_raw_fd(), PERF_EVENT_IOC_SET_BPF, program) };
        if done != 0 {
            return Err(ProgramError::IOError(io::Error::last_os_error()));
        }
        Ok(())
    }

    /// Attaches a loaded program by a link that is pinned at `path`, and that keeps the event: it outlives this process.
    /// From Linux 5.15 on.
    ///
    /// # Errors
    /// As [`Reserved::attach`], and if nothing can be pinned there.
    pub fn pin(self, program: &Program, path: &Path) -> Result<(), ProgramError> {
        let create = LinkCreate {
            prog_fd: raw(program)?.cast_unsigned(),
            target_fd: self.0.as_raw_fd().cast_unsigned(),
            attach_type: BPF_PERF_EVENT,
            flags: 0,
        };
        let link = bpf(BPF_LINK_CREATE, &create).map_err(ProgramError::IOError)?;
        // SAFETY: a descriptor that the kernel has just made, and that nobody else has.
        let link = unsafe { OwnedFd::from_raw_fd(link) };
        let name = CString::new(path.as_os_str().as_bytes())
            .map_err(|err| ProgramError::IOError(io::Error::other(err)))?;
        let pin = ObjPin {
            // The kernel reads what it points at.
            pathname: name.as_ptr().expose_provenance() as u64,
            bpf_fd: link.as_raw_fd().cast_unsigned(),
            file_flags: 0,
        };
        bpf(BPF_OBJ_PIN, &pin).map(drop).map_err(ProgramError::IOError)
    }
}

fn raw(program: &Program) -> Result<RawFd, ProgramError> {
    Ok(program.fd()?.as_fd().as_raw_fd())
}

/// bpf(2); what it returns.
fn bpf<T>(command: libc::c_long, attr: &T) -> io::Result<RawFd> {
    // SAFETY: the kernel reads `size_of::<T>()` bytes at `attr`, and takes the rest of its own structure for zero; what
    // those bytes point at lives as long as the caller's.
    let done = unsafe { libc::syscall(libc::SYS_bpf, command, &raw const *attr, size_of::<T>()) };
    match i32::try_from(done) {
        Ok(value @ 0..) => Ok(value),
        _ => Err(io::Error::last_os_error()),
    }
}
