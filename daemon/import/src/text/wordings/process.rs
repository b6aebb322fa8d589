//! How a process ended, by the audit subsystem, systemd and its core dumps; Firecracker's own end.

use super::{Fields, Wording, kernel::other};
use crate::{text::program, trace::record::decimal};
use poisontrace_model::{
    event::log_statement::{Ended, LogStatement, Role},
    text::sanitise,
};

const SIGBUS: u32 = 7;

const fn tool(
    program: &'static str,
    versions: &'static str,
    shape: &'static str,
    read: fn(&Fields<'_>) -> Option<LogStatement>,
    line: &'static str,
) -> Wording {
    Wording {
        program,
        versions,
        role: Role::Tool,
        shape,
        read,
        line,
    }
}

/// All of them.
pub const WORDINGS: &[Wording] = &[
    tool(
        "Linux, kernel/auditsc.c audit_core_dumps()",
        "all",
        "audit: type=1701 audit({stamp:word}): {fields}",
        abnormal_end,
        "audit: type=1701 audit(1795362334.123:456): auid=0 uid=0 gid=0 ses=1 pid=2001 comm=\"fc_vcpu 0\" exe=\"/usr/bin/firecracker\" sig=7 res=1",
    ),
    tool(
        "Linux, kernel/auditsc.c, without its own name",
        "all",
        "type=1701 audit({stamp:word}): {fields}",
        abnormal_end,
        "type=1701 audit(1795362334.123:456): auid=0 uid=0 gid=0 ses=1 pid=2001 comm=\"fc_vcpu 0\" sig=7 res=1",
    ),
    tool(
        "auditd's log",
        "all",
        "type=ANOM_ABEND msg=audit({stamp:word}): {fields}",
        abnormal_end,
        "type=ANOM_ABEND msg=audit(1795362334.123:456): auid=0 uid=0 gid=0 ses=1 pid=2001 comm=\"qemu-kvm\" exe=\"/usr/libexec/qemu-kvm\" sig=7 res=1",
    ),
    tool(
        "systemd-journald, audit",
        "all",
        "ANOM_ABEND {fields}",
        abnormal_end,
        "ANOM_ABEND auid=4294967295 uid=107 gid=107 ses=4294967295 pid=13404 comm=\"CPU 0/KVM\" exe=\"/usr/bin/qemu-system-x86_64\" sig=7 res=1",
    ),
    tool(
        "systemd",
        "231 on",
        "{unit:word}: Main process exited, code={code:word}, status={status:dec}/{name:word}",
        main_process,
        "fc@a.service: Main process exited, code=dumped, status=7/BUS",
    ),
    tool(
        "systemd-coredump",
        "249 on",
        "Process {pid:dec} ({comm}) of user {uid:dec} terminated abnormally with signal {signal:dec}/{name:word}, processing...",
        core_dump,
        "Process 13404 (qemu-system-x86) of user 107 terminated abnormally with signal 7/BUS, processing...",
    ),
    tool(
        "systemd-coredump",
        "all",
        "Process {pid:dec} ({comm}) of user {uid:dec} dumped core.",
        other,
        "Process 13404 (qemu-system-x86) of user 107 dumped core.",
    ),
    tool(
        "abrt-hook-ccpp",
        "2.x",
        "Process {pid:dec} ({comm}) of user {uid:dec} killed by SIG{name:word} - dumping core",
        abrt,
        "Process 13404 (qemu-kvm) of user 107 killed by SIGBUS - dumping core",
    ),
    tool(
        "ausearch -i",
        "all",
        "type=ANOM_ABEND msg=audit({stamp}) : {fields}",
        abnormal_end,
        "type=ANOM_ABEND msg=audit(11/22/2026 15:45:34.123:456) : auid=unset uid=qemu gid=qemu ses=unset subj=unconfined pid=13404 comm=CPU 0/KVM exe=/usr/bin/qemu-system-x86_64 sig=SIGBUS res=yes",
    ),
    Wording {
        program: "crosvm, src/crosvm/sys/linux.rs: a device's process",
        versions: "2021 on",
        role: Role::Vmm,
        shape: "[{when:word} ERROR {place:word}] child {label} (pid {pid:dec}) exited: signo {signo:dec}, status {status:dec}, code {code:dec}",
        read: crosvm,
        line: "[2026-03-02T02:19:16.667092811+00:00 ERROR crosvm::crosvm::sys::linux] child pcivirtio-block (pid 4545) exited: signo 17, status 7, code 3",
    },
    Wording {
        program: "crosvm, behind syslog",
        versions: "2021 on",
        role: Role::Vmm,
        shape: "child {label} (pid {pid:dec}) exited: signo {signo:dec}, status {status:dec}, code {code:dec}",
        read: crosvm,
        line: "child pcivirtio-block (pid 4545) exited: signo 17, status 7, code 3",
    },
    tool(
        "rasdaemon, ras-memory-failure-handler.c",
        "0.6.6 on, its journal and its standard output",
        "{task:word} [{cpu:dec}] {t:word} memory_failure_event: {date} pfn={pfn:hex} page_type={type} action_result={result:word}",
        rasdaemon,
        "kworker/0:1-71 [000] 0.003300: memory_failure_event: 2026-11-22 15:45:34 +0000 pfn=0xf7eb page_type=dirty LRU page action_result=Recovered",
    ),
    Wording {
        program: "Firecracker, src/vmm/src/signal_handler.rs",
        versions: "0.2x to 1.x",
        role: Role::Vmm,
        shape: "[{thread}] Shutting down VM after intercepting signal 7, code {code:dec}.",
        read: firecracker,
        line: "[anonymous-instance:fc_vcpu 0:ERROR:src/vmm/src/signal_handler.rs:42] Shutting down VM after intercepting signal 7, code 4.",
    },
    Wording {
        program: "Firecracker, without the name of its thread",
        versions: "0.2x to 1.x",
        role: Role::Vmm,
        shape: "Shutting down VM after intercepting signal 7, code {code:dec}.",
        read: firecracker,
        line: "Shutting down VM after intercepting signal 7, code 4.",
    },
    Wording {
        program: "Firecracker, the name of its thread broken by a mailer",
        versions: "0.2x to 1.x",
        role: Role::Vmm,
        shape: "{place:word}] Shutting down VM after intercepting signal 7, code {code:dec}.",
        read: firecracker,
        line: "0:ERROR:src/vmm/src/signal_handler.rs:42] Shutting down VM after intercepting signal 7, code 4.",
    },
];

/// `pid=221 comm="fc_vcpu 0" exe="…" sig=7 res=1`; a name with a blank is in hexadecimal digits (`comm=43505520302F4B564D`), and
/// `ausearch -i` writes it without quotation marks.
fn abnormal_end(f: &Fields<'_>) -> Option<LogStatement> {
    let fields = f.bytes("fields")?;
    let value = |key: &[u8]| {
        let at = memchr::memmem::find_iter(fields, key).find(|at| *at == 0 || fields[at - 1] == b' ')?;
        Some(&fields[at + key.len()..])
    };
    let number = |key: &[u8]| {
        let rest = value(key)?;
        let end = rest
            .iter()
            .position(|b| !b.is_ascii_digit())
            .unwrap_or(rest.len());
        u32::try_from(decimal(&rest[..end])?).ok()
    };
    let signal = match value(b"sig=") {
        Some(rest) if rest.starts_with(b"SIGBUS") => SIGBUS,
        _ => number(b"sig=")?,
    };
    let comm = value(b"comm=").map(name).unwrap_or_default();
    let exe = value(b"exe=").map(name).unwrap_or_default();
    Some(LogStatement::ProcessEnded {
        who: known_as(&comm, &exe),
        pid: Some(number(b"pid=")?),
        how: Ended::Signal(signal),
        lone: false,
    })
}

/// The value of a field of audit's.
fn name(rest: &[u8]) -> String {
    let quoted = rest.strip_prefix(b"\"").and_then(|rest| {
        let end = memchr::memchr(b'"', rest)?;
        Some(&rest[..end])
    });
    let text = match quoted {
        Some(text) => text.to_vec(),
        None => {
            // Up to the next field.
            let key = |at: &usize| {
                let word = rest[at + 1..].split(|b| *b == b' ').next().unwrap_or_default();
                memchr::memchr(b'=', word).is_some()
            };
            let end = memchr::memchr_iter(b' ', rest).find(key).unwrap_or(rest.len());
            let plain = &rest[..end];
            of_hex(plain).unwrap_or_else(|| plain.to_vec())
        }
    };
    sanitise(&String::from_utf8_lossy(&text), 64)
}

/// `43505520302F4B564D`: as the kernel writes names with blanks.
fn of_hex(text: &[u8]) -> Option<Vec<u8>> {
    const LEAST: usize = 4;
    if text.len() < LEAST || !text.len().is_multiple_of(2) || text.iter().any(u8::is_ascii_lowercase) {
        return None;
    }
    text.chunks(2)
        .map(|pair| crate::trace::hex(pair).and_then(|byte| u8::try_from(byte).ok()))
        .collect()
}

/// The process's name: that of its executable where it is a VMM's, else that of the thread.
pub fn known_as(comm: &str, exe: &str) -> String {
    let file = exe.rsplit('/').next().unwrap_or_default();
    match () {
        () if program::is_vmm(file) => sanitise(file, 64),
        () if program::is_vmm(comm) => comm.to_owned(),
        () if comm.is_empty() => "?".to_owned(),
        () => comm.to_owned(),
    }
}

fn main_process(f: &Fields<'_>) -> Option<LogStatement> {
    let is_unit = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'@' | b'-' | b'_' | b'.' | b':' | b'\\');
    if !f.bytes("unit")?.iter().all(is_unit)
        || !f
            .bytes("name")?
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || *b == b'/')
    {
        return None;
    }
    let status = f.u32("status")?;
    let how = match f.bytes("code")? {
        b"killed" | b"dumped" => Ended::Signal(status),
        b"exited" => Ended::Exit(status),
        _ => return None,
    };
    Some(LogStatement::ProcessEnded {
        who: f.text("unit", 128)?,
        pid: None,
        how,
        lone: false,
    })
}

fn core_dump(f: &Fields<'_>) -> Option<LogStatement> {
    Some(LogStatement::ProcessEnded {
        who: f.text("comm", 64)?,
        pid: f.u32("pid"),
        how: Ended::Signal(f.u32("signal")?),
        lone: false,
    })
}

fn abrt(f: &Fields<'_>) -> Option<LogStatement> {
    Some(match f.bytes("name")? {
        b"BUS" => LogStatement::ProcessEnded {
            who: f.text("comm", 64)?,
            pid: f.u32("pid"),
            how: Ended::Signal(SIGBUS),
            lone: false,
        },
        _ => LogStatement::Other,
    })
}

/// `code`: CLD_KILLED or CLD_DUMPED; then `status` is the signal.
fn crosvm(f: &Fields<'_>) -> Option<LogStatement> {
    let killed = matches!(f.dec("code")?, 2 | 3);
    Some(match (killed, f.u32("status")?) {
        (true, SIGBUS) => LogStatement::ProcessEnded {
            who: "crosvm".to_owned(),
            pid: f.u32("pid"),
            how: Ended::Signal(SIGBUS),
            lone: false,
        },
        _ => LogStatement::Other,
    })
}

fn firecracker(f: &Fields<'_>) -> Option<LogStatement> {
    if f.bytes("place").is_some_and(|place| {
        !place
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || b"/:._-".contains(b))
    }) {
        return None;
    }
    let code = i32::try_from(f.dec("code")?).ok()?;
    // BUS_ADRERR and the like is a shortage, not poison.
    Some(match code {
        4 | 5 => LogStatement::VmmSigbus { code: Some(code) },
        _ => LogStatement::Other,
    })
}

fn rasdaemon(f: &Fields<'_>) -> Option<LogStatement> {
    if !f.bytes("result")?.iter().all(u8::is_ascii_alphanumeric) {
        return None;
    }
    Some(LogStatement::HostAction {
        pfn: f.hex("pfn")?,
        page_type: f.text("type", 64)?,
        result: f.text("result", 64)?,
    })
}
