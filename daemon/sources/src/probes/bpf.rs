//! What of bpf(2) the BPF library has no calls for.

use std::{
    ffi::CString,
    io, mem,
    os::{
        fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use aya_obj::generated::bpf_prog_info;

/// uapi `linux/bpf.h`: commands, and the attach type of a perf event's link.
const BPF_OBJ_PIN: libc::c_long = 6;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_PERF_EVENT: u32 = 41;

/// The argument for BPF_LINK_CREATE.
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

/// The same for BPF_OBJ_GET_INFO_BY_FD.
#[repr(C)]
struct GetInfo {
    bpf_fd: u32,
    info_len: u32,
    info: u64,
}

/// Attaches a program to a perf event by a link of its own. From Linux 5.15 on.
///
/// # Errors
/// The kernel's.
pub fn link_perf_event(program: BorrowedFd<'_>, event: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let create = LinkCreate {
        prog_fd: number(program),
        target_fd: number(event),
        attach_type: BPF_PERF_EVENT,
        flags: 0,
    };
    let link = bpf(BPF_LINK_CREATE, &create)?;
    // SAFETY: a descriptor that the kernel has just made, and that nobody else has.
    Ok(unsafe { OwnedFd::from_raw_fd(link) })
}

/// Pins a program, map or link: it then outlives this process.
///
/// # Errors
/// The kernel's.
pub fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let name = CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other)?;
    let pin = ObjPin {
        // The kernel reads what it points at.
        pathname: name.as_ptr().expose_provenance() as u64,
        bpf_fd: number(object),
        file_flags: 0,
    };
    bpf(BPF_OBJ_PIN, &pin).map(drop)
}

/// What the kernel knows of a loaded program; fields that an older kernel does not have are zero.
///
/// # Errors
/// The kernel's.
pub fn program_info(program: BorrowedFd<'_>) -> io::Result<bpf_prog_info> {
    // SAFETY: all-zero is a valid bpf_prog_info: plain numbers.
    let mut info: bpf_prog_info = unsafe { mem::zeroed() };
    let get = GetInfo {
        bpf_fd: number(program),
        info_len: size_of::<bpf_prog_info>() as u32,
        // The kernel writes what it points at.
        info: (&raw mut info).expose_provenance() as u64,
    };
    bpf(BPF_OBJ_GET_INFO_BY_FD, &get)?;
    Ok(info)
}

fn number(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd().cast_unsigned()
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
