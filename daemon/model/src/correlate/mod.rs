//! The correlator: events in, incidents out. A pure state machine: time comes from the events, there is no
//! clock, no I/O and no global state, so a replay is exact and every rule is a plain unit test.

use alloc::{boxed::Box, string::String, vec::Vec};
mod by_process;
mod injection;
mod log_correlation;
mod pages;
mod preexisting;
pub mod report;
pub mod resume;
mod shared_pages;
mod sigbus_handling;
mod termination;
mod threads;
mod walks;

use alloc::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use crate::{
    event::{
        Event, EventKind, Vmm,
        session::Session,
        totals::{DurationTotals, FloorKind},
    },
    incident::{evidence::Evidence, model::Incident, next_steps::Related, timeline::TimelineEvent},
};
use pages::{Failure, PageIndex};
use report::Update;
use threads::Thread;

/// Number of an incident within one correlator.
pub type IncidentNo = u64;

/// Limits of the tables. Each table that is full drops its oldest entry; incidents that were dropped are
/// counted in [`Correlator::forgotten`].
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub incidents: usize,
    pub threads: usize,
    pub processes: usize,
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

#[derive(Clone, Copy, Default)]
struct Dropped {
    threads: u64,
    processes: u64,
    failures: u64,
    answers: u64,
    silent: u64,
}

/// See the module.
pub struct Correlator {
    session: Session,
    limits: Limits,
    incidents: BTreeMap<IncidentNo, Box<Evidence>>,
    next: IncidentNo,
    /// Incidents by VMM, in order of their beginning.
    by_pid: BTreeMap<u32, Vec<IncidentNo>>,
    /// By address in the VMM.
    pages: PageIndex,
    /// By guest-physical address.
    gpas: PageIndex,
    failures: BTreeMap<u32, Failure>,
    silent: VecDeque<pages::Silent>,
    /// Page frames of the incidents.
    by_pfn: shared_pages::ByPfn,
    by_process: by_process::ByProcess,
    /// Incidents that may be another's.
    waiting: walks::Waiting,
    answers: sigbus_handling::AllAnswers,
    threads: BTreeMap<u32, Thread>,
    processes: BTreeMap<u32, Arc<Vmm>>,
    changed: BTreeSet<IncidentNo>,
    /// Incidents that the last event belongs to.
    touched: BTreeSet<IncidentNo>,
    forgotten: u64,
    /// Since when all probes have been at work, of a session that began on stand-by.
    engaged_ns: Option<u64>,
    /// Entries that had to make room.
    dropped: Dropped,
    /// A trace reported signals without their address.
    signals_without_address: bool,
    /// The host's exits that touch no guest memory.
    floor: BTreeMap<FloorKind, DurationTotals>,
    /// VMs of which logs speak.
    logged: log_correlation::LoggedVms,
}

impl Correlator {
    pub fn new(session: Session) -> Self {
        Self::with_limits(session, Limits::default())
    }

    pub fn with_limits(session: Session, limits: Limits) -> Self {
        Self {
            session,
            limits,
            incidents: BTreeMap::new(),
            next: 1,
            by_pid: BTreeMap::new(),
            pages: PageIndex::default(),
            gpas: PageIndex::default(),
            failures: BTreeMap::new(),
            silent: VecDeque::new(),
            by_pfn: shared_pages::ByPfn::default(),
            by_process: by_process::ByProcess::default(),
            waiting: walks::Waiting::default(),
            answers: BTreeMap::new(),
            threads: BTreeMap::new(),
            processes: BTreeMap::new(),
            changed: BTreeSet::new(),
            touched: BTreeSet::new(),
            forgotten: 0,
            engaged_ns: None,
            dropped: Dropped::default(),
            signals_without_address: false,
            floor: BTreeMap::new(),
            logged: log_correlation::LoggedVms::default(),
        }
    }

    /// Sets [`Limits::attribution_window_ns`], for what is stated from now on.
    pub fn attribution_window(&mut self, ns: u64) {
        self.limits.attribution_window_ns = ns;
    }

    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Incidents that were dropped because the table was full.
    pub fn forgotten(&self) -> u64 {
        self.forgotten
    }

    /// Entries that had to make room, by table ([`TABLES`]).
    pub fn dropped(&self) -> [(&'static str, u64); TABLES.len()] {
        let Dropped {
            threads,
            processes,
            failures,
            answers,
            silent,
        } = self.dropped;
        let counts = [threads, processes, failures, answers, silent];
        core::array::from_fn(|n| (TABLES[n], counts[n]))
    }

    /// Entries of each table, in the order of [`TABLES`].
    pub fn table_sizes(&self) -> [usize; TABLES.len()] {
        [
            self.threads.len(),
            self.processes.len(),
            self.failures.len(),
            self.answers.len(),
            self.silent.len(),
        ]
    }

    /// Incidents that are remembered.
    pub fn incident_count(&self) -> usize {
        self.incidents.len()
    }

    fn engaged(&mut self, event: &Event) {
        if self.engaged_ns.is_some() {
            return;
        }
        self.engaged_ns = Some(event.t);
        for (no, e) in &mut self.incidents {
            if !e.machine_checks.is_empty() || !e.ends.is_empty() {
                e.blind_ns = event.t.saturating_sub(e.t0);
                self.changed.insert(*no);
            }
        }
    }

    /// Whether all probes were at work at `t`, so that what none of them reported did not happen.
    fn all_seen(&self, t: u64) -> bool {
        !self.session.standby || self.engaged_ns.is_some_and(|engaged| engaged <= t)
    }

    /// Takes one event.
    pub fn feed(&mut self, event: &Event) {
        self.touched.clear();
        self.end_waiting(event);
        self.dispatch(event);
        let touched = core::mem::take(&mut self.touched);
        for no in &touched {
            self.index_gpa(*no, event);
        }
        self.touched = touched;
        if matches!(event.what, EventKind::PageTotals(_)) {
            // No event of its own, but the sum of those that were, and of those that were not sent.
            self.touched.clear();
        }
        for no in &self.touched {
            if let Some(evidence) = self.incidents.get_mut(no) {
                evidence.events += 1;
            }
        }
    }

    fn dispatch(&mut self, event: &Event) {
        self.learn_vcpu(event);
        match &event.what {
            EventKind::FailureBegin { pfn, flags } => self.failure_begin(event, pfn.0, *flags),
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
            EventKind::Floor { kind, time } => {
                self.floor.insert(*kind, time.clone());
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
            EventKind::Delivered => self.delivered(event),
            EventKind::McgStatus { write, data } => self.mcg_status(event, *write, data.0),
            EventKind::GuestCode { rip, bytes } => self.guest_code(event, rip.0, bytes),
            EventKind::Sregs(sregs) => self.registers(event, sregs),
            // Only what is read with it speaks of the page.
            EventKind::MemSlot { .. } => {}
            EventKind::Vmm(vmm) => self.identity(event.pid, vmm),
            EventKind::Lost { records } => self.lost(event, *records),
            EventKind::AllProbesAttached => self.engaged(event),
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
        let shown = self.touched.iter().filter(|no| !self.waiting.contains(**no));
        shown.filter_map(|no| {
            let evidence = self.incidents.get(no)?;
            Some((report::id(evidence, &self.session), evidence.events - 1))
        })
    }

    /// Incidents that changed since the last call, as they stand now.
    pub fn take_changed(&mut self) -> Vec<Update> {
        let changed = self.take_numbers();
        changed.into_iter().filter_map(|no| self.report(no)).collect()
    }

    /// As [`Correlator::take_changed`], their numbers alone: to be reported a few at a time.
    pub fn take_numbers(&mut self) -> BTreeSet<IncidentNo> {
        core::mem::take(&mut self.changed)
    }

    /// Events that belong to an incident so far.
    pub fn events_of(&self, no: IncidentNo) -> u64 {
        self.incidents.get(&no).map_or(0, |evidence| evidence.events)
    }

    /// All incidents, oldest first.
    pub fn incidents(&mut self) -> Vec<Incident> {
        self.settle_walks();
        let updates = self.incidents.keys().filter_map(|no| self.report(*no));
        updates.map(|update| update.incident).collect()
    }

    /// An incident as it stands now; `None`: forgotten, or none of a guest.
    pub fn report(&self, no: IncidentNo) -> Option<Update> {
        let evidence = self.incidents.get(&no)?;
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
        if !self.processes.contains_key(&pid) {
            self.dropped.processes += make_room(&mut self.processes, self.limits.processes);
        }
        let vmm = Arc::new(vmm.clone());
        self.processes.insert(pid, Arc::clone(&vmm));
        let live: Vec<IncidentNo> = self.live_of(pid).collect();
        for no in live {
            if let Some(evidence) = self.touch(no) {
                evidence.vmm = Arc::clone(&vmm);
            }
        }
    }

    fn lost(&mut self, event: &Event, records: u64) {
        let open: Vec<IncidentNo> = self.pages.incidents().collect();
        for no in open {
            if let Some(evidence) = self.incidents.get_mut(&no) {
                evidence.lost += records;
                evidence
                    .timeline
                    .add(event.t, TimelineEvent::RecordsMissed { records });
                self.changed.insert(no);
            }
        }
    }

    fn forget_pages_of(&mut self, pid: u32) {
        self.pages.remove_pid(pid);
        self.gpas.remove_pid(pid);
        self.by_pid.remove(&pid);
        self.threads.retain(|_, thread| thread.pid != pid);
    }

    /// Opens an incident; the oldest goes where there is no room.
    fn open(&mut self, evidence: Evidence) -> IncidentNo {
        while self.incidents.len() >= self.limits.incidents {
            let Some((no, _)) = self.incidents.first_key_value() else {
                break;
            };
            self.forgotten += 1;
            self.remove(*no);
        }
        let no = self.next;
        self.next += 1;
        self.by_pid.entry(evidence.pid).or_default().push(no);
        if let Some(pfn) = evidence.pfn {
            self.index_pfn(no, pfn);
        }
        self.incidents.insert(no, Box::new(evidence));
        self.changed.insert(no);
        self.touched.insert(no);
        no
    }

    fn remove(&mut self, no: IncidentNo) -> Option<Box<Evidence>> {
        let old = self.incidents.remove(&no)?;
        self.unindex(no, &old);
        if let Some(list) = self.by_pid.get_mut(&old.pid) {
            // In order of their beginning, hence of their numbers.
            if let Ok(at) = list.binary_search(&no) {
                list.remove(at);
            }
            if list.is_empty() {
                self.by_pid.remove(&old.pid);
            }
        }
        Some(old)
    }

    /// Lets go of an incident of which nothing more can come and of which all has been reported. Returns its id.
    pub fn release(&mut self, no: IncidentNo) -> Option<String> {
        let old = self.remove(no)?;
        Some(report::id(&old, &self.session))
    }

    fn touch(&mut self, no: IncidentNo) -> Option<&mut Evidence> {
        self.changed.insert(no);
        self.touched.insert(no);
        self.incidents.get_mut(&no).map(Box::as_mut)
    }
}

/// A process that could not be asked whether it is a VMM, and for which KVM never spoke, is none.
fn is_of_a_guest(evidence: &Evidence) -> bool {
    evidence.vmm.is_vmm == Some(true) || evidence.kvm_seen()
}

/// Drops first entries until one more fits. Returns how many.
fn make_room<K: Ord + Clone, V>(map: &mut BTreeMap<K, V>, limit: usize) -> u64 {
    let mut dropped = 0;
    while map.len() >= limit.max(1) {
        map.pop_first();
        dropped += 1;
    }
    dropped
}
