//! The probe table and what it means, as `run`, `record` and `check` print it.

use crate::{
    failure::Failure,
    probes::{load::Loaded, probe::Probe},
    terminal,
};
use poisontrace_kernel_facts::{facts::Facts, kvm::Kvm, plan::Plan};
use poisontrace_model::event::session::{ProbeStatus, Session};

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

/// The row whose common name is that of a function that no kernel has.
const INJECTION: (&str, &str) = ("vcpu_ioctl_mce", "known as kvm_inject_mce");

fn line(probe: &ProbeStatus) -> String {
    let why = match probe.why.as_deref() {
        None if probe.name == INJECTION.0 && probe.binding.is_some() => INJECTION.1,
        why => why.unwrap_or_default(),
    };
    match (&probe.binding, &probe.lost) {
        (Some(binding), _) if why.is_empty() => format!("attached     {:<22} {binding}\n", probe.name),
        (Some(binding), _) => format!("attached     {:<22} {binding} ({why})\n", probe.name),
        (None, lost) => {
            let lost = lost.as_deref().unwrap_or_default();
            format!("unavailable  {:<22} {why}; lost: {lost}\n", probe.name)
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
    let missing = Plan::verdict_needs(|name| session.has(name));
    if missing.is_empty() {
        return Ok(true);
    }
    terminal::print(&format!(
        "no verdict is possible on this kernel without: {}\n",
        missing.join(", ")
    ))?;
    Ok(false)
}

/// What else of this kernel narrows the answers.
pub fn print_limits(facts: &Facts) -> Result<(), Failure> {
    let mut text = String::new();
    match facts.kvm() {
        Kvm::Absent => {
            text += "note         KVM is not loaded: modprobe kvm_intel or kvm_amd; `run` waits for it\n"
        }
        Kvm::Idle => text += "note         KVM is loaded without kvm_intel or kvm_amd: no guest can run\n",
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
