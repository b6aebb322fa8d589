//! Processes without end that send themselves the signals of poison: they push no process out that the kernel has sent one.

use std::{io, os::unix::process::CommandExt as _, process::Command};

use aya::maps::HashMap;
use poisontrace_kernel_facts::{
    facts::Facts,
    plan::{Attach, Binding},
};

use crate::common;

/// More than the kernel's table has room for.
const PROCESSES: usize = 4096 + 512;
const BUS_MCEERR_AR: u64 = 4;

#[test]
fn a_flood_of_claims_pushes_no_victim_out() {
    common::where_there_is_tracefs("claimants::flood");
}

/// Sends itself the signal of poison, as any process may.
fn claim() -> io::Result<()> {
    // `siginfo_t` by words: number and errno, code, address, log2 of the range.
    let mut info = [0_u64; 16];
    info[..4].copy_from_slice(&[libc::SIGBUS as u64, BUS_MCEERR_AR, 0x7abc_0000_0000, 12]);
    // SAFETY: system calls of the child alone; the kernel reads 128 bytes, the size of `info`.
    let sent = unsafe {
        libc::signal(libc::SIGBUS, libc::SIG_IGN);
        libc::syscall(
            libc::SYS_rt_sigqueueinfo,
            libc::getpid(),
            libc::SIGBUS,
            info.as_ptr(),
        )
    };
    match sent {
        // Nothing is to be started: the child is done.
        0 => Err(io::Error::from_raw_os_error(libc::EINTR)),
        _ => Err(io::Error::last_os_error()),
    }
}

#[test]
#[ignore = "is run by the first test, where there is tracefs"]
fn flood() {
    let facts = Facts::of_this_kernel().unwrap();
    let signals = Attach {
        program: "signal_generate_raw",
        binding: Binding::RawTracepoint("signal_generate"),
    };
    let row = common::row("signals", vec![signals]);
    let Some(mut loaded) = common::loaded(common::plan(&facts, vec![row]), &facts, true, None) else {
        return;
    };
    let victim = std::process::id();
    let victims = loaded.ebpf.map_mut("VICTIMS").unwrap();
    let mut victims: HashMap<_, u32, u64> = HashMap::try_from(victims).unwrap();
    victims.insert(victim, 1, 0).unwrap();
    for _ in 0..PROCESSES {
        let mut command = Command::new("/proc/self/exe");
        // SAFETY: `claim` makes system calls only, and allocates nothing.
        let command = unsafe { command.pre_exec(claim) };
        let error = command.spawn().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::Interrupted, "{error}");
    }
    let victims = loaded.ebpf.map("VICTIMS").unwrap();
    let victims: HashMap<_, u32, u64> = HashMap::try_from(victims).unwrap();
    let known: Vec<u32> = victims.keys().flatten().collect();
    println!("{} victims after {PROCESSES} claims", known.len());
    assert!(known.contains(&victim), "a claim has pushed it out");
    let claimants = loaded.ebpf.map("CLAIMANTS").unwrap();
    let claimants: HashMap<_, u32, u64> = HashMap::try_from(claimants).unwrap();
    assert!(
        claimants.keys().flatten().count() > PROCESSES / 2,
        "the signals were not seen"
    );
}
