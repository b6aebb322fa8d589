//! From the running kernel to attached probes: what `run`, `record` and `check` share.

use super::{Failure, output};
use crate::{
    event::{
        decode::Decoder,
        session::{ProbeStatus, Session},
    },
    host::{ClockPair, Host},
    kernel::{facts::Facts, plan::Plan},
    probes::load::{Loaded, attach},
};

/// Attached probes and the session they begin.
pub struct Attached {
    pub loaded: Loaded,
    pub session: Session,
    pub decoder: Decoder,
    pub facts: Facts,
}

/// Reads the facts, makes the plan, carries it out. `guest_code`: guest code may be read.
pub fn probes(log_level: u8, guest_code: bool) -> Result<Attached, Failure> {
    let facts = Facts::of_this_kernel()?;
    let plan = Plan::new(&facts, guest_code);
    let predates = facts.hardware_corrupted_kb.is_some_and(|kb| kb > 0);
    let loaded = attach(&plan, predates, log_level)?;
    let session = Session {
        host: Host::this(),
        clock: ClockPair::now(),
        probes: loaded.probes.clone(),
        hardware_corrupted_kb: facts.hardware_corrupted_kb,
    };
    let decoder = decoder(&facts);
    Ok(Attached {
        loaded,
        session,
        decoder,
        facts,
    })
}

fn decoder(facts: &Facts) -> Decoder {
    let event = ["ras/memory_failure_event", "memory_failure/memory_failure_event"]
        .iter()
        .find_map(|name| facts.events.get(*name));
    event.map_or_else(Decoder::default, |event| Decoder {
        page_types: event.symbols("type"),
        results: event.symbols("result"),
    })
}

/// One line a probe.
pub fn print_probes(probes: &[ProbeStatus]) -> Result<(), Failure> {
    let mut text = String::new();
    for probe in probes {
        let why = probe.why.as_deref().unwrap_or_default();
        text += &match (&probe.binding, &probe.lost) {
            (Some(binding), _) if why.is_empty() => format!("attached     {:<22} {binding}\n", probe.name),
            (Some(binding), _) => format!("attached     {:<22} {binding} ({why})\n", probe.name),
            (None, lost) => {
                let lost = lost.as_deref().unwrap_or_default();
                format!("unavailable  {:<22} {why}; lost: {lost}\n", probe.name)
            }
        };
    }
    output::print(&text)
}

/// Whether what is attached allows a verdict; says so where it does not.
pub fn print_verdict(session: &Session) -> Result<bool, Failure> {
    let missing = Plan::verdict_needs(|name| session.has(name));
    if missing.is_empty() {
        return Ok(true);
    }
    output::print(&format!(
        "no verdict is possible on this kernel without: {}\n",
        missing.join(", ")
    ))?;
    Ok(false)
}

/// What else of this kernel narrows the answers.
pub fn print_limits(facts: &Facts) -> Result<(), Failure> {
    if facts.nested_paging == Some(false) {
        output::print(
            "note         shadow paging (ept=0 or npt=0): fault addresses are guest-virtual, GPAs are not to be had\n",
        )?;
    }
    if let Some(kb) = facts.hardware_corrupted_kb.filter(|kb| *kb > 0) {
        output::print(&format!(
            "note         {kb} kB are poisoned already (HardwareCorrupted): armed from the start\n"
        ))?;
    }
    Ok(())
}
