//! Metrics by VM, where they are wanted: bounded, the rest together as "other".

use std::collections::BTreeSet;

use prometheus::{IntCounterVec, Opts, Registry};

use super::incidents::Change;
use poisontrace_model::correlate::report::Update;

/// The label of VMs beyond the limit.
const OTHER: &str = "other";
/// The label of a VM whose name is not known.
const UNNAMED: &str = "unnamed";

/// See the module.
pub struct Vms {
    incidents: IntCounterVec,
    exits: IntCounterVec,
    names: BTreeSet<String>,
    limit: usize,
}

impl Vms {
    /// Makes and registers them; at most `limit` VMs get series of their own.
    ///
    /// # Errors
    /// As [`super::families::Families::new`].
    pub fn new(registry: &Registry, limit: usize) -> prometheus::Result<Self> {
        let vms = Self {
            incidents: IntCounterVec::new(
                Opts::new(
                    "poisontrace_vm_incident_verdicts_total",
                    "Incidents by VM and outcome; an incident counts once under each that it comes to",
                ),
                &["vm", "outcome"],
            )?,
            exits: IntCounterVec::new(
                Opts::new("poisontrace_vm_poison_exits_total", "VM exits on poison, by VM"),
                &["vm"],
            )?,
            names: BTreeSet::new(),
            limit,
        };
        registry.register(Box::new(vms.incidents.clone()))?;
        registry.register(Box::new(vms.exits.clone()))?;
        Ok(vms)
    }

    pub fn update(&mut self, update: &Update, change: &Change) {
        let vm = self.label(update.incident.vm.name.as_deref());
        if change.verdict {
            self.incidents
                .with_label_values(&[vm.as_str(), update.incident.outcome.word()])
                .inc();
        }
        self.exits.with_label_values(&[vm]).inc_by(change.exits);
    }

    fn label(&mut self, name: Option<&str>) -> String {
        let name = name.unwrap_or(UNNAMED);
        if !self.names.contains(name) {
            if self.names.len() >= self.limit {
                return OTHER.to_owned();
            }
            self.names.insert(name.to_owned());
        }
        name.to_owned()
    }
}
