//! The correlator: events in, incidents out. A pure state machine: time comes from the events, there is no
//! clock, no I/O and no global state, so a replay is exact and every rule is a plain unit test.

use alloc::{boxed::Box, string::String, vec::Vec};
mod bounded;
mod by_page;
mod by_process;
mod hardware;
mod incident_table;
mod injection;
mod log_correlation;
mod log_learning;
mod log_names;
mod memory_failures;
mod page_index;
mod pages;
mod preexisting;
pub mod report;
pub mod resume;
mod shared_pages;
mod sigbus_handling;
mod termination;
mod thread_table;
mod walks;

use alloc::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::{
    event::{
        AttachDelay, Event, EventKind, Vmm,
        session::Session,
        totals::{BaselineKind, DurationTotals},
    },
    incident::{evidence::Evidence, model::Incident, next_steps::Related, timeline::TimelineEvent},
};
use bounded::BoundedMap;
use incident_table::IncidentTable;
use memory_failures::MemoryFailures;
use page_index::PageIndex;
use report::Update;
use sigbus_handling::SigbusHandling;
use thread_table::ThreadTable;

/// Number of an incident within one correlator.
pub type IncidentNo = u64;

/// Limits of the tables. A full table evicts an entry (the oldest incident of the process with most, of processes without a guest
/// first; elsewhere the lowest key, but of VMMs last) and counts it: [`Correlator::incidents_evicted`], [`Correlator::table_evictions`].
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// One per poisoned page and VM.
    pub incidents: usize,
    /// vCPU and VMM threads.
    pub threads: usize,
    /// VMMs.
    pub processes: usize,
    /// memory_failure() under way.
    pub failures: usize,
    /// How long after the last sign of poison a guest's end still belongs to the incident, nanoseconds.
    pub attribution_window_ns: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            incidents: 16_384,
            threads: 65_536,
            processes: 16_384,
            failures: 1024,
            attribution_window_ns: 600_000_000_000,
        }
    }
}

/// Tables beside that of the incidents.
pub const TABLES: [&str; 5] = [
    "threads",
    "processes",
    "memory_failures",
    "signals",
    "silent_losses",
];

/// See the module.
pub struct Correlator {
    session: Session,
    /// [`Limits::attribution_window_ns`].
    attribution_window_ns: u64,
    incidents: IncidentTable,
    pages: PageIndex,
    threads: ThreadTable,
    /// By process.
    processes: BoundedMap<u32, Arc<Vmm>>,
    failures: MemoryFailures,
    /// By process.
    sigbus_handling: BoundedMap<u32, SigbusHandling>,
    /// Incidents that may be another's.
    waiting: walks::Waiting,
    /// Since when all probes have been at work, of a session that began on stand-by.
    all_attached_ns: Option<u64>,
    /// Since when they are on stand-by, if they have been at work before.
    standby_since_ns: u64,
    /// How long it took to attach kvm_exit and kvm_entry at the last poison.
    attach_delay: Option<AttachDelay>,
    /// A trace reported signals without their address.
    signals_without_address: bool,
    /// The host's exits that touch no guest memory.
    baseline_exits: BTreeMap<BaselineKind, DurationTotals>,
    /// VMs that logs name.
    logged: log_correlation::LoggedVms,
    host_reports: hardware::HostReports,
}

impl Correlator {
    /// One with the usual limits.
    pub fn new(session: Session) -> Self {
        Self::with_limits(session, Limits::default())
    }

    /// One with other limits.
    pub fn with_limits(session: Session, limits: Limits) -> Self {
        Self {
            session,
            attribution_window_ns: limits.attribution_window_ns,
            incidents: IncidentTable::new(limits.incidents),
            pages: PageIndex::default(),
            threads: ThreadTable::new(limits.threads),
            processes: BoundedMap::new(limits.processes),
            failures: MemoryFailures::new(limits.failures),
            sigbus_handling: BoundedMap::new(limits.processes),
            waiting: walks::Waiting::default(),
            all_attached_ns: None,
            standby_since_ns: 0,
            attach_delay: None,
            signals_without_address: false,
            baseline_exits: BTreeMap::new(),
            logged: log_correlation::LoggedVms::default(),
            host_reports: hardware::HostReports::default(),
        }
    }

    /// Sets [`Limits::attribution_window_ns`], for ends from now on.
    pub fn attribution_window(&mut self, ns: u64) {
        self.attribution_window_ns = ns;
    }

    /// The session of the events.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Incidents that were evicted because the table was full, and claims for which a process has too many incidents.
    pub fn incidents_evicted(&self) -> u64 {
        self.incidents.evicted()
    }

    /// Entries that had to make room, by table ([`TABLES`]).
    pub fn table_evictions(&self) -> [(&'static str, u64); TABLES.len()] {
        let [failures, silent] = self.failures.evicted();
        let counts = [
            self.threads.evicted(),
            self.processes.evicted(),
            failures,
            self.sigbus_handling.evicted(),
            silent,
        ];
        core::array::from_fn(|n| (TABLES[n], counts[n]))
    }

    /// Entries of each table, in the order of [`TABLES`].
    pub fn table_sizes(&self) -> [usize; TABLES.len()] {
        let [failures, silent] = self.failures.sizes();
        [
            self.threads.len(),
            self.processes.len(),
            failures,
            self.sigbus_handling.len(),
            silent,
        ]
    }

    /// Incidents that are remembered.
    pub fn incident_count(&self) -> usize {
        self.incidents.len()
    }

    fn all_probes_attached(&mut self, event: &Event) {
        if self.all_attached_ns.is_some() {
            return;
        }
        self.all_attached_ns = Some(event.t);
        let notified_or_ended = |e: &Evidence| !e.machine_checks.is_empty() || !e.ends.is_empty();
        let partly_seen: Vec<IncidentNo> = self
            .incidents
            .iter()
            .filter(|(_, e)| e.t0 >= self.standby_since_ns && notified_or_ended(e))
            .map(|(no, _)| no)
            .collect();
        for no in partly_seen {
            if let Some(e) = self.incidents.change(no) {
                e.blind_ns = event.t.saturating_sub(e.t0);
            }
        }
    }

    /// The incidents that are open had exits without it.
    fn exit_probes_attached(&mut self, delay: AttachDelay) {
        self.attach_delay = Some(delay);
        let before: Vec<IncidentNo> = self
            .incidents
            .iter()
            .filter(|(_, e)| e.exits.recovered.exits > 0 && e.attach_delay.is_none())
            .map(|(no, _)| no)
            .collect();
        for no in before {
            if let Some(e) = self.incidents.change(no) {
                e.attach_delay = Some(delay);
            }
        }
    }

    /// Stand-by again: what is attached at poison alone does not see the next.
    fn exit_probes_detached(&mut self, event: &Event) {
        self.attach_delay = None;
        self.all_attached_ns = None;
        self.standby_since_ns = event.t;
    }

    /// Whether all probes were at work at `t`, so that what none of them saw did not happen.
    fn all_seen(&self, t: u64) -> bool {
        !self.session.standby || self.all_attached_ns.is_some_and(|attached| attached <= t)
    }

    /// Takes one event.
    pub fn feed(&mut self, event: &Event) {
        self.incidents.clear_touched();
        self.end_waiting(event);
        self.dispatch(event);
        // Totals are no event of their own, but the sum of those that were, and of those that were not sent.
        let counts = !matches!(event.what, EventKind::PageTotals(_));
        let pages = &mut self.pages;
        self.incidents
            .index_touched(counts, |no, evidence| pages.index(no, evidence, event));
        if !counts {
            self.incidents.clear_touched();
        }
    }

    fn dispatch(&mut self, event: &Event) {
        self.learn_vcpu(event);
        match &event.what {
            EventKind::FailureBegin {
                pfn,
                flags,
                in_kvm_run,
            } => self.failure_begin(event, pfn.0, *flags, *in_kvm_run),
            EventKind::McExit { rip } => self.mc_exit(event, *rip),
            EventKind::HostMce(mce) => self.host_mce(event, mce),
            EventKind::EdacError { addr, label } => self.edac_error(event, addr.0, label),
            EventKind::FirmwareError { addr } => self.firmware_error(event, addr.0),
            EventKind::FailureAction {
                pfn,
                page_type,
                result,
            } => {
                self.failure_action(event, pfn.0, page_type, result);
                self.action_seen(event, pfn.0, page_type, result);
            }
            EventKind::FailureEnd { ret } => self.failure_end(event, *ret),
            EventKind::Preexisting { pfn, hva } => self.found(event, pfn.0, hva.0),
            EventKind::Sigbus {
                hva,
                severity,
                lsb,
                target_tid,
                target_pid,
                forced,
                ..
            } => {
                self.sigbus(
                    event,
                    pages::Signal {
                        hva: hva.0,
                        severity: *severity,
                        lsb: *lsb,
                        target_tid: *target_tid,
                        target_pid: *target_pid,
                        forced: *forced,
                    },
                );
            }
            EventKind::PoisonExit(exit) => {
                if !self.unplaced_exit(event, exit) {
                    self.poison_exit(event, exit);
                }
            }
            EventKind::SigbusNoAddress {
                severity,
                target_tid,
                target_pid,
                gpa,
                pfn,
                ..
            } => self.sigbus_seen(
                event,
                &log_correlation::Seen {
                    severity: *severity,
                    pid: *target_pid,
                    tid: *target_tid,
                    gpa: gpa.map(|gpa| gpa.0),
                    pfn: pfn.map(|pfn| pfn.0),
                },
            ),
            EventKind::LogStatement(record) => self.stated(event, record),
            EventKind::PageTotals(totals) => self.page_totals(event, totals),
            EventKind::BaselineExit { kind, time } => {
                self.baseline_exits.insert(*kind, time.clone());
            }
            EventKind::Reentry { exit_ns, entry_ns } => self.reentry(event, *exit_ns, *entry_ns),
            EventKind::SetMsrs {
                mcg_status,
                banks,
                truncated,
                unreadable,
            } => {
                self.set_msrs(event, mcg_status.map(|m| m.0), banks, *truncated, *unreadable);
            }
            EventKind::SetMce { mcg_status, bank } => self.set_mce(event, mcg_status.0, bank),
            EventKind::QueueException { pending, injected } => self.queued(event, *pending, *injected),
            EventKind::Delivered => self.delivered(event, None),
            EventKind::DeliveredAt { rip } => self.delivered(event, Some(rip.0)),
            EventKind::McgStatus { write, data, mc_on } => {
                self.thread_goes_on(event);
                if *write && data.0 == 0 {
                    self.handler_finished(event, *mc_on);
                }
            }
            EventKind::GuestCode { rip, bytes } => self.guest_code(event, rip.0, bytes),
            EventKind::Sregs(sregs) => self.registers(event, sregs),
            // Only the instruction that is read with it is of the page.
            EventKind::MemSlot { .. } => {}
            EventKind::Vmm(vmm) => self.identity(event.pid, vmm),
            EventKind::Lost { records } => self.lost(event, *records),
            EventKind::RunsMissed { runs } => self.runs_missed(*runs),
            EventKind::HostMemoryLost => self.host_lost_memory(event.t),
            EventKind::AllProbesAttached => self.all_probes_attached(event),
            EventKind::ExitProbesAttached(delay) => self.exit_probes_attached(*delay),
            EventKind::ExitProbesDetached => self.exit_probes_detached(event),
            EventKind::UserspaceExit { .. }
            | EventKind::Pio { .. }
            | EventKind::VcpuReset { .. }
            | EventKind::TripleFault { .. }
            | EventKind::TaskExit { .. }
            | EventKind::VmDestroyed
            | EventKind::VmmGone
            | EventKind::ResetAsked { .. } => self.ended(event),
        }
    }

    /// The incidents that the last event belongs to: id, and the event's number (from 0) among those of the incident.
    pub fn attribution(&self) -> impl Iterator<Item = (String, u64)> + '_ {
        let shown = self
            .incidents
            .touched()
            .filter(|(no, _)| !self.waiting.contains(*no));
        shown.map(|(_, evidence)| (report::id(evidence, &self.session), evidence.events - 1))
    }

    /// Incidents that changed since the last call, as they stand now.
    pub fn take_changed(&mut self) -> Vec<Update> {
        let changed = self.take_numbers();
        changed.into_iter().filter_map(|no| self.report(no)).collect()
    }

    /// As [`Correlator::take_changed`], their numbers alone: to be reported a few at a time.
    pub fn take_numbers(&mut self) -> BTreeSet<IncidentNo> {
        self.incidents.take_changed()
    }

    /// Events that belong to an incident so far.
    pub fn events_of(&self, no: IncidentNo) -> u64 {
        self.incidents.get(no).map_or(0, |evidence| evidence.events)
    }

    /// The process number of an incident's VMM; 0: forgotten.
    pub fn process_of(&self, no: IncidentNo) -> u32 {
        self.incidents.get(no).map_or(0, |evidence| evidence.pid)
    }

    /// All incidents, oldest first.
    pub fn incidents(&mut self) -> Vec<Incident> {
        self.settle_walks();
        let updates = self.incidents.iter().filter_map(|(no, _)| self.report(no));
        updates.map(|update| update.incident).collect()
    }

    /// An incident as it stands now; `None`: forgotten, or none of a guest.
    pub fn report(&self, no: IncidentNo) -> Option<Update> {
        let evidence = self.incidents.get(no)?;
        if !is_of_a_guest(evidence) || self.waiting.contains(no) {
            return None;
        }
        let linked = self.linked(no, evidence);
        let named = linked.first.iter().map(|other| report::id(other, &self.session));
        let related = Related {
            named: named.collect(),
            total: linked.count,
        };
        Some(report::update(evidence, &self.session, related))
    }

    fn identity(&mut self, pid: u32, vmm: &Vmm) {
        if let Some(known) = self.processes.get(&pid) {
            let reused = known.start_ticks.is_some()
                && vmm.start_ticks.is_some()
                && known.start_ticks != vmm.start_ticks;
            if reused {
                // Another process under the same number: the old one's pages are not its.
                self.forget_pages_of(pid);
            }
        }
        let vmm = Arc::new(vmm.clone());
        self.introduce(pid, Arc::clone(&vmm));
        let live: Vec<IncidentNo> = self.incidents.live_of(pid).collect();
        for no in live {
            if let Some(evidence) = self.incidents.touch(no) {
                evidence.vmm = Arc::clone(&vmm);
            }
        }
    }

    /// Processes are had without end by any user: they must not cost a VM its name.
    fn introduce(&mut self, pid: u32, vmm: Arc<Vmm>) {
        self.processes
            .insert_sparing(pid, vmm, |_, known| known.is_vmm == Some(true));
    }

    /// Whether the process has been introduced ([`EventKind::Vmm`]), and is not forgotten.
    pub fn knows(&self, pid: u32) -> bool {
        self.processes.get(&pid).is_some()
    }

    /// Whether the page's incident has this signal, or a later one that answers no exit either.
    pub fn knows_signal(&self, event: &Event) -> bool {
        let EventKind::Sigbus { hva, target_pid, .. } = event.what else {
            return false;
        };
        let known = self.pages.of_hva(target_pid, hva.0);
        let evidence = known.and_then(|no| self.incidents.get(no));
        evidence.is_some_and(|evidence| evidence.signalled >= Some(event.t))
    }

    fn lost(&mut self, event: &Event, records: u64) {
        // A memory_failure() may have been among them.
        self.failures.note_loss();
        let open: Vec<IncidentNo> = self.pages.incidents().collect();
        for no in open {
            if let Some(evidence) = self.incidents.change(no) {
                evidence.lost += records;
                evidence
                    .timeline
                    .add(event.t, TimelineEvent::RecordsMissed { records });
            }
        }
    }

    /// Whether a VM holds poison, or may come to hold a page that the host lost lately (a memory file). `now`: CLOCK_MONOTONIC,
    /// nanoseconds.
    pub fn holds_poison(&self, now: u64) -> bool {
        const LATELY_NS: u64 = 3_600_000_000_000;
        let held = |e: &Evidence| is_of_a_guest(e) && !e.vmm_gone();
        self.incidents.iter().any(|(_, e)| held(e))
            || self.failures.silent_since(now.saturating_sub(LATELY_NS))
    }

    fn runs_missed(&mut self, runs: u64) {
        let open: Vec<IncidentNo> = self.pages.incidents().collect();
        for no in open {
            if let Some(evidence) = self.incidents.change(no) {
                evidence.runs_missed += runs;
            }
        }
    }

    fn forget_pages_of(&mut self, pid: u32) {
        self.pages.remove_process(pid);
        self.incidents.forget_process(pid);
        self.threads.remove_process(pid);
    }

    /// Opens an incident; the oldest goes where there is no room.
    fn open(&mut self, evidence: Evidence) -> IncidentNo {
        while let Some((no, old)) = self.incidents.evict() {
            self.pages.remove(no, &old);
        }
        let pfn = evidence.pfn;
        let no = self.incidents.insert(evidence);
        if let Some(pfn) = pfn {
            self.index_pfn(no, pfn);
        }
        no
    }

    fn remove(&mut self, no: IncidentNo) -> Option<Box<Evidence>> {
        let old = self.incidents.remove(no)?;
        self.pages.remove(no, &old);
        Some(old)
    }

    /// Removes an incident that nothing more can belong to and that has been reported in full. Returns its id.
    pub fn release(&mut self, no: IncidentNo) -> Option<String> {
        let old = self.remove(no)?;
        Some(report::id(&old, &self.session))
    }
}

/// Processes without KVM evidence, and of which /proc shows nothing, are not VMMs.
fn is_of_a_guest(evidence: &Evidence) -> bool {
    evidence.vmm.is_vmm == Some(true) || evidence.kvm_seen()
}
