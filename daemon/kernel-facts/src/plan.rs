//! The attach plan: a pure function from facts to what is to be attached, with its fallbacks, the offsets that
//! the programs get, and what is lost where something is missing.

mod fields;
mod rows;
mod text;

use std::{collections::BTreeMap, fmt};

use poisontrace_probes::{ABSENT, layout::FIELDS};

use super::{facts::Facts, kvm::Kvm};

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
}

impl fmt::Display for Binding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tracepoint { group, name } => write!(f, "tracepoint {group}:{name}"),
            Self::RawTracepoint(name) => write!(f, "raw_tracepoint {name}"),
            Self::Fentry(function) => write!(f, "fentry {function}"),
            Self::Fexit(function) => write!(f, "fexit {function}"),
            Self::Kprobe(function) => write!(f, "kprobe {function}"),
            Self::Kretprobe(function) => write!(f, "kretprobe {function}"),
        }
    }
}

/// A program and its binding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attach {
    pub program: &'static str,
    pub binding: Binding,
}

/// A set of programs that is attached as a whole; or why this kernel does not offer it.
pub type Alternative = Result<Vec<Attach>, String>;

/// One row of the probe table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeSpec {
    pub name: &'static str,
    /// In order of preference.
    pub alternatives: Vec<Alternative>,
    /// Information that is unavailable without this row.
    pub unavailable_info: &'static str,
    /// Fields that the kernel does not have as the programs read them, and what that costs.
    pub limitations: Vec<String>,
    /// It hangs on KVM, which may be a module that comes and goes.
    pub of_kvm: bool,
    /// What is attached in place of the alternatives until there is poison; it may be nothing. `None`: the alternatives
    /// are attached from the start.
    pub standby: Option<Vec<Attach>>,
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
}

/// Rows without which no verdict is possible.
const NEEDED: [&str; 4] = [
    "kvm_exit",
    "kvm_page_fault",
    "send_sig_mceerr",
    "kvm_inj_exception",
];

impl ProbeSpec {
    /// The alternatives that this kernel offers.
    pub fn offered(&self) -> impl Iterator<Item = &Vec<Attach>> {
        self.alternatives.iter().flatten()
    }

    /// What holds its place until there is poison, in words.
    pub fn standby_text(&self) -> Option<String> {
        let standby = self.standby.as_ref()?;
        let bindings: Vec<String> = standby.iter().map(|attach| attach.binding.to_string()).collect();
        let held = if bindings.is_empty() {
            "nothing".to_owned()
        } else {
            bindings.join(", ")
        };
        Some(format!("until there is poison {held}"))
    }
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
            page_totals: None,
        };
        rows::add(&mut plan, facts, guest_code);
        for row in &mut plan.rows {
            restrict(row, facts);
        }
        plan
    }

    /// Whether what is attached (by row name) allows a verdict, else the rows that are missing.
    pub fn verdict_needs(attached: impl Fn(&str) -> bool) -> Vec<&'static str> {
        NEEDED.into_iter().filter(|name| !attached(name)).collect()
    }
}

/// Leaves out what this kernel forbids as it runs now, whatever it was built with.
fn restrict(row: &mut ProbeSpec, facts: &Facts) {
    if facts.lockdown.as_deref() == Some("confidentiality") {
        row.alternatives = vec![Err(
            "the kernel is locked down (confidentiality), so that no BPF program may read its memory: boot with lockdown=integrity".to_owned(),
        )];
    } else if row.of_kvm && facts.kvm() == Kvm::Absent {
        row.alternatives = vec![Err("KVM is not loaded".to_owned())];
    }
    for alternative in &mut row.alternatives {
        let taken = alternative.iter().flatten().find_map(|attach| {
            let way = attach.binding.way();
            facts.disabled_attach_types.contains(way).then_some(way)
        });
        if let Some(way) = taken {
            *alternative = Err(format!("{way} disabled (--disable-attach-type)"));
        }
    }
    let disabled_attach_types = |attach: &Attach| facts.disabled_attach_types.contains(attach.binding.way());
    if row.offered().next().is_none() || row.standby.iter().flatten().any(disabled_attach_types) {
        row.standby = None;
    }
}

#[cfg(test)]
mod tests;
