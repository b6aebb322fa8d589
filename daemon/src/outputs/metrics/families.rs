//! Every metric of the daemon: name, help, labels, and the label sets that are known from the start.
//! `docs/metrics.md` documents each; a test holds it against these.

use prometheus::{
    Counter, CounterVec, Gauge, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    core::Collector,
};

use super::histogram::Histogram;
use crate::outputs::hook::Ended;
use poisontrace_model::{
    correlate::TABLES,
    incident::model::{Cause, OriginKind, Outcome},
};

/// `memory_failure_event`'s results (mm/memory-failure.c, MF_RESULT).
pub const RESULTS: [&str; 4] = ["Ignored", "Failed", "Delayed", "Recovered"];
/// Types of pages that guests are made of, in the kernel's words; others join as they come.
pub const PAGE_TYPES: [&str; 3] = ["dirty LRU page", "clean LRU page", "huge page"];
/// Kinds of access of a poison exit.
pub const ACCESSES: [&str; 5] = ["read", "write", "fetch", "page_walk", "unknown"];
pub const SEVERITIES: [&str; 2] = ["action_optional", "action_required"];
pub const STORMS: [&str; 3] = ["line_walk", "same_line_spin", "page_touches"];
/// Tables that are not the correlator's: the kernel's totals, and what is known of the host's processes.
pub const OTHER_TABLES: [&str; 4] = ["page_totals", "vcpu_slots", "unproved_signals", "vm_registry"];
/// The one ring buffer's name.
pub const RING: &str = "events";

/// Verdicts that are there from the start.
pub const VERDICTS: [(Outcome, Cause); 27] = [
    (Outcome::Running, Cause::NotTouched),
    (Outcome::Running, Cause::SigbusSpin),
    (Outcome::Running, Cause::MceNested),
    (Outcome::Running, Cause::VmmOwnMemory),
    (Outcome::Running, Cause::UnmapFailed),
    (Outcome::Running, Cause::Unknown),
    (Outcome::Unaffected, Cause::NotTouched),
    (Outcome::Survived, Cause::Contained),
    (Outcome::GuestPanicked, Cause::Clflush),
    (Outcome::GuestPanicked, Cause::KernelAccess),
    (Outcome::GuestPanicked, Cause::MceOverflow),
    (Outcome::GuestPanicked, Cause::FatalNotification),
    (Outcome::GuestPanicked, Cause::Unknown),
    (Outcome::GuestReset, Cause::MceNested),
    (Outcome::GuestReset, Cause::MceDisabled),
    (Outcome::GuestReset, Cause::Unknown),
    (Outcome::VmmKilled, Cause::SigbusUnhandled),
    (Outcome::VmmKilled, Cause::SecondSigbus),
    (Outcome::VmmKilled, Cause::VmmOwnMemory),
    (Outcome::VmmKilled, Cause::UnmapFailed),
    (Outcome::VmmKilled, Cause::NotPoison),
    (Outcome::VmmExited, Cause::SigbusUnhandled),
    (Outcome::VmmExited, Cause::VmmOwnMemory),
    (Outcome::VmmExited, Cause::GuestMemfd),
    (Outcome::VmmExited, Cause::Unknown),
    (Outcome::Unknown, Cause::MceDropped),
    (Outcome::Unknown, Cause::Unknown),
];

/// See the module.
pub struct Families {
    pub memory_failures: IntCounterVec,
    pub poisoned_pages: IntGauge,
    pub guests_at_risk: IntGauge,
    pub incidents: IntCounterVec,
    pub incidents_opened: IntCounter,
    pub incidents_open: IntGauge,
    pub incidents_evicted: IntCounter,
    pub table_evictions: IntCounterVec,
    pub poison_exits: IntCounterVec,
    pub storms: IntCounterVec,
    pub sigbus: IntCounterVec,
    pub machine_checks_queued: IntCounterVec,
    pub machine_checks_delivered: IntCounter,
    pub exit_to_entry: Histogram,
    pub in_kernel: Histogram,
    pub gup: Histogram,
    pub in_vmm: Histogram,
    pub storm_duration: Histogram,
    pub vms: IntGauge,
    pub vms_by_forecast: IntGaugeVec,
    pub vms_lost_by_forecast: IntGaugeVec,
    pub forecast_made: Gauge,
    pub events: IntCounterVec,
    pub events_lost: IntCounterVec,
    pub last_event: Gauge,
    pub proved: Gauge,
    pub probe_attached: IntGaugeVec,
    pub probe_reattached: IntCounterVec,
    pub probe_runs: IntCounterVec,
    pub probe_run_seconds: CounterVec,
    pub probe_runs_missed: IntCounter,
    pub attach_delay: Gauge,
    pub store_size: IntGauge,
    pub store_up: IntGauge,
    pub store_waiting: IntGauge,
    pub store_failures: IntCounter,
    pub incident_delay: Gauge,
    pub hook_runs: IntCounterVec,
    pub hardware_corrupted: IntGauge,
    pub kernel_memory_failures: IntCounterVec,
    pub memory_failures_missed: IntCounter,
    pub resident_memory: IntGauge,
    pub cpu_seconds: Counter,
}

/// Makes and registers metrics; the names are constants of this file, so that none can fail at run time but by a
/// mistake that the tests find.
struct Maker<'r>(&'r Registry);

impl Maker<'_> {
    fn add<C: Collector + Clone + 'static>(&self, made: prometheus::Result<C>) -> prometheus::Result<C> {
        let made = made?;
        self.0.register(Box::new(made.clone()))?;
        Ok(made)
    }

    fn counter(&self, name: &str, help: &str) -> prometheus::Result<IntCounter> {
        self.add(IntCounter::new(full(name), help))
    }

    fn gauge(&self, name: &str, help: &str) -> prometheus::Result<IntGauge> {
        self.add(IntGauge::new(full(name), help))
    }

    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntCounterVec> {
        self.add(IntCounterVec::new(Opts::new(full(name), help), labels))
    }

    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntGaugeVec> {
        self.add(IntGaugeVec::new(Opts::new(full(name), help), labels))
    }

    /// Counters of one label whose values are known.
    fn known(
        &self,
        name: &str,
        help: &str,
        label: &str,
        values: &[&str],
    ) -> prometheus::Result<IntCounterVec> {
        let counters = self.counters(name, help, &[label])?;
        for value in values {
            counters.with_label_values(&[value]);
        }
        Ok(counters)
    }

    fn histogram(&self, name: &str, help: &str) -> prometheus::Result<Histogram> {
        self.add(Histogram::new(full(name), help))
    }
}

fn full(name: &str) -> String {
    format!("poisontrace_{name}")
}

impl Families {
    /// Makes all of them and registers them.
    ///
    /// # Errors
    /// Two metrics of one name, or a name that is none: never, as the tests show.
    pub fn new(registry: &Registry) -> prometheus::Result<Self> {
        let make = Maker(registry);
        let families = Self {
            memory_failures: make.counters(
                "memory_failures_total",
                "Pages handled by the host's memory_failure(), by the kernel's page type and result, and by the error's origin",
                &["type", "result", "origin"],
            )?,
            poisoned_pages: make.gauge(
                "poisoned_pages",
                "Poisoned pages of 4 KiB in the memory of running VMs",
            )?,
            guests_at_risk: make.gauge(
                "guests_at_risk",
                "Running VMs with a poisoned page that nothing has accessed yet",
            )?,
            incidents: make.counters(
                "incident_verdicts_total",
                "Incidents by verdict; an incident counts once under each verdict that it reaches",
                &["outcome", "cause"],
            )?,
            incidents_opened: make.counter("incidents_opened_total", "Incidents opened")?,
            incidents_open: make.gauge("incidents_open", "Incidents whose VMM is still running")?,
            incidents_evicted: make.counter(
                "incidents_evicted_total",
                "Incidents evicted from memory because a table was full; the store keeps all but claims for which it had no room",
            )?,
            table_evictions: make.known(
                "table_evictions_total",
                "Entries of other tables that were evicted, or for which there was no room",
                "table",
                &[&TABLES[..], &OTHER_TABLES[..]].concat(),
            )?,
            poison_exits: make.known(
                "poison_exits_total",
                "VM exits on poison, by access",
                "access",
                &ACCESSES,
            )?,
            storms: make.known("storms_total", "Storms of exits on one page, by kind", "kind", &STORMS)?,
            sigbus: make.known(
                "sigbus_total",
                "SIGBUS for poison sent to VMMs, by severity",
                "severity",
                &SEVERITIES,
            )?,
            machine_checks_queued: make.known(
                "machine_checks_queued_total",
                "Machine checks that VMMs injected, by severity",
                "severity",
                &SEVERITIES,
            )?,
            machine_checks_delivered: make.counter(
                "machine_checks_delivered_total",
                "Entries of #MC into guests",
            )?,
            exit_to_entry: make.histogram(
                "exit_to_entry_seconds",
                "Poison exits: from the exit to the next entry into the guest",
            )?,
            in_kernel: make.histogram(
                "exit_in_kernel_seconds",
                "Poison exits: from the exit to the return to the VMM, or into the guest",
            )?,
            gup: make.histogram(
                "exit_gup_seconds",
                "Poison exits: in get_user_pages_unlocked(), the host-side gup",
            )?,
            in_vmm: make.histogram(
                "exit_in_vmm_seconds",
                "Poison exits: from the return to the VMM to the next entry into the guest",
            )?,
            storm_duration: make.histogram(
                "storm_duration_seconds",
                "Storms: from the first exit to the last entry into the guest, once they are over",
            )?,
            vms: make.gauge("vms", "Running VMs that are known")?,
            vms_by_forecast: make.gauges(
                "vms_by_forecast",
                "Running VMs by what a memory error in a process of the guest would do, as `poisontrace forecast` has it",
                &["outcome", "cause"],
            )?,
            vms_lost_by_forecast: make.gauges(
                "vms_lost_by_forecast",
                "Of these VMs those that would be lost, by what would save them: a setting, or none",
                &["saved_by"],
            )?,
            forecast_made: make.add(Gauge::new(
                full("forecast_timestamp_seconds"),
                "Time of the last forecast; 0 before the first",
            ))?,
            events: make.known(
                "events_total",
                "Records received from the probes, by ring buffer",
                "ring",
                &[RING],
            )?,
            events_lost: make.known(
                "events_lost_total",
                "Records of the probes lost, by ring buffer",
                "ring",
                &[RING],
            )?,
            last_event: make.add(Gauge::new(
                full("last_event_timestamp_seconds"),
                "Wall-clock time of the last event; 0 before the first",
            ))?,
            proved: make.add(Gauge::new(
                full("probes_last_heartbeat_timestamp_seconds"),
                "Time of the last heartbeat of the probes; 0 on a host where they cannot send one",
            ))?,
            probe_attached: make.gauges(
                "probe_attached",
                "1: this probe of `poisontrace check` is attached; 0: it is unavailable, or KVM is unloaded",
                &["probe"],
            )?,
            probe_reattached: make.counters(
                "probe_reattached_total",
                "Times that a probe was attached again after KVM was unloaded",
                &["probe"],
            )?,
            probe_runs: make.counters(
                "probe_runs_total",
                "Runs of the probes' BPF programs, while kernel.bpf_stats_enabled is 1",
                &["program"],
            )?,
            probe_run_seconds: make.add(CounterVec::new(
                Opts::new(
                    full("probe_run_seconds_total"),
                    "Time in the probes' BPF programs, while kernel.bpf_stats_enabled is 1",
                ),
                &["program"],
            ))?,
            probe_runs_missed: make.counter(
                "probe_runs_missed_total",
                "Runs of the probes' BPF programs that the kernel skipped because another ran on that CPU",
            )?,
            attach_delay: make.add(Gauge::new(
                full("exit_probes_attach_delay_seconds"),
                "Time from the last poison, where nothing was attached before, until kvm_exit and kvm_entry were attached; 0 before the first",
            ))?,
            store_size: make.gauge("store_size_bytes", "Size of the store's files")?,
            store_up: make.gauge("store_up", "0: the last write to the store failed")?,
            store_waiting: make.gauge(
                "store_waiting_incidents",
                "Changed incidents waiting for the store",
            )?,
            incident_delay: make.add(Gauge::new(
                full("incident_delay_seconds"),
                "Age of the oldest change of an incident that log, hook, metrics or store have not got yet",
            ))?,
            store_failures: make.counter("store_failures_total", "Writes to the store that failed")?,
            hook_runs: make.known(
                "hook_runs_total",
                "Runs of the trigger hook by result; dropped: the queue was full",
                "result",
                &Ended::ALL.map(Ended::word),
            )?,
            hardware_corrupted: make.gauge(
                "kernel_hardware_corrupted_bytes",
                "Poisoned memory by the kernel's count (HardwareCorrupted of /proc/meminfo)",
            )?,
            kernel_memory_failures: make.counters(
                "kernel_memory_failures_total",
                "Memory failures by the kernel's own count (sum over the nodes' memory_failure/*)",
                &["counter"],
            )?,
            memory_failures_missed: make.counter(
                "memory_failures_missed_total",
                "Memory failures that the kernel counted since the start and the probes missed",
            )?,
            // The standard names of a process' own metrics, without the prefix.
            resident_memory: make.add(IntGauge::new(
                "process_resident_memory_bytes",
                "Resident memory of the daemon",
            ))?,
            cpu_seconds: make.add(Counter::new(
                "process_cpu_seconds_total",
                "User and system time of the daemon",
            ))?,
        };
        for page_type in PAGE_TYPES {
            for result in RESULTS {
                families
                    .memory_failures
                    .with_label_values(&[page_type, result, OriginKind::Unknown.word()]);
            }
        }
        for (outcome, cause) in VERDICTS {
            families
                .incidents
                .with_label_values(&[outcome.word(), cause.word()]);
        }
        Ok(families)
    }
}
