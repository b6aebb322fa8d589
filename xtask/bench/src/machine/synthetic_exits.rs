//! Exits of a VM, played by system calls: a kernel that runs no guest still runs our programs, on tracepoints that are as
//! frequent as one likes. What kvm_exit's fields would be are the arguments of the call, at the same distances.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use aya::programs::Program;
use poisontrace_kernel_facts::{facts::Facts, plan::Plan};
use poisontrace_sources::probes::load::Loaded;

/// Where `raw_syscalls:sys_enter` has its number and its arguments.
const NUMBER: u32 = 8;
const NUMBER_UPPER: u32 = 12;
const FIRST: u32 = 16;
const FIFTH: u32 = 48;
const SIXTH: u32 = 56;
const SIXTH_UPPER: u32 = 60;
const VMX: u64 = 1;
/// Their exits are all sent.
const EXITS_A_PAGE: u64 = 256;
const LINE: u64 = 64;
const PAGE: u64 = 4096;

/// Programs of an object, attached where a system call is an exit.
pub struct Played {
    pub loaded: Loaded,
}

/// A program on a tracepoint.
#[derive(Clone, Copy)]
pub struct Hook {
    pub program: &'static str,
    pub on: &'static str,
}

/// In the order in which they are to run.
pub const STANDBY: [Hook; 2] = [
    hook("kvm_exit_standby", "sys_enter"),
    hook("kvm_entry_standby", "sys_exit"),
];
pub const ARMED: [Hook; 2] = [hook("kvm_exit", "sys_enter"), hook("kvm_entry", "sys_exit")];
pub const FAULT: [Hook; 3] = [
    hook("kvm_exit", "sys_enter"),
    hook("kvm_page_fault", "sys_enter"),
    hook("kvm_entry", "sys_exit"),
];
pub const POISON: [Hook; 5] = [
    hook("kvm_exit", "sys_enter"),
    hook("kvm_page_fault", "sys_enter"),
    hook("signal_generate_raw", "signal_generate"),
    hook("kvm_userspace_exit_raw", "sys_exit"),
    hook("kvm_entry", "sys_exit"),
];

const fn hook(program: &'static str, on: &'static str) -> Hook {
    Hook { program, on }
}

impl Played {
    pub fn load(object: &Path, facts: &Facts, armed: bool) -> Result<Self> {
        let object = fs::read(object).with_context(|| format!("cannot read {}", object.display()))?;
        let mut plan = Plan::new(facts, false);
        plan.offsets.extend([
            ("EXIT_REASON", NUMBER),
            ("EXIT_RIP", FIRST),
            ("EXIT_ISA", SIXTH),
            ("EXIT_VCPU", SIXTH_UPPER),
            ("FAULT_RIP", FIRST),
            ("FAULT_VCPU", SIXTH_UPPER),
            ("FAULT_ADDRESS", FIFTH),
            ("FAULT_CODE_U64", SIXTH),
            // Of sys_exit: the number and what the call returned.
            ("ENTRY_VCPU", NUMBER_UPPER),
            ("ENTRY_RIP", NUMBER),
        ]);
        let loaded =
            Loaded::unattached(&object, plan, facts, armed, 0, None).map_err(|error| anyhow!("{error}"))?;
        Ok(Self { loaded })
    }

    /// Attaches programs; they stay until the object is dropped.
    pub fn attach(&mut self, hooks: &[Hook]) -> Result<()> {
        for hook in hooks {
            let program = self.loaded.ebpf.program_mut(hook.program).context(hook.program)?;
            match program {
                Program::TracePoint(program) => {
                    program.load()?;
                    program.attach("raw_syscalls", hook.on)?;
                }
                Program::RawTracePoint(program) => {
                    program.load()?;
                    program.attach(hook.on)?;
                }
                _ => bail!("{} is on no tracepoint", hook.program),
            }
        }
        Ok(())
    }

    /// Detaches a raw tracepoint's program.
    pub fn detach(&mut self, hook: &Hook) -> Result<()> {
        match self.loaded.ebpf.program_mut(hook.program) {
            Some(Program::RawTracePoint(program)) => Ok(program.unload()?),
            _ => bail!("{} is no raw tracepoint's program", hook.program),
        }
    }

    /// Runs and time of programs.
    pub fn costs(&self, hooks: &[Hook]) -> Result<Vec<(u64, Duration)>> {
        hooks
            .iter()
            .map(|hook| {
                let program = self.loaded.ebpf.program(hook.program).context(hook.program)?;
                let info = program.info()?;
                Ok((info.run_count(), info.run_time()))
            })
            .collect()
    }
}

/// An exit that touches no memory, and the way back.
pub fn exit(n: u64) {
    // SAFETY: the call takes no arguments; the kernel shows those that it is given to its tracepoints.
    unsafe { libc::syscall(libc::SYS_getppid, 0, 0, 0, 0, address(n), VMX) };
}

/// An exit on poison: KVM's answer to it is a SIGBUS.
pub struct Poison {
    signal: Siginfo,
    pid: libc::pid_t,
    tid: libc::pid_t,
}

/// The part of `siginfo_t` that the kernel reads (uapi `asm-generic/siginfo.h`).
#[repr(C)]
struct Siginfo {
    signo: i32,
    errno: i32,
    code: i32,
    pad: i32,
    addr: u64,
    lsb: u64,
    rest: [u64; 12],
}

const _: () = assert!(size_of::<Siginfo>() == 128);

const BUS_MCEERR_AR: i32 = 4;
const BUS_MCEERR_AO: i32 = 5;

/// Ignores SIGBUS from now on, or takes its default action; its tracepoint fires even where it is ignored.
pub fn ignore_sigbus(ignore: bool) -> Result<()> {
    let action = if ignore { libc::SIG_IGN } else { libc::SIG_DFL };
    // SAFETY: no handler is installed.
    let before = unsafe { libc::signal(libc::SIGBUS, action) };
    ensure!(
        before != libc::SIG_ERR,
        "signal(SIGBUS): {}",
        std::io::Error::last_os_error()
    );
    Ok(())
}

impl Poison {
    /// Of the current thread.
    pub fn new(hva: u64) -> Self {
        Self {
            signal: Siginfo {
                signo: libc::SIGBUS,
                errno: 0,
                code: BUS_MCEERR_AR,
                pad: 0,
                addr: hva,
                lsb: 12,
                rest: [0; 12],
            },
            pid: rustix::process::getpid().as_raw_pid(),
            tid: rustix::thread::gettid().as_raw_pid(),
        }
    }

    /// The notice that comes before any exit.
    pub fn early(mut self) -> Self {
        self.signal.code = BUS_MCEERR_AO;
        self
    }

    /// The n-th exit.
    pub fn exit(&self, n: u64) -> Result<()> {
        // SAFETY: the kernel reads 128 bytes at `signal`. The two arguments that the call does not have it shows to its
        // tracepoints.
        let sent = unsafe {
            libc::syscall(
                libc::SYS_rt_tgsigqueueinfo,
                self.pid,
                self.tid,
                libc::SIGBUS,
                &raw const self.signal,
                address(n),
                VMX,
            )
        };
        ensure!(
            sent == 0,
            "rt_tgsigqueueinfo: {}",
            std::io::Error::last_os_error()
        );
        Ok(())
    }
}

/// A walk over the lines of a page, some pages one after the other.
fn address(n: u64) -> u64 {
    (n / EXITS_A_PAGE) * PAGE + n % (PAGE / LINE) * LINE
}
