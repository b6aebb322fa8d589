//! What every exit of every guest passes: nothing of ours, until there is poison, where this kernel lets us find out
//! afterwards what the first exits would have shown.

use poisontrace_model::event::probe::{MissingField, ProbeId, ProbeReason};
use poisontrace_probes::{ABSENT, layout::FIELDS};

use super::{Attach, Binding, Plan, ProbeSpec};
use crate::{btf::shape_name, facts::Facts, functions::SIGNAL_DELIVER};

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HotPath {
    /// Nothing is attached to what every exit of a guest passes until there is poison, and again once it is over.
    OnPoison,
    /// Programs that do nothing until there is poison are attached from the start: why.
    Always(Vec<ProbeReason>),
}

impl Default for HotPath {
    fn default() -> Self {
        Self::Always(vec![ProbeReason::Configured])
    }
}

/// The rows of these hooks that nothing stands by for.
const ROWS: [ProbeId; 4] = [
    ProbeId::KvmExit,
    ProbeId::KvmEntry,
    ProbeId::KvmMsr,
    ProbeId::KvmPio,
];

/// What leads to the begin of an exit that kvm_exit did not see.
const FIELDS_NEEDED: [&str; 6] = [
    "TASK_NOTIFIERS",
    "VCPU_NOTIFIER",
    "VCPU_ARCH",
    "ARCH_EXIT_TSC",
    "ARCH_TSC_OFFSET",
    "ARCH_TSC_RATIO",
];

/// Above this perf events take CAP_SYS_ADMIN on Debian's kernels, and on others that know such a level.
const PARANOID: i32 = 2;

impl Plan {
    /// The same plan with nothing attached to these hooks until there is poison, where that loses nothing but the times that the
    /// answer names. `gives_up_admin`: the process gives up CAP_SYS_ADMIN once the probes are attached.
    #[must_use]
    pub fn on_poison(mut self, facts: &Facts, gives_up_admin: bool) -> Self {
        let problems = self.hot_path_problems(facts, gives_up_admin);
        if !problems.is_empty() {
            self.hot_path = HotPath::Always(problems);
            return self;
        }
        self.hot_path = HotPath::OnPoison;
        for row in self.rows.iter_mut().filter(|row| ROWS.contains(&row.probe)) {
            row.first = row.standby.take().unwrap_or_default();
            if row.offered().next().is_some() {
                row.standby = Some(Vec::new());
            }
        }
        for row in &mut self.rows {
            row.wait_for_poison();
        }
        self
    }

    fn hot_path_problems(&self, facts: &Facts, gives_up_admin: bool) -> Vec<ProbeReason> {
        let mut problems = Vec::new();
        for global in FIELDS_NEEDED {
            let absent = self.offsets.get(global).is_none_or(|at| *at == ABSENT);
            if let Some(field) = FIELDS.iter().find(|field| absent && field.global == global) {
                problems.push(ProbeReason::NoMember {
                    of: field.of.to_owned(),
                    field: MissingField {
                        global: field.global.to_owned(),
                        name: field.name.to_owned(),
                        shapes: vec![shape_name(field.shape)],
                    },
                });
            }
        }
        if self.isa.is_none() {
            problems.push(ProbeReason::IsaUnknown);
        }
        // These stand by as raw tracepoints only where kvm_page_fault shows what kvm_exit otherwise would.
        let row = |probe: &ProbeId| self.rows.iter().find(|row| row.probe == *probe);
        let stands_by = |row: &ProbeSpec| row.standby.as_ref().is_some_and(|held| !held.is_empty());
        for probe in [ProbeId::KvmExit, ProbeId::KvmEntry] {
            if !row(&probe).is_some_and(stands_by) {
                problems.push(ProbeReason::Needs(probe));
            }
        }
        // The end of an exit is then seen by the signal that answers it.
        if let Some(problem) = match facts.raw_tracepoints.get(SIGNAL_DELIVER.name) {
            Some(known) => SIGNAL_DELIVER.mismatch(known),
            None => Some(ProbeReason::NoTracepointBtf(SIGNAL_DELIVER.name.to_owned())),
        } {
            problems.push(problem);
        }
        // What goes on to see the exits until then.
        for probe in [
            ProbeId::MemoryFailure,
            ProbeId::KvmPageFault,
            ProbeId::KvmUserspaceExit,
        ] {
            if row(&probe).is_none_or(|row| row.offered().next().is_none()) {
                problems.push(ProbeReason::Needs(probe));
            }
        }
        match facts.clocksource.as_deref() {
            Some("tsc") => {}
            other => problems.push(ProbeReason::Clocksource(other.unwrap_or("not known").to_owned())),
        }
        if let Some(level) = facts
            .perf_event_paranoid
            .filter(|level| gives_up_admin && *level > PARANOID && facts.perfmon_suffices != Some(true))
        {
            problems.push(ProbeReason::PerfEventParanoid(level));
        }
        problems
    }
}

impl ProbeSpec {
    /// Leaves the hook that many exits pass to a program elsewhere until there is poison.
    fn wait_for_poison(&mut self) {
        let Some(programs) = self.offered().next() else {
            return;
        };
        match (&self.probe, programs.as_slice()) {
            // Each return to a VMM.
            (ProbeId::KvmUserspaceExit, _) => {
                self.first = programs.clone();
                self.standby = Some(vec![Attach {
                    program: "signal_delivered",
                    binding: Binding::RawTracepoint(SIGNAL_DELIVER.name),
                }]);
            }
            (ProbeId::Instruction, [_, ..]) => self.standby = Some(Vec::new()),
            _ => {}
        }
    }
}
