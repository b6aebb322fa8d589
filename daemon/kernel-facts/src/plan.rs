//! The attach plan: a pure function from facts to what is to be attached, with its fallbacks, the offsets that
//! the programs get, and what is lost where something is missing.

mod fields;
mod hot_path;
mod rows;

use std::{collections::BTreeMap, fmt};

use poisontrace_model::event::probe::{Hook, ProbeBinding, ProbeId, ProbeReason};
use poisontrace_probes::{ABSENT, layout::FIELDS};

use super::{facts::Facts, kvm::Kvm};
pub use hot_path::HotPath;

/// How one program is bound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Binding {
    Tracepoint { group: String, name: String },
    RawTracepoint(&'static str),
    Fentry(&'static str),
    Fexit(&'static str),
    Kprobe(&'static str),
    Kretprobe(&'static str),
}

impl Binding {
    /// The way of binding, as `--disable-attach-type` names it.
    pub fn way(&self) -> &'static str {
        match self {
            Self::Tracepoint { .. } => "tracepoint",
            Self::RawTracepoint(_) => "raw_tracepoint",
            Self::Fentry(_) | Self::Fexit(_) => "fentry",
            Self::Kprobe(_) | Self::Kretprobe(_) => "kprobe",
        }
    }

    /// As the session has it.
    pub fn hook(&self) -> Hook {
        match self {
            Self::Tracepoint { group, name } => Hook::Tracepoint(format!("{group}:{name}")),
            Self::RawTracepoint(name) => Hook::RawTracepoint((*name).to_owned()),
            Self::Fentry(function) => Hook::Fentry((*function).to_owned()),
            Self::Fexit(function) => Hook::Fexit((*function).to_owned()),
            Self::Kprobe(function) => Hook::Kprobe((*function).to_owned()),
            Self::Kretprobe(function) => Hook::Kretprobe((*function).to_owned()),
        }
    }
}

impl fmt::Display for Binding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.hook().fmt(f)
    }
}

/// A program and its binding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attach {
    pub program: &'static str,
    pub binding: Binding,
}

/// A set of programs that is attached as a whole; or why this kernel does not offer it.
pub type Alternative = Result<Vec<Attach>, ProbeReason>;

/// One row of the probe table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeSpec {
    pub probe: ProbeId,
    /// In order of preference.
    pub alternatives: Vec<Alternative>,
    /// Fields that the kernel does not have as the programs read them, and arguments taken on trust.
    pub limitations: Vec<ProbeReason>,
    /// It hangs on KVM, which may be a module that comes and goes.
    pub of_kvm: bool,
    /// What is attached in place of the alternatives until there is poison; it may be nothing. `None`: the alternatives
    /// are attached from the start.
    pub standby: Option<Vec<Attach>>,
    /// What is attached in place of `standby` as soon as there is poison, before the alternatives, which then take its place.
    pub first: Vec<Attach>,
}

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    pub rows: Vec<ProbeSpec>,
    /// Globals of the BPF object: offsets, or [`ABSENT`].
    pub offsets: BTreeMap<&'static str, u32>,
    /// Guests run on shadow paging: the addresses of their faults are guest-virtual.
    pub shadow_paging: bool,
    /// See [`Facts::isa`].
    pub isa: Option<u32>,
    /// Pages by vCPU thread that the kernel has totals of, where the object's number does not apply.
    pub page_totals: Option<u32>,
    /// The memory of the pages' totals is taken at load: see [`Facts::maps_may_allocate`].
    pub preallocated_totals: bool,
    /// What is attached to the hooks that every exit of every guest passes until there is poison.
    pub hot_path: HotPath,
}

/// Pages by vCPU thread where their totals are preallocated: 5 MiB.
const PREALLOCATED_PAGES: u32 = 4096;

/// Rows without which no verdict is possible.
const NEEDED: [ProbeId; 4] = [
    ProbeId::KvmExit,
    ProbeId::KvmPageFault,
    ProbeId::SendSigMceerr,
    ProbeId::KvmInjException,
];

impl ProbeSpec {
    /// The alternatives that this kernel offers.
    pub fn offered(&self) -> impl Iterator<Item = &Vec<Attach>> {
        self.alternatives.iter().flatten()
    }

    /// What holds its place until there is poison.
    pub fn standby_binding(&self) -> Option<ProbeBinding> {
        let standby = self.standby.as_ref()?;
        Some(ProbeBinding::Standby(hooks(standby)))
    }
}

/// Where these programs are attached.
pub fn hooks(programs: &[Attach]) -> Vec<Hook> {
    programs.iter().map(|attach| attach.binding.hook()).collect()
}

impl Plan {
    /// Makes the plan. `guest_code`: guest code may be read, so attach what that needs.
    pub fn new(facts: &Facts, guest_code: bool) -> Self {
        let mut plan = Self {
            rows: Vec::new(),
            offsets: FIELDS
                .iter()
                .map(|field| (field.global, fields::offset(facts, field).unwrap_or(ABSENT)))
                .collect(),
            shadow_paging: facts.nested_paging() == Some(false),
            isa: facts.isa(),
            page_totals: (!facts.maps_may_allocate()).then_some(PREALLOCATED_PAGES),
            preallocated_totals: !facts.maps_may_allocate(),
            hot_path: HotPath::default(),
        };
        rows::add(&mut plan, facts, guest_code);
        for row in &mut plan.rows {
            restrict(row, facts);
        }
        plan
    }

    /// The rows without which no verdict is possible and that are not attached.
    pub fn verdict_needs(attached: impl Fn(&ProbeId) -> bool) -> Vec<ProbeId> {
        NEEDED.into_iter().filter(|probe| !attached(probe)).collect()
    }
}

/// Leaves out what this kernel forbids as it runs now, whatever it was built with.
fn restrict(row: &mut ProbeSpec, facts: &Facts) {
    if facts.lockdown.as_deref() == Some("confidentiality") {
        row.alternatives = vec![Err(ProbeReason::LockedDown)];
    } else if row.of_kvm && facts.kvm() == Kvm::Absent {
        row.alternatives = vec![Err(ProbeReason::KvmAbsent)];
    }
    for alternative in &mut row.alternatives {
        let taken = alternative.iter().flatten().find_map(|attach| {
            let way = attach.binding.way();
            facts.disabled_attach_types.contains(way).then_some(way)
        });
        if let Some(way) = taken {
            *alternative = Err(ProbeReason::Disabled(way.to_owned()));
        }
    }
    let disabled_attach_types = |attach: &Attach| facts.disabled_attach_types.contains(attach.binding.way());
    if row.offered().next().is_none() || row.standby.iter().flatten().any(disabled_attach_types) {
        row.standby = None;
        row.first.clear();
    }
}

#[cfg(test)]
mod tests;
