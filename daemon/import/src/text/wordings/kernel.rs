//! Linux: `mm/memory-failure.c`. Host and guest print the same lines.

use super::{Fields, Wording};
use poisontrace_model::event::log_statement::{LogStatement, Role};

pub const WORDINGS: &[Wording] = &[
    Wording {
        program: "Linux, mm/memory-failure.c kill_proc()",
        versions: "5.3 to 7.3",
        role: Role::Kernel,
        shape: "Memory failure: {pfn:hex}: Sending SIGBUS to {comm}:{pid:dec} due to hardware memory corruption",
        read: signal,
        line: "Memory failure: 0xf7eb: Sending SIGBUS to qemu-system-x86:221 due to hardware memory corruption",
    },
    Wording {
        program: "Linux, mm/memory-failure.c action_result()",
        versions: "4.7 to 7.3",
        role: Role::Kernel,
        shape: "Memory failure: {pfn:hex}: recovery action for {type}: {result:word}",
        read: action,
        line: "Memory failure: 0xf7eb: recovery action for dirty LRU page: Recovered",
    },
];

fn signal(fields: &Fields<'_>) -> Option<LogStatement> {
    Some(LogStatement::HostSignal {
        pfn: fields.hex("pfn")?,
        comm: fields.text("comm", 64)?,
        pid: fields.u32("pid")?,
    })
}

fn action(fields: &Fields<'_>) -> Option<LogStatement> {
    Some(LogStatement::HostAction {
        pfn: fields.hex("pfn")?,
        page_type: fields.text("type", 64)?,
        result: fields.text("result", 64)?,
    })
}
