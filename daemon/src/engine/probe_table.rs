//! The probe table and what narrows the answers, as `run`, `record` and `check` print them.

use crate::{failure::Failure, terminal};
use poisontrace_kernel_facts::{
    facts::Facts,
    kvm::Kvm,
    plan::{HotPath, Plan},
};
use poisontrace_model::event::{probe::ProbeReason, session::Session};
use poisontrace_report::check::{self, Limit};
use poisontrace_sources::probes::{load::Loaded, probe::Probe};

/// One line a probe; with `verbose` the sizes of its programs below it.
pub fn print_probes(loaded: &Loaded, verbose: bool) -> Result<(), Failure> {
    let mut text = String::new();
    for row in loaded.rows() {
        text += &check::row(row.status());
        if verbose {
            text += &sizes(loaded, row);
        }
    }
    terminal::print(&text)
}

fn sizes(loaded: &Loaded, row: &Probe) -> String {
    loaded
        .sizes(row)
        .map(|size| check::program(size.program, size.translated, size.verified))
        .collect()
}

/// Whether the attached probes allow a verdict; prints the missing ones.
pub fn warn_without_verdict(session: &Session) -> Result<(), Failure> {
    let missing = Plan::verdict_needs(|probe| session.has(probe));
    if missing.is_empty() {
        return Ok(());
    }
    terminal::print(&check::verdict(&missing, false))
}

/// The same, printed in either case.
pub fn print_verdict(session: &Session, facts: &Facts) -> Result<bool, Failure> {
    let missing = Plan::verdict_needs(|probe| session.has(probe));
    let blind = limits(facts).contains(&Limit::OtherKvm);
    terminal::print(&check::verdict(&missing, blind))?;
    Ok(missing.is_empty())
}

/// Whether anything is attached to the hooks of every exit while there is no poison, and why.
pub fn print_hot_path(hot_path: &HotPath) -> Result<(), Failure> {
    terminal::print(&check::hot_path(reasons_of(hot_path)))
}

/// What of this is otherwise for the service, which gives up a capability that this process may keep.
pub fn print_hot_path_of_service(hot_path: &HotPath, facts: &Facts) -> Result<(), Failure> {
    let of_service = Plan::new(facts, false).on_poison(facts, true).hot_path;
    match (hot_path, reasons_of(&of_service)) {
        (HotPath::OnPoison, Some(why)) => terminal::print(&check::hot_path_of_service(why)),
        _ => Ok(()),
    }
}

fn reasons_of(hot_path: &HotPath) -> Option<&[ProbeReason]> {
    match hot_path {
        HotPath::OnPoison => None,
        HotPath::Always(why) => Some(why),
    }
}

/// What narrows the answers on this kernel, beside its probes.
pub fn print_limits(facts: &Facts) -> Result<(), Failure> {
    let lines: Vec<String> = limits(facts).into_iter().map(check::limit).collect();
    terminal::print(&lines.concat())
}

fn limits(facts: &Facts) -> Vec<Limit> {
    let kvm = match facts.kvm() {
        Kvm::Absent => Some(Limit::KvmAbsent),
        Kvm::Idle => Some(Limit::KvmIdle),
        Kvm::Ready => facts.isa().is_none().then_some(Limit::OtherKvm),
    };
    let shadow_paging = (facts.nested_paging() == Some(false)).then_some(Limit::ShadowPaging);
    let poisoned = facts.hardware_corrupted_kb.filter(|kb| *kb > 0);
    let poisoned = poisoned.map(|kb| Limit::Poisoned { kb });
    [kvm, shadow_paging, poisoned].into_iter().flatten().collect()
}
