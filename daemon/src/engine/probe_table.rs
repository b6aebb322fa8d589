//! The probe table and what it means, as `run`, `record` and `check` print it.

use crate::{
    failure::Failure,
    probes::{load::Loaded, probe::Probe},
    terminal,
};
use poisontrace_kernel_facts::{facts::Facts, kvm::Kvm, plan::Plan};
use poisontrace_model::event::{
    probe::{ProbeId, ProbeStatus},
    session::Session,
};
use poisontrace_report::probes;

/// One line a probe; with `verbose` the sizes of its programs below it.
pub fn print_probes(loaded: &Loaded, verbose: bool) -> Result<(), Failure> {
    let mut text = String::new();
    for row in loaded.rows() {
        text += &line(row.status());
        if verbose {
            text += &sizes(loaded, row);
        }
    }
    terminal::print(&text)
}

/// What people call a row whose function no kernel has.
const INJECTION: &str = "known as kvm_inject_mce";

fn line(status: &ProbeStatus) -> String {
    let probe = &status.probe;
    let why = match status.why.as_slice() {
        [] if *probe == ProbeId::VcpuIoctlMce && status.binding.is_some() => INJECTION.to_owned(),
        why => probes::reasons(why),
    };
    match status.binding.as_ref().map(probes::binding) {
        Some(binding) if why.is_empty() => format!("attached     {probe:<22} {binding}\n"),
        Some(binding) => format!("attached     {probe:<22} {binding} ({why})\n"),
        None => {
            let lost = probes::unavailable_info(status);
            format!("unavailable  {probe:<22} {why}; lost: {lost}\n")
        }
    }
}

fn sizes(loaded: &Loaded, row: &Probe) -> String {
    let number = |n: Option<u32>| n.map_or_else(|| "?".to_owned(), |n| n.to_string());
    loaded
        .sizes(row)
        .map(|size| {
            format!(
                "  program    {:<22} {} instructions, {} of them verified\n",
                size.program,
                number(size.translated),
                number(size.verified)
            )
        })
        .collect()
}

/// Whether the attached probes allow a verdict; prints the missing ones.
pub fn print_verdict(session: &Session) -> Result<bool, Failure> {
    let missing = Plan::verdict_needs(|probe| session.has(probe));
    if missing.is_empty() {
        return Ok(true);
    }
    terminal::print(&format!(
        "no verdict is possible on this kernel without: {}\n",
        names(&missing)
    ))?;
    Ok(false)
}

/// Names of rows, as a list.
pub fn names(probes: &[ProbeId]) -> String {
    let names: Vec<&str> = probes.iter().map(ProbeId::name).collect();
    names.join(", ")
}

/// What else of this kernel narrows the answers.
pub fn print_limits(facts: &Facts) -> Result<(), Failure> {
    let mut text = String::new();
    match facts.kvm() {
        Kvm::Absent => {
            text += "note         KVM is not loaded: modprobe kvm_intel or kvm_amd; `run` waits for it\n";
        }
        Kvm::Idle => text += "note         KVM is loaded without kvm_intel or kvm_amd: no guest can run\n",
        Kvm::Ready if facts.isa().is_none() => {
            text += "note         KVM runs its guests without VMX and SVM here (kvm_pvm, for one): exits, page faults and entries are not traced, so no access of a guest is seen; signals and memory_failure() are\n";
        }
        Kvm::Ready => {}
    }
    if facts.nested_paging() == Some(false) {
        text += "note         shadow paging (ept=0 or npt=0): fault addresses are guest-virtual, GPAs are not known\n";
    }
    if let Some(kb) = facts.hardware_corrupted_kb.filter(|kb| *kb > 0) {
        text +=
            &format!("note         {kb} kB are poisoned already (HardwareCorrupted): armed from the start\n");
    }
    terminal::print(&text)
}
