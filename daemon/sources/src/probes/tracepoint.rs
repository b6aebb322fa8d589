//! A tracepoint's perf event of our own. It can be kept in reserve: it is opened while that is allowed, and gets its
//! program when there is poison, which takes no privilege. Until then the kernel leaves the event's handler at once, as
//! nobody listens (`perf_trace_##call`, include/trace/perf.h): no field is laid out.
//!
//! It is never enabled. A program does not ask for that, and an enabled event is on its processor's list of those who
//! listen: after a program that returns 1, as ours do lest they hide the event from others, the kernel would lay out a
//! sample for it (`perf_trace_run_bpf_submit()`, kernel/events/core.c).

use std::{
    fs, io,
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
    path::Path,
};

use aya::programs::{Program, ProgramError};
use aya_obj::generated::perf_event_attr;

use super::bpf;
use poisontrace_kernel_facts::facts::live::tracefs;

/// uapi `linux/perf_event.h`.
const PERF_TYPE_TRACEPOINT: u32 = 2;
const PERF_FLAG_FD_CLOEXEC: libc::c_ulong = 8;
/// `_IOW('$', 8, __u32)`.
const PERF_EVENT_IOC_SET_BPF: libc::c_ulong = 0x4004_2408;

/// See the module. Closing it detaches the program.
pub struct TracepointEvent(OwnedFd);

impl TracepointEvent {
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
        let program = program.fd()?.as_fd().as_raw_fd();
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
    /// As [`TracepointEvent::attach`], and if nothing can be pinned there.
    pub fn pin(self, program: &Program, path: &Path) -> Result<(), ProgramError> {
        bpf::link_perf_event(program.fd()?.as_fd(), self.0.as_fd())
            .and_then(|link| bpf::pin(link.as_fd(), path))
            .map_err(ProgramError::IOError)
    }
}
