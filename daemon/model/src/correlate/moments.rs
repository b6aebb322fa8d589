//! The timeline's words.

use super::pages::Signal;
use crate::{
    event::PoisonExit,
    incident::{
        evidence::{End, Sign, Told},
        mca,
        model::Severity,
        timeline::words::{self, Words},
    },
};

fn on(vcpu: Option<u32>) -> String {
    vcpu.map_or_else(|| "a vCPU".to_owned(), |vcpu| format!("vCPU {vcpu}"))
}

pub fn failure_begin(pfn: u64, flags: Option<u64>) -> String {
    match flags {
        Some(flags) => format!("memory_failure(pfn {pfn:#x}, flags {flags:#x}) on the host"),
        None => format!("memory_failure of pfn {pfn:#x} on the host"),
    }
}

pub fn found(pfn: u64, pid: u32, hva: u64) -> String {
    format!(
        "poisontrace finds pfn {pfn:#x} lost (/proc/kpageflags), at hva {hva:#x} of the VMM (pid {pid}): poisoned before it started"
    )
}

pub fn failure_again(pfn: u64) -> String {
    format!("the host reports pfn {pfn:#x} again")
}

pub fn failure_action(page_type: &str, result: &str) -> String {
    format!("host kernel: recovery action for {page_type}: {result}")
}

pub fn failure_end(ret: i64) -> String {
    format!("memory_failure returned {ret}")
}

pub fn sigbus(signal: &Signal, pid: u32, vcpu: Option<u32>) -> Words {
    Words::Signal(Box::new(words::Signal {
        severity: signal.severity,
        pid,
        tid: signal.target_tid,
        vcpu,
        hva: signal.hva,
    }))
}

pub fn poison_exit(exit: &PoisonExit, vcpu: Option<u32>) -> Words {
    Words::Exit(Box::new(words::Exit::new(exit, vcpu)))
}

pub fn told(told: &Told) -> String {
    let severity = match told.severity {
        Severity::Ao => "action optional",
        Severity::Ar => "action required",
        Severity::Broadcast => "broadcast",
        Severity::Other => "other",
    };
    let mc = if mca::raises_mc(told.bank.status.0) {
        "with #MC"
    } else {
        "without #MC"
    };
    format!(
        "the VMM tells {}: {severity}, {mc}; bank {} STATUS {} ({}) ADDR {} MISC {}",
        on(told.vcpu),
        told.bank.bank,
        told.bank.status,
        mca::flags(told.bank.status.0),
        told.bank.addr,
        told.bank.misc
    )
}

pub fn guest_code(rip: u64, bytes: &str) -> String {
    format!(
        "poisontrace reads {} bytes of the guest's code at RIP {rip:#x}: {bytes}",
        bytes.len() / 2
    )
}

pub fn delivered(vcpu: Option<u32>) -> String {
    format!("#MC enters the guest on {}", on(vcpu))
}

pub fn handler_finished(vcpu: Option<u32>) -> String {
    format!(
        "the guest's #MC handler on {} finished (MCG_STATUS = 0)",
        on(vcpu)
    )
}

pub fn end(end: &End, vcpu: Option<u32>) -> String {
    let words = sign(&end.sign, vcpu);
    match end {
        End { mine: false, .. } => format!("{words} (over another lost page)"),
        End { late: true, .. } if of_the_guest(&end.sign) => {
            format!("{words} (too late after the last sign of poison to be taken for its work)")
        }
        _ => words,
    }
}

const fn of_the_guest(sign: &Sign) -> bool {
    !matches!(sign, Sign::VmmExit(_) | Sign::VmmGone | Sign::VmDestroyed)
}

fn sign(sign: &Sign, vcpu: Option<u32>) -> String {
    match sign {
        Sign::Panic => "the guest's kernel reports a panic (pvpanic)".into(),
        Sign::CrashLoaded => "the guest's kernel panicked, its crash kernel takes over (pvpanic)".into(),
        Sign::ResetPort(port) => format!("the guest asks for a reset (port {port:#x})"),
        Sign::PowerOff => "the guest turns itself off".into(),
        Sign::TripleFault => format!("triple fault on {}", on(vcpu)),
        Sign::KvmShutdown => "KVM_EXIT_SHUTDOWN to the VMM".into(),
        Sign::SystemEvent => "KVM_EXIT_SYSTEM_EVENT to the VMM".into(),
        Sign::InternalError => "KVM could not go on (internal error or failed entry)".into(),
        Sign::PrivateMemory => "KVM_EXIT_MEMORY_FAULT to the VMM, errno EHWPOISON".into(),
        Sign::VcpuReset => format!("{} starts anew at the reset vector", on(vcpu)),
        Sign::VmmExit(status) => format!("the VMM is gone: {}", wait_status(*status)),
        Sign::VmmGone => "the VMM's threads that ran the guest are gone".into(),
        Sign::VmDestroyed => "the VM is destroyed".into(),
    }
}

/// A wait status in words.
pub fn wait_status(status: i32) -> String {
    match (status & 0x7f, (status >> 8) & 0xff) {
        (0, code) => format!("exit status {code}"),
        (signal, _) => format!("killed by signal {signal}"),
    }
}
