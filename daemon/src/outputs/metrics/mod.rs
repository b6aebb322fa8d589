//! Prometheus metrics: incidents, events and the kernel's counters in, the text of /metrics out. The only module
//! that knows the crate `prometheus`.

mod families;
mod forecast;
mod histogram;
mod incidents;
mod origins;
mod reconciler;
mod vms;

use std::{collections::HashSet, time::Duration};

use prometheus::{IntGauge, Opts, Registry, TextEncoder};

use super::{hook::Ended, store::Health};
use families::{Families, OTHER_TABLES, PAGE_TYPES, RESULTS, RING};
use incidents::Incidents;
use origins::Origins;
use poisontrace_model::{
    correlate::report::Update,
    event::{Event, EventKind, probe::ProbeStatus, session::Session},
    forecast::Counts,
    host::ClockPair,
    incident::model::OriginKind,
    text::sanitise,
};
use poisontrace_sources::host::{
    kernel_counters::{KernelCounters, NODE_COUNTERS},
    process_usage::Usage,
    program_cost::ProgramCost,
};
use reconciler::Reconciler;
use vms::Vms;

/// Series by type, result and origin beside those that are known from the start: the kernel's words, but a recording's may be
/// anybody's.
const MAX_FAILURE_KINDS: usize = 48;
/// Longest label, characters.
const MAX_LABEL: usize = 64;

/// What the programs' tables had no room for.
#[derive(Clone, Copy, Debug, Default)]
pub struct KernelTables {
    /// Exits on pages beyond the totals.
    pub untotalled: u64,
    /// Exits whose place another thread took.
    pub displaced: u64,
    /// Signals that a process may have sent itself, beyond those that are reported.
    pub unproved: u64,
}

/// See the module.
pub struct Metrics {
    registry: Registry,
    families: Families,
    incidents: Incidents,
    vms: Option<Vms>,
    failure_kinds: HashSet<(String, String, &'static str)>,
    origins: Origins,
    reconciler: Reconciler,
    clock: ClockPair,
}

impl Metrics {
    /// `max_vms`: how many VMs get metrics of their own; `None`: no such metrics. `clock`: what makes events'
    /// times the wall clock's.
    ///
    /// # Errors
    /// As `Families::new`.
    pub fn new(session: &Session, clock: ClockPair, max_vms: Option<usize>) -> prometheus::Result<Self> {
        let registry = Registry::new();
        let families = Families::new(&registry)?;
        // A replay has no store, and none that fails.
        families.store_up.set(1);
        let build = IntGauge::with_opts(
            Opts::new("poisontrace_build_info", "1; the labels say what runs")
                .const_label("version", env!("CARGO_PKG_VERSION"))
                .const_label("revision", crate::REVISION),
        )?;
        build.set(1);
        registry.register(Box::new(build))?;
        let vms = max_vms.map(|max| Vms::new(&registry, max)).transpose()?;
        let metrics = Self {
            registry,
            families,
            incidents: Incidents::default(),
            vms,
            failure_kinds: HashSet::new(),
            reconciler: Reconciler::default(),
            origins: Origins::default(),
            clock,
        };
        metrics.probes(&session.probes);
        Ok(metrics)
    }

    /// The text of /metrics, in Prometheus' text format 0.0.4.
    pub fn exposition(&self) -> String {
        TextEncoder::new()
            .encode_to_string(&self.registry.gather())
            .unwrap_or_default()
    }

    /// From now on the events are those of another session.
    pub fn replays(&mut self, session: &Session, clock: ClockPair) {
        self.clock = clock;
        self.incidents = Incidents::default();
        self.probes(&session.probes);
    }

    /// The rows of the probe table, as they are now.
    pub fn probes(&self, rows: &[ProbeStatus]) {
        for probe in rows {
            self.families
                .probe_attached
                .with_label_values(&[sanitise(probe.probe.name(), MAX_LABEL)])
                .set(i64::from(probe.binding.is_some()));
        }
    }

    /// Counts one event.
    pub fn event(&mut self, event: &Event) {
        self.origins.event(event);
        match &event.what {
            // Made by the daemon, not received.
            EventKind::Vmm(_)
            | EventKind::PageTotals(_)
            | EventKind::GuestCode { .. }
            | EventKind::Preexisting { .. } => return,
            EventKind::Lost { records } => {
                self.families
                    .events_lost
                    .with_label_values(&[RING])
                    .inc_by(*records);
                return;
            }
            EventKind::ExitProbesAttached(delay) => {
                self.families.attach_delay.set(delay.after_ns as f64 / 1e9);
                return;
            }
            EventKind::ExitProbesDetached => return,
            EventKind::FailureAction {
                page_type, result, ..
            } => self.failure(page_type, result, self.origins.of(event.tid)),
            EventKind::FailureEnd { ret: 0 } => self.reconciler.saw_end(),
            _ => {}
        }
        self.families.events.with_label_values(&[RING]).inc();
        if let Some(wall) = self.clock.wall_at(event.t) {
            self.families.last_event.set(wall as f64 / 1e9);
        }
    }

    fn failure(&mut self, page_type: &str, result: &str, origin: OriginKind) {
        self.reconciler.saw();
        let mut kind = (sanitise(page_type, MAX_LABEL), sanitise(result, MAX_LABEL));
        let known = PAGE_TYPES.contains(&kind.0.as_str()) && RESULTS.contains(&kind.1.as_str());
        let key = (kind.0.clone(), kind.1.clone(), origin.word());
        let expected = known && origin == OriginKind::Unknown;
        if !expected && !self.failure_kinds.contains(&key) {
            if self.failure_kinds.len() >= MAX_FAILURE_KINDS {
                kind = ("other".to_owned(), "other".to_owned());
            } else {
                self.failure_kinds.insert(key);
            }
        }
        self.families
            .memory_failures
            .with_label_values(&[kind.0.as_str(), kind.1.as_str(), origin.word()])
            .inc();
    }

    /// Counts what is new of an incident.
    pub fn update(&mut self, update: &Update) {
        let change = self.incidents.update(update, &self.families);
        if let Some(vms) = &mut self.vms {
            vms.update(update, &change);
        }
    }

    /// Sets what is a state. `now_ns`: CLOCK_MONOTONIC, as the events have it.
    pub fn tick(&mut self, now_ns: u64) {
        self.incidents.tick(now_ns, &self.families);
    }

    /// Nothing more comes of this incident.
    pub fn forget(&mut self, id: &str) {
        self.incidents.forget(id);
    }

    /// The kernel's own counters, read now. Returns how many more failures it has counted that no probe saw.
    pub fn kernel(&mut self, counters: &KernelCounters) -> u64 {
        if let Some(bytes) = counters.hardware_corrupted {
            self.families
                .hardware_corrupted
                .set(i64::try_from(bytes).unwrap_or(i64::MAX));
        }
        if let Some(nodes) = counters.nodes {
            for (name, count) in NODE_COUNTERS.iter().zip(nodes) {
                let counter = self.families.kernel_memory_failures.with_label_values(&[name]);
                counter.inc_by(count.saturating_sub(counter.get()));
            }
            let new = self.reconciler.look(Some(nodes[0]));
            self.families.memory_failures_missed.inc_by(new);
            return new;
        }
        0
    }

    /// How often each row of the probe table was attached again.
    pub fn reattached<'a>(&self, rows: impl Iterator<Item = (&'a str, u64)>) {
        for (name, times) in rows {
            let label = sanitise(name, MAX_LABEL);
            let counter = self.families.probe_reattached.with_label_values(&[label]);
            counter.inc_by(times.saturating_sub(counter.get()));
        }
    }

    /// What the BPF programs have cost so far.
    pub fn programs(&self, costs: &[ProgramCost]) {
        for cost in costs {
            let runs = self.families.probe_runs.with_label_values(&[&cost.name]);
            runs.inc_by(cost.runs.saturating_sub(runs.get()));
            let seconds = self.families.probe_run_seconds.with_label_values(&[&cost.name]);
            seconds.inc_by((cost.run_ns as f64 / 1e9 - seconds.get()).max(0.0));
        }
        let missed: u64 = costs.iter().map(|cost| cost.missed).sum();
        let counter = &self.families.probe_runs_missed;
        counter.inc_by(missed.saturating_sub(counter.get()));
    }

    /// How the store fares, and its bytes on disk.
    pub fn store(&self, bytes: u64, health: &Health) {
        self.families
            .store_size
            .set(i64::try_from(bytes).unwrap_or(i64::MAX));
        self.families.store_up.set(i64::from(health.failing.is_none()));
        self.families
            .store_waiting
            .set(i64::try_from(health.waiting_incidents).unwrap_or(i64::MAX));
        let counter = &self.families.store_failures;
        counter.inc_by(health.failures.saturating_sub(counter.get()));
    }

    /// How long the oldest change of an incident waits for an output.
    pub fn delay(&self, waited: Duration) {
        self.families.incident_delay.set(waited.as_secs_f64());
    }

    /// The probes have been proved live.
    pub fn proved_live(&self, now: ClockPair) {
        self.families.proved.set(seconds(now));
    }

    /// What an error would do to each VM, as it is now.
    pub fn forecast(&self, counts: &Counts, now: ClockPair) {
        forecast::set(counts, &self.families);
        self.families.forecast_made.set(seconds(now));
    }

    /// VMs that run, and incidents dropped from memory so far.
    pub fn tables(&self, vms: usize, forgotten: u64, dropped: &[(&str, u64)]) {
        self.no_room(dropped);
        self.families.vms.set(i64::try_from(vms).unwrap_or(i64::MAX));
        let counter = &self.families.incidents_evicted;
        counter.inc_by(forgotten.saturating_sub(counter.get()));
    }

    /// Entries for which the kernel's totals and the VM registry had no room.
    pub fn tables_beside(&self, kernel: KernelTables, vm_registry: u64) {
        let [totals, slots, unproved, registry] = OTHER_TABLES;
        self.no_room(&[
            (totals, kernel.untotalled),
            (slots, kernel.displaced),
            (unproved, kernel.unproved),
            (registry, vm_registry),
        ]);
    }

    fn no_room(&self, dropped: &[(&str, u64)]) {
        for (table, count) in dropped {
            let counter = self.families.table_evictions.with_label_values(&[table]);
            counter.inc_by(count.saturating_sub(counter.get()));
        }
    }

    /// A run of the trigger hook ended.
    pub fn hook(&self, ended: Ended) {
        self.families.hook_runs.with_label_values(&[ended.word()]).inc();
    }

    /// What the daemon itself uses.
    pub fn process(&self, usage: &Usage) {
        self.families.resident_memory.set(usage.resident_bytes);
        let cpu = &self.families.cpu_seconds;
        cpu.inc_by((usage.cpu_seconds - cpu.get()).max(0.0));
    }
}

/// As Prometheus has times; 0 where it is not known.
fn seconds(now: ClockPair) -> f64 {
    now.wall_ns.map_or(0.0, |ns| ns as f64 / 1e9)
}

#[cfg(test)]
mod tests;
