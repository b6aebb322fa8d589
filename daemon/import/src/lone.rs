//! Statements that are an incident only where nothing else in all files is one: a VMM that SIGBUS ended, a kernel's panic of
//! which nothing shows whether it is the host's or a guest's. Beside other evidence they add to it, or are of others.

use super::{
    joins,
    speakers::{self, Attributed},
    text::program,
};
use poisontrace_model::{
    event::log_statement::{Ended, LogStatement, Role},
    incident::log_evidence,
};

const SIGBUS: u32 = 7;
/// Firecracker's exit status after SIGBUS (`FcExitCode::SIGBUS`).
const FIRECRACKER_SIGBUS: u32 = 149;

/// Marks them, where nothing else opens an incident.
pub fn mark(all: &mut [Attributed<'_>]) {
    if all.iter().any(opens) {
        return;
    }
    if mark_ends(all, of_vmm) || mark_ends(all, of_unit) {
        return;
    }
    for entry in all {
        if let LogStatement::GuestPanic { text } = &entry.statement
            && entry.role == Role::Kernel
            && log_evidence::states_machine_check(text)
        {
            entry.statement = LogStatement::KernelPanic { text: text.clone() };
        }
    }
}

/// Whether a statement is an incident by itself.
pub fn opens(entry: &Attributed<'_>) -> bool {
    let of_process = speakers::is_of_a_process(&entry.statement);
    let unknown = matches!(&entry.statement, LogStatement::GuestPanic { .. }) && entry.role == Role::Kernel;
    log_evidence::opens(&entry.statement) && (!of_process || entry.of_vmm) && !unknown
}

fn mark_ends(all: &mut [Attributed<'_>], of: fn(&str, Option<u32>) -> bool) -> bool {
    let mut marked = false;
    for entry in all {
        if let LogStatement::ProcessEnded { who, pid, how, lone } = &mut entry.statement
            && matches!(how, Ended::Signal(SIGBUS) | Ended::Exit(FIRECRACKER_SIGBUS))
            && of(who, *pid)
        {
            (*lone, marked) = (true, true);
        }
    }
    marked
}

fn of_vmm(who: &str, pid: Option<u32>) -> bool {
    pid.is_some() && program::is_vmm(who)
}

fn of_unit(who: &str, pid: Option<u32>) -> bool {
    pid.is_none() && joins::of_a_vm(who)
}
