//! A row of the plan, and what has become of it.

use super::{binding::Link, tracepoint::TracepointEvent};
use poisontrace_kernel_facts::plan::{Attach, ProbeSpec};
use poisontrace_model::event::session::ProbeStatus;

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

/// A row of the plan and what has become of it.
pub struct Probe {
    pub(super) row: ProbeSpec,
    pub(super) state: ProbeState,
    pub(super) status: ProbeStatus,
    pub(super) reattached: u64,
    pub(super) links: Vec<(&'static str, Link)>,
    /// For what takes the place of that which stands by.
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
                name: row.name.to_owned(),
                binding: None,
                why: None,
                lost: Some(row.unavailable_info.to_owned()),
            },
            reattached: 0,
            links: Vec::new(),
            reserved: Vec::new(),
        }
    }

    /// `reasons`: why it was none of the better alternatives.
    pub(super) fn attached(
        &mut self,
        programs: &[Attach],
        links: Vec<(&'static str, Link)>,
        mut reasons: Vec<String>,
    ) {
        let bindings: Vec<String> = programs.iter().map(|a| a.binding.to_string()).collect();
        reasons.extend(self.row.limitations.iter().cloned());
        self.status.binding = Some(bindings.join(", "));
        self.status.why = (!reasons.is_empty()).then(|| reasons.join("; "));
        self.status.lost = None;
        self.links = links;
        self.state = ProbeState::Attached;
    }

    pub(super) fn stands_by(&mut self, links: Vec<(&'static str, Link)>) {
        self.status.binding = self.row.standby_text();
        self.status.why = None;
        self.status.lost = None;
        self.links = links;
        self.state = ProbeState::Attached;
    }

    pub(super) fn waiting(&mut self) {
        self.unavailable(&["KVM is unloaded".to_owned()]);
        self.state = ProbeState::Waiting;
    }

    pub(super) fn unavailable(&mut self, reasons: &[String]) {
        self.status.binding = None;
        self.status.why = Some(reasons.join("; "));
        self.status.lost = Some(self.row.unavailable_info.to_owned());
        self.state = ProbeState::Unavailable;
    }
}
