//! SIGBUS of poisoned memory, as a VMM handles it.

use std::mem;
use std::ptr;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};

use anyhow::{Context, Result};

static SEEN: AtomicU64 = AtomicU64::new(0);
static CODE: AtomicI32 = AtomicI32::new(0);
static ADDRESS: AtomicU64 = AtomicU64::new(0);

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Code {
    ActionRequired,
    ActionOptional,
    /// Not of poison at all.
    Other(i32),
}

#[derive(Clone, Copy)]
pub struct Sigbus {
    pub code: Code,
    pub address: u64,
}

extern "C" fn note(_: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: installed with SA_SIGINFO, so the kernel hands over a valid siginfo; SIGBUS has an address.
    let (code, address) = unsafe { ((*info).si_code, (*info).si_addr().addr()) };
    CODE.store(code, Ordering::SeqCst);
    ADDRESS.store(address as u64, Ordering::SeqCst);
    SEEN.fetch_add(1, Ordering::SeqCst);
}

/// Handles SIGBUS from here on, and asks for early notice, as QEMU does.
pub fn handle() -> Result<()> {
    // SAFETY: an all-zero sigaction is valid: no flags, empty mask.
    let mut action: libc::sigaction = unsafe { mem::zeroed() };
    action.sa_sigaction = note as *const () as usize;
    action.sa_flags = libc::SA_SIGINFO;
    set(&action)?;
    // SAFETY: takes integers only.
    let early = unsafe {
        libc::prctl(
            libc::PR_MCE_KILL,
            libc::PR_MCE_KILL_SET,
            libc::PR_MCE_KILL_EARLY,
            0,
            0,
        )
    };
    if early != 0 {
        return Err(std::io::Error::last_os_error()).context("prctl(PR_MCE_KILL)");
    }
    Ok(())
}

/// The signal that came since the last call. There is one thread, and KVM_RUN returns for each signal.
pub fn take() -> Option<Sigbus> {
    if SEEN.swap(0, Ordering::SeqCst) == 0 {
        return None;
    }
    Some(Sigbus {
        code: match CODE.load(Ordering::SeqCst) {
            libc::BUS_MCEERR_AR => Code::ActionRequired,
            libc::BUS_MCEERR_AO => Code::ActionOptional,
            other => Code::Other(other),
        },
        address: ADDRESS.load(Ordering::SeqCst),
    })
}

/// Ends the process by SIGBUS.
pub fn die() -> Result<()> {
    // SAFETY: as above; SIG_DFL is zero.
    set(&unsafe { mem::zeroed() })?;
    // SAFETY: takes an integer only.
    unsafe { libc::raise(libc::SIGBUS) };
    anyhow::bail!("alive after SIGBUS")
}

fn set(action: &libc::sigaction) -> Result<()> {
    // SAFETY: the handler touches atomics only, which is safe in a signal handler.
    let set = unsafe { libc::sigaction(libc::SIGBUS, action, ptr::null_mut()) };
    if set != 0 {
        return Err(std::io::Error::last_os_error()).context("sigaction(SIGBUS)");
    }
    Ok(())
}
