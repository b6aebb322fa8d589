//! KVM's rows go with its module, and come back with it.

use super::{fentry_btf, load::Loaded, probe::ProbeState};
use poisontrace_kernel_facts::plan::Plan;
use poisontrace_model::event::probe::{ProbeId, ProbeReason};

/// What became of the detached rows.
pub struct Reattached {
    pub probes: usize,
    pub failed: Vec<(ProbeId, Vec<ProbeReason>)>,
}

impl Loaded {
    /// Whether the programs, as they are loaded, read the fields of these facts.
    pub fn fits(&self, plan: &Plan) -> bool {
        self.plan.offsets == plan.offsets
            && self.plan.shadow_paging == plan.shadow_paging
            && self.plan.isa == plan.isa
    }

    /// Detaches KVM's probes, so that its module can be unloaded. Returns how many there were.
    pub fn release_kvm(&mut self) -> usize {
        let attached: Vec<usize> = self
            .rows
            .iter()
            .enumerate()
            .filter(|(_, bound)| bound.row.of_kvm && bound.state == ProbeState::Attached)
            .map(|(n, _)| n)
            .collect();
        for n in &attached {
            self.detach_row(*n);
            self.rows[*n].waiting();
        }
        attached.len()
    }

    /// Attaches the detached probes again.
    pub fn reattach_kvm(&mut self) -> Reattached {
        let mut reattached = Reattached {
            probes: 0,
            failed: Vec::new(),
        };
        let waiting: Vec<usize> = (0..self.rows.len())
            .filter(|n| self.rows[*n].state == ProbeState::Waiting)
            .collect();
        if waiting.is_empty() {
            return reattached;
        }
        let btf = match fentry_btf::of(&self.functions) {
            Ok(btf) => btf,
            Err(why) => {
                let failed = waiting.iter().map(|n| self.rows[*n].row.probe.clone());
                reattached.failed = failed
                    .map(|probe| (probe, vec![ProbeReason::Text(why.clone())]))
                    .collect();
                return reattached;
            }
        };
        for n in waiting {
            self.attach_row(n, &btf);
            let bound = &mut self.rows[n];
            if bound.state == ProbeState::Attached {
                bound.reattached += 1;
                reattached.probes += 1;
            } else {
                let why = bound.status.why.clone();
                reattached.failed.push((bound.row.probe.clone(), why));
            }
        }
        reattached
    }
}
