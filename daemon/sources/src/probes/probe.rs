//! A row of the plan, and what has become of it.

use super::{binding::Link, tracepoint::TracepointEvent};
use poisontrace_kernel_facts::plan::{Attach, ProbeSpec, hooks};
use poisontrace_model::event::probe::{ProbeBinding, ProbeReason, ProbeStatus};

/// What has become of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeState {
    /// Or what stands by for it.
    Attached,
    /// This kernel does not offer it, or refuses it.
    Unavailable,
    /// Detached while KVM is unloaded; it comes back with KVM.
    Waiting,
}

/// What keeps programs attached, by their names.
pub type Links = Vec<(&'static str, Link)>;

/// Whether these are the links of these programs.
pub fn are_of(links: &Links, programs: &[Attach]) -> bool {
    let names = links.iter().map(|(name, _)| *name);
    names.eq(programs.iter().map(|attach| attach.program))
}

/// A row of the plan and what has become of it.
pub struct Probe {
    pub(super) row: ProbeSpec,
    pub(super) state: ProbeState,
    pub(super) status: ProbeStatus,
    pub(super) reattached: u64,
    pub(super) links: Links,
    /// Perf events opened in advance for the full probes.
    pub(super) reserved: Vec<(&'static str, TracepointEvent)>,
}

impl Probe {
    /// As the session and the report name it.
    pub fn status(&self) -> &ProbeStatus {
        &self.status
    }

    pub fn state(&self) -> ProbeState {
        self.state
    }

    /// How often it was attached again after KVM had gone.
    pub fn reattached(&self) -> u64 {
        self.reattached
    }

    pub(super) fn new(row: &ProbeSpec) -> Self {
        Self {
            row: row.clone(),
            state: ProbeState::Unavailable,
            status: ProbeStatus {
                probe: row.probe.clone(),
                binding: None,
                why: Vec::new(),
                unavailable_info: None,
            },
            reattached: 0,
            links: Vec::new(),
            reserved: Vec::new(),
        }
    }

    /// `reasons`: why it was none of the better alternatives.
    pub(super) fn attached(&mut self, programs: &[Attach], links: Links, mut reasons: Vec<ProbeReason>) {
        reasons.extend(self.row.limitations.iter().cloned());
        self.status.binding = Some(ProbeBinding::Attached(hooks(programs)));
        self.status.why = reasons;
        self.links = links;
        self.state = ProbeState::Attached;
    }

    pub(super) fn stands_by(&mut self, links: Links) {
        self.status.binding = self.row.standby_binding();
        self.status.why.clear();
        self.links = links;
        self.state = ProbeState::Attached;
    }

    pub(super) fn waiting(&mut self) {
        self.unavailable(vec![ProbeReason::KvmUnloaded]);
        self.state = ProbeState::Waiting;
    }

    pub(super) fn unavailable(&mut self, reasons: Vec<ProbeReason>) {
        self.status.binding = None;
        self.status.why = reasons;
        self.state = ProbeState::Unavailable;
    }
}
