//! How a process ended, by the audit subsystem, systemd and its core dumps; Firecracker's own end.

use super::{Fields, Wording, kernel::other};
use crate::trace::record::decimal;
use poisontrace_model::{
    event::log_statement::{Ended, LogStatement, Role},
    text::sanitise,
};

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

/// `pid=221 comm="fc_vcpu 0" exe="…" sig=7 res=1`.
fn abnormal_end(f: &Fields<'_>) -> Option<LogStatement> {
    let fields = f.bytes("fields")?;
    let value = |key: &[u8]| {
        let at = memchr::memmem::find(fields, key)?;
        let begins = at == 0 || fields.get(at - 1) == Some(&b' ');
        begins.then(|| &fields[at + key.len()..])
    };
    let number = |key: &[u8]| {
        let rest = value(key)?;
        let end = rest
            .iter()
            .position(|b| !b.is_ascii_digit())
            .unwrap_or(rest.len());
        u32::try_from(decimal(&rest[..end])?).ok()
    };
    let comm = value(b"comm=\"").and_then(|rest| Some(&rest[..memchr::memchr(b'"', rest)?]));
    Some(LogStatement::ProcessEnded {
        who: sanitise(&String::from_utf8_lossy(comm.unwrap_or(b"?")), 64),
        pid: Some(number(b"pid=")?),
        how: Ended::Signal(number(b"sig=")?),
    })
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
    })
}

fn core_dump(f: &Fields<'_>) -> Option<LogStatement> {
    Some(LogStatement::ProcessEnded {
        who: f.text("comm", 64)?,
        pid: f.u32("pid"),
        how: Ended::Signal(f.u32("signal")?),
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
