//! The VMM's handling of SIGBUS.

use std::mem;
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};

/// As [`handle`] is asked.
#[derive(Clone, Copy)]
pub enum OnSigbus {
    /// Noted, for when KVM_RUN returns.
    Note,
    /// Ends the process with status 149.
    Exit149,
    /// The first is noted; one that comes before it was dealt with is raised again with the default action.
    RaiseSecond,
}

static PENDING: AtomicBool = AtomicBool::new(false);

extern "C" fn note(_: libc::c_int) {
    PENDING.store(true, Ordering::SeqCst);
}

extern "C" fn exit_149(_: libc::c_int) {
    // SAFETY: async-signal-safe; takes an integer only.
    unsafe { libc::_exit(149) };
}

extern "C" fn raise_second(signal: libc::c_int) {
    if PENDING.swap(true, Ordering::SeqCst) {
        // SAFETY: both are async-signal-safe and take integers only; the signal is blocked until the handler returns.
        unsafe {
            libc::signal(signal, libc::SIG_DFL);
            libc::raise(signal);
        }
    }
}

/// Whether a SIGBUS has come that was not yet dealt with.
pub fn pending() -> bool {
    PENDING.load(Ordering::SeqCst)
}

/// It was dealt with.
pub fn done() {
    PENDING.store(false, Ordering::SeqCst);
}

pub fn handle(what: OnSigbus) -> Result<()> {
    let handler: extern "C" fn(libc::c_int) = match what {
        OnSigbus::Note => note,
        OnSigbus::Exit149 => exit_149,
        OnSigbus::RaiseSecond => raise_second,
    };
    act(handler as *const () as usize)
}

/// The process ends.
pub fn by_default() -> Result<()> {
    act(libc::SIG_DFL)
}

/// A handler that is given the address.
pub fn with_address(
    handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void),
) -> Result<()> {
    set(handler as *const () as usize, libc::SA_SIGINFO)
}

fn act(handler: libc::sighandler_t) -> Result<()> {
    set(handler, 0)
}

fn set(handler: libc::sighandler_t, flags: libc::c_int) -> Result<()> {
    // SAFETY: an all-zero sigaction is valid: no flags, empty mask.
    let mut action: libc::sigaction = unsafe { mem::zeroed() };
    action.sa_sigaction = handler;
    action.sa_flags = flags;
    // SAFETY: the handlers touch atomics, and call what is async-signal-safe.
    let set = unsafe { libc::sigaction(libc::SIGBUS, &raw const action, ptr::null_mut()) };
    checked(set, "sigaction(SIGBUS)")
}

/// Early notice (action optional), as QEMU asks for it.
pub fn early_notice() -> Result<()> {
    let (set, early) = (libc::PR_MCE_KILL_SET, libc::PR_MCE_KILL_EARLY);
    // SAFETY: takes integers only.
    checked(
        unsafe { libc::prctl(libc::PR_MCE_KILL, set, early, 0, 0) },
        "prctl(PR_MCE_KILL)",
    )
}

/// SIGBUS stays blocked; SIGALRM ends the process after `seconds`.
pub fn block(seconds: u32) -> Result<()> {
    // SAFETY: an all-zero set is one that sigemptyset makes valid; the calls write nothing else.
    let blocked = unsafe {
        let mut set: libc::sigset_t = mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGBUS);
        libc::alarm(seconds);
        libc::sigprocmask(libc::SIG_BLOCK, &raw const set, ptr::null_mut())
    };
    checked(blocked, "sigprocmask(SIGBUS)")
}

fn checked(result: libc::c_int, what: &'static str) -> Result<()> {
    if result != 0 {
        return Err(std::io::Error::last_os_error()).context(what);
    }
    Ok(())
}
