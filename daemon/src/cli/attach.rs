//! From the running kernel to attached probes: what `run`, `record` and `check` share.

use std::path::Path;

use clap::Args;

use super::{Failure, output};
use crate::{
    identity::Directory,
    notify,
    pins::Pins,
    privileges::{self, Return},
    probes::{load::Loaded, row::BoundRow},
    survey::Survey,
};
use poisontrace_kernel_facts::{
    facts::{Facts, MEMORY_FAILURE_EVENTS},
    kvm::Kvm,
    plan::Plan,
};
use poisontrace_model::event::{
    decode::Decoder,
    session::{ProbeStatus, Session},
};

/// How probes are attached.
#[derive(Args, Clone)]
pub struct ProbeArgs {
    /// Do without these ways of binding, as if the kernel had none of them; said in the report
    #[arg(
        long,
        hide = true,
        value_name = "WAY,…",
        value_delimiter = ',',
        value_parser = ["kprobe", "fentry", "tracepoint", "raw_tracepoint"]
    )]
    pub without: Vec<String>,
    /// Keep totals of so few pages in the kernel: what happens when they are full is tried so
    #[arg(long, hide = true, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=16_384))]
    pub page_totals: Option<u32>,
}

/// Attached probes and the session they begin.
pub struct Attached {
    pub loaded: Loaded,
    pub session: Session,
    pub decoder: Decoder,
    pub facts: Facts,
    /// Of pages that were lost before; opened once the probes see what is lost from now on.
    pub survey: Option<Survey>,
}

impl Attached {
    /// Gives up the capabilities that are not needed any more. Threads that run already would keep theirs.
    pub fn give_up_privileges(&self) -> Result<(), Failure> {
        let module = self.facts.modules.values().any(|module| module.users.is_some());
        let kvm = match (module, notify::managed()) {
            (false, _) => Return::Never,
            (true, false) => Return::Attach,
            (true, true) => Return::AttachOrStartAgain,
        };
        privileges::give_up(kvm, || self.loaded.maps_can_be_read())
            .map_err(|err| Failure::new(format!("cannot give up capabilities: {err}")))
    }
}

/// The facts of the running kernel, without what is to be done without.
pub fn facts(args: &ProbeArgs) -> Result<Facts, Failure> {
    let mut facts = Facts::of_this_kernel()?;
    facts.taken_away.extend(args.without.iter().cloned());
    Ok(facts)
}

/// Reads the facts, makes the plan, carries it out. `guest_code`: guest code may be read.
/// `pins`: where all of it outlives the daemon.
pub fn probes(
    args: &ProbeArgs,
    log_level: u8,
    guest_code: bool,
    pins: Option<Pins>,
) -> Result<Attached, Failure> {
    let facts = facts(args)?;
    let mut plan = Plan::new(&facts, guest_code);
    plan.page_totals = args.page_totals;
    let predates = facts.hardware_corrupted_kb.is_some_and(|kb| kb > 0);
    let loaded = Loaded::new(plan, &facts, predates, log_level, pins)?;
    let session = Session {
        host: crate::machine::this_host(),
        clock: crate::machine::clock_pair(),
        probes: loaded.probes(),
        hardware_corrupted_kb: facts.hardware_corrupted_kb,
        standby: loaded.on_standby(),
    };
    let decoder = decoder(&facts);
    let survey = predates.then(|| survey(&facts)).flatten();
    Ok(Attached {
        loaded,
        session,
        decoder,
        facts,
        survey,
    })
}

fn survey(facts: &Facts) -> Option<Survey> {
    const PROC: &str = "/proc";
    let pids: Vec<u32> = Directory::new(PROC)
        .scan()
        .into_iter()
        .map(|(pid, _)| pid)
        .collect();
    Survey::open(Path::new(PROC), facts.hardware_corrupted_kb, &pids)
}

fn decoder(facts: &Facts) -> Decoder {
    let event = facts.event(MEMORY_FAILURE_EVENTS[0]);
    event.map_or_else(Decoder::default, |(_, event)| Decoder {
        page_types: event.symbols("type"),
        results: event.symbols("result"),
    })
}

/// One line a probe; with `verbose` the sizes of its programs below it.
pub fn print_probes(loaded: &Loaded, verbose: bool) -> Result<(), Failure> {
    let mut text = String::new();
    for row in loaded.rows() {
        text += &line(row.status());
        if verbose {
            text += &sizes(loaded, row);
        }
    }
    output::print(&text)
}

fn line(probe: &ProbeStatus) -> String {
    let why = probe.why.as_deref().unwrap_or_default();
    match (&probe.binding, &probe.lost) {
        (Some(binding), _) if why.is_empty() => format!("attached     {:<22} {binding}\n", probe.name),
        (Some(binding), _) => format!("attached     {:<22} {binding} ({why})\n", probe.name),
        (None, lost) => {
            let lost = lost.as_deref().unwrap_or_default();
            format!("unavailable  {:<22} {why}; lost: {lost}\n", probe.name)
        }
    }
}

fn sizes(loaded: &Loaded, row: &BoundRow) -> String {
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

/// One line for a service manager.
pub fn status(session: &Session) -> String {
    let attached = session
        .probes
        .iter()
        .filter(|probe| probe.binding.is_some())
        .count();
    format!("{attached} of {} probes attached", session.probes.len())
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
    let mut text = String::new();
    match facts.kvm() {
        Kvm::Absent => {
            text += "note         KVM is not loaded: modprobe kvm_intel or kvm_amd; `run` waits for it\n"
        }
        Kvm::Idle => text += "note         KVM is loaded without kvm_intel or kvm_amd: no guest can run\n",
        Kvm::Ready => {}
    }
    if facts.nested_paging() == Some(false) {
        text += "note         shadow paging (ept=0 or npt=0): fault addresses are guest-virtual, GPAs are not to be had\n";
    }
    if let Some(kb) = facts.hardware_corrupted_kb.filter(|kb| *kb > 0) {
        text +=
            &format!("note         {kb} kB are poisoned already (HardwareCorrupted): armed from the start\n");
    }
    output::print(&text)
}
