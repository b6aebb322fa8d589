//! Imported evidence: signals without an address, and statements of logs. Of which VM a statement is was decided before
//! (`import::joins`); within that VM it is of the page that it names, by pfn, hva or GPA; what names none goes on about
//! the page that its speaker named last.

use alloc::{borrow::ToOwned as _, boxed::Box, string::String, vec::Vec};
use alloc::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    Correlator, IncidentNo,
    log_learning::{learn, merge_name},
    log_names::{Names, in_timeline, is_cause, is_effect},
    sigbus_handling::ToThread,
};
use crate::{
    event::{
        Event, EventKind, PoisonExit, SigbusSeverity, Vmm,
        log_statement::{LogRecord, LogStatement, Speaker},
        probe::{Hook, ProbeBinding, ProbeId},
        session::Session,
    },
    hex::Hex,
    incident::{
        evidence::Evidence,
        limits::PAGE_SIZE,
        log_evidence,
        model::HostEvent,
        timeline::{self, TimelineEvent},
    },
};

/// A guest may touch a page so long after its host lost it that the address it then names is of that page, nanoseconds.
const TOUCHED_WITHIN_NS: u64 = 6 * 3600 * 1_000_000_000;
/// What logs of one event may lie apart, nanoseconds.
const LOGS_APART_NS: u64 = 60_000_000_000;
/// What one clock's stamps may have in the wrong order, nanoseconds: a log with whole seconds, and a logger that is late.
const STAMPS_APART_NS: u64 = 2_000_000_000;

/// Largest page: 1 GiB; and the usual huge one.
const LSB_1G: u32 = 30;
const LSB_2M: u32 = 21;

/// A VM as the logs show it.
#[derive(Default)]
pub(super) struct LoggedVm {
    pids: BTreeSet<u32>,
    vmm: Vmm,
    /// Its incidents in logs.
    incidents: BTreeSet<IncidentNo>,
    /// What its kernel stated last of its machine, and the newest incident that has it.
    machine: Option<(LogStatement, IncidentNo)>,
}

/// All VMs of the logs, and the incident that each speaker named last.
#[derive(Default)]
pub(super) struct LoggedVms {
    vms: BTreeMap<u32, LoggedVm>,
    last: BTreeMap<(String, Speaker), IncidentNo>,
}

/// A SIGBUS as a trace shows it.
pub(super) struct Seen {
    pub severity: SigbusSeverity,
    pub pid: u32,
    pub tid: u32,
    pub gpa: Option<u64>,
    pub pfn: Option<u64>,
}

impl Correlator {
    /// What the sources of an import hold is known only when they have been read.
    pub fn learn_session(&mut self, session: Session) {
        self.session = session;
    }

    pub(super) fn sigbus_seen(&mut self, event: &Event, seen: &Seen) {
        let vmm = self.processes.get(&seen.pid).cloned().unwrap_or_default();
        if seen.pid == 0 || vmm.is_vmm == Some(false) {
            return;
        }
        // The live tracepoint is in the midst of the other probes; a trace is taken for what it shows alone.
        let live = matches!(
            self.session.binding(&ProbeId::SendSigMceerr),
            Some(ProbeBinding::Attached(hooks)) if hooks.iter().any(|hook| matches!(hook, Hook::Tracepoint(_)))
        );
        let failure = self.failures.on_thread(event.tid).filter(|_| live);
        let pfn = seen.pfn.or_else(|| failure?.pfn);
        let found = match (seen.gpa, pfn) {
            (Some(gpa), _) => self.page_touched(seen.pid, gpa),
            (None, Some(pfn)) => self.of_pfn(seen.pid, pfn),
            (None, None) if seen.severity == SigbusSeverity::ActionRequired => {
                self.incidents.latest_of(seen.pid)
            }
            (None, None) => None,
        };
        let no = found.unwrap_or_else(|| {
            let no = self.open(Evidence::new(event.t, seen.pid, vmm));
            if seen.gpa.is_some() {
                self.signal_in_walk(event, seen.tid, no);
            }
            no
        });
        if live {
            self.signalled_in_failure(event, seen.severity, no);
        }
        let to = ToThread {
            pid: seen.pid,
            tid: seen.tid,
            no,
            required: seen.severity == SigbusSeverity::ActionRequired,
            own_access: false,
        };
        self.signal_sent(event, &to);
        let vcpu = self.threads.vcpu_of(seen.tid);
        self.signals_without_address = true;
        if let Some(pfn) = pfn {
            self.name_pfn(no, pfn);
        }
        let Some(e) = self.incidents.touch(no) else { return };
        e.logged.trace |= !live;
        if let EventKind::SigbusNoAddress { comm, .. } = &event.what
            && !live
        {
            e.logged.signalled.get_or_insert_with(|| comm.clone());
        }
        if let Some(gpa) = seen.gpa {
            e.gpa.get_or_insert(gpa & !(PAGE_SIZE - 1));
        }
        e.poison_at(event.t);
        let by_exit = seen.gpa.is_some() || pfn.is_none() && seen.tid == event.tid;
        e.signal(seen.severity, by_exit);
        let signal = timeline::Signal {
            severity: seen.severity,
            pid: seen.pid,
            tid: seen.tid,
            vcpu,
            hva: None,
        };
        e.timeline.add(event.t, TimelineEvent::Signal(Box::new(signal)));
    }

    /// The incident of a touched page: its own; that of the huge page around it; or the only one whose GPA is
    /// not known yet.
    fn page_touched(&mut self, pid: u32, gpa: u64) -> Option<IncidentNo> {
        if let Some(no) = self.pages.of_gpa(pid, gpa) {
            return Some(no);
        }
        if let Some(no) = self.incidents.huge_around(pid, gpa) {
            let e = self.incidents.touch(no)?;
            let within = e.gpa.is_some_and(|known| (known ^ gpa) >> LSB_2M == 0);
            e.lsb = Some(if within { LSB_2M } else { LSB_1G });
            return Some(no);
        }
        self.incidents.only_unplaced(pid)
    }

    /// `memory_failure_event` of a page whose signals were seen without a probe on the function.
    pub(super) fn action_seen(&mut self, event: &Event, pfn: u64, page_type: &str, result: &str) {
        // Live, memory_failure()'s own thread joins them: no search through all incidents.
        if !self.signals_without_address {
            return;
        }
        let named = self.pages.pfns.of(pfn);
        let mine: Vec<IncidentNo> = named
            .filter_map(|no| Some((no, self.incidents.get(no)?)))
            .filter(|(_, e)| e.logged.trace && e.page_type.is_none())
            .map(|(no, _)| no)
            .collect();
        for no in mine {
            if let Some(e) = self.incidents.touch(no) {
                e.page_type = Some(page_type.to_owned());
                e.recovery = Some(result.to_owned());
                e.poison_at(event.t);
                e.timeline.add(event.t, TimelineEvent::action(page_type, result));
            }
        }
    }

    /// An exit on poison whose page is not known belongs to the page that was signalled last.
    pub(super) fn unplaced_exit(&mut self, event: &Event, exit: &PoisonExit) -> bool {
        if exit.hva.is_some() || exit.gpa.is_some() {
            return false;
        }
        let Some(no) = self.incidents.latest_of(event.pid) else {
            return false;
        };
        let Some(e) = self.incidents.touch(no) else {
            return false;
        };
        e.poison_at(event.t);
        e.exit(event.tid, event.vcpu, exit);
        e.timeline.add(
            exit.exit_ns.unwrap_or(event.t),
            TimelineEvent::exit(exit, event.vcpu),
        );
        true
    }

    /// Processes that are seen to run guests.
    pub fn guests(&self) -> BTreeSet<u32> {
        let all = self.incidents.iter().map(|(_, e)| e);
        let seen = all.filter(|e| e.pid != 0 && super::is_of_a_guest(e));
        seen.map(|e| e.pid).collect()
    }

    /// What a trace shows of processes that run no guest, and how many more of these there are.
    pub fn other_processes(&self) -> (Vec<HostEvent>, u64) {
        /// Entries of one answer.
        const MAX: usize = 256;
        let others = || {
            let all = self.incidents.iter().map(|(_, e)| e);
            all.filter(|e| e.logged.trace && e.pid != 0 && !super::is_of_a_guest(e))
        };
        let more = others().count().saturating_sub(MAX) as u64;
        let shown = others()
            .take(MAX)
            .map(|e| HostEvent {
                pfn: e.pfn.map(Hex),
                process: e.logged.signalled.clone(),
                pid: Some(e.pid),
                vm_helper: false,
                killed: false,
                action_result: e.recovery.clone(),
                dimm: None,
                source: "trace".to_owned(),
            })
            .collect();
        (shown, more)
    }

    /// A VM with statements to come, by its number.
    pub fn learn_vm(&mut self, number: u32, pids: &BTreeSet<u32>, vmm: &Vmm) {
        let vm = LoggedVm {
            pids: pids.clone(),
            vmm: vmm.clone(),
            ..LoggedVm::default()
        };
        self.logged.vms.insert(number, vm);
    }

    pub(super) fn stated(&mut self, event: &Event, record: &LogRecord) {
        if let LogStatement::Machine { .. } = &record.statement {
            return self.machine_of(record);
        }
        let mut names = Names::of(&record.statement);
        names.pfn = names.pfn.or(record.answers.map(|pfn| pfn.0));
        let speaker = (record.source.clone(), record.speaker.clone());
        let found = match event.pid {
            0 => {
                self.incidents.track_pages();
                self.of_logged_vm(event, record, names, &speaker)
            }
            pid => self.spoken_of_by(pid, names),
        };
        let Some(no) = found else { return };
        self.logged.last.insert(speaker, no);
        if event.pid == 0 {
            self.note_late_pairing(no, event, record, names);
        }
        let mut vmm = Vmm::default();
        if let Some(vm) = self.logged.vms.get_mut(&record.vm) {
            vm.incidents.insert(no);
            vmm = vm.vmm.clone();
        }
        if let Some(pfn) = names.pfn {
            self.name_pfn(no, pfn);
        }
        let late_death_ns = self.attribution_window_ns;
        let Some(e) = self.incidents.touch(no) else { return };
        // Without a common clock only the order is known.
        let t = match record.own_clock {
            Some(_) if e.last != event.t => e.last,
            _ => event.t,
        };
        e.logged.sources.insert(record.source.clone());
        if is_cause(&record.statement) {
            e.logged.signalled_at(event.t, record);
        } else if is_effect(&record.statement) {
            let early = e.logged.precedes_signal_by(event.t, record, STAMPS_APART_NS);
            e.logged.effect_first |= early >= STAMPS_APART_NS / 2;
        }
        e.logged.note(record);
        e.hva = e.hva.or(names.hva.map(|hva| hva & !(PAGE_SIZE - 1)));
        e.gpa = e.gpa.or(names.gpa.map(|gpa| gpa & !(PAGE_SIZE - 1)));
        let late = t.saturating_sub(e.last_poison) > late_death_ns;
        e.last = e.last.max(t);
        if t < e.t0
            && record.own_clock.is_none()
            && matches!(record.statement, LogStatement::HostSignal { .. })
            && !e.logged.trace
        {
            e.t0 = t;
        }
        if vmm != Vmm::default() {
            merge_name(Arc::make_mut(&mut e.vmm), &vmm);
        }
        learn(e, t, &record.statement, late);
        if in_timeline(&record.statement) {
            let statement = timeline::Statement {
                source: record.source.clone(),
                own_clock: record.own_clock.clone(),
                statement: record.statement.clone(),
            };
            e.timeline.add(t, TimelineEvent::Statement(Box::new(statement)));
        }
        if log_evidence::opens(&record.statement) {
            e.last_poison = e.last_poison.max(t);
            e.logged.poisoned_at(record);
        }
    }

    /// The machine that the kernel of a VM names is that of all its incidents.
    fn machine_of(&mut self, record: &LogRecord) {
        let known = self.logged.vms.get(&record.vm).and_then(|vm| vm.machine.as_ref());
        let same = known.filter(|(statement, _)| *statement == record.statement);
        let from = same.map_or(0, |(_, newest)| newest + 1);
        let of_vm = self.incidents_of(record.vm, from);
        for no in &of_vm {
            if let Some(e) = self.incidents.touch(*no) {
                learn(e, 0, &record.statement, false);
            }
        }
        if let (Some(newest), Some(vm)) = (of_vm.last(), self.logged.vms.get_mut(&record.vm)) {
            vm.machine = Some((record.statement.clone(), *newest));
        }
    }

    /// The incident of an imported statement.
    fn of_logged_vm(
        &mut self,
        event: &Event,
        record: &LogRecord,
        names: Names,
        speaker: &(String, Speaker),
    ) -> Option<IncidentNo> {
        let statement = &record.statement;
        if record.vm == 0 {
            // A page of the host, of no VM that a log names: a trace may have it.
            let pfn = names.pfn?;
            let of_pfn = self.incidents.pages().candidates(names.addresses());
            let of_pfn = of_pfn
                .into_iter()
                .filter(|no| self.incidents.get(*no).is_some_and(|e| e.pfn == Some(pfn)));
            return only(of_pfn);
        }
        if names.has_page() {
            let mut of_page = self.incidents.pages().candidates(names.addresses());
            of_page.retain(|no| {
                self.incidents
                    .get(*no)
                    .is_some_and(|e| names.is_of(e) == Some(true))
            });
            let known = of_page.iter().copied().find(|no| self.is_of_vm(*no, record.vm));
            let seen = of_page
                .into_iter()
                .filter(|no| self.incidents.get(*no).is_some_and(|e| !e.logged.alone));
            if let Some(no) = known.or_else(|| only(seen)) {
                return Some(no);
            }
            // The only one of this VM whose address of that kind is not known.
            let may = |no: &IncidentNo| {
                self.incidents.get(*no).is_some_and(|e| {
                    names.is_of(e).is_none() && is_at_its_time(e, event.t, record, TOUCHED_WITHIN_NS)
                })
            };
            let open = match self.few_of(record.vm) {
                Some(few) => only(few.into_iter().filter(may)),
                None => {
                    // Among more than so many none is looked for: it would hardly be the only one.
                    const MOST: usize = 256;
                    let lacking = self.incidents.pages().lacking(names.addresses());
                    let of_vm = lacking.filter(|no| self.is_of_vm(*no, record.vm)).take(MOST + 1);
                    let of_vm: Vec<IncidentNo> = of_vm.collect();
                    let fits = of_vm.len() <= MOST;
                    only(of_vm.into_iter().filter(may)).filter(|_| fits)
                }
            };
            if open.is_some() {
                return open;
            }
        } else {
            // What happened before the poison is not of it; a further sign of poison, long after, is of another page.
            let opens = log_evidence::opens(statement);
            let may = |no: &IncidentNo| {
                self.incidents
                    .get(*no)
                    .is_some_and(|e| match (in_timeline(statement), opens) {
                        (false, _) => true,
                        (true, true) => is_at_its_time(e, event.t, record, self.attribution_window_ns),
                        (true, false) => !is_before(e, event.t, record),
                    })
            };
            let last = self.logged.last.get(speaker).copied();
            let last = last.filter(|no| self.is_of_vm(*no, record.vm) && may(no));
            let latest = || {
                let of_vm = self.incidents_of(record.vm, 0);
                of_vm
                    .into_iter()
                    .filter(may)
                    // What a file goes on about is first what it named itself.
                    .max_by_key(|no| {
                        let e = self.incidents.get(*no);
                        e.map(|e| (e.logged.sources.contains(&record.source), e.last))
                    })
            };
            if let Some(no) = last.or_else(latest) {
                return Some(no);
            }
        }
        let untimed = record.own_clock.is_some();
        log_evidence::opens(statement).then(|| self.open_stated(event, record.vm, names, untimed))
    }

    /// What came of a signal long after it, and is put to its page because no other of this VM is known, may be of another page
    /// that is not.
    fn note_late_pairing(&mut self, no: IncidentNo, event: &Event, record: &LogRecord, names: Names) {
        let Some(e) = self.incidents.touch(no) else { return };
        let timed = record.own_clock.is_none() && !e.logged.untimed;
        let by_all = || timed && event.t.saturating_sub(e.last_poison) > LOGS_APART_NS;
        let late = e.logged.is_late(record, LOGS_APART_NS).unwrap_or_else(by_all);
        let effect = !is_cause(&record.statement) && log_evidence::opens(&record.statement);
        let paired = e.pfn.is_some() && names.is_of(e) != Some(true);
        e.logged.paired_late |= late && effect && paired;
    }

    /// The incidents of a VM of the logs from a number on, oldest first: those that they opened, and those that were seen
    /// of its processes.
    fn incidents_of(&self, vm: u32, from: IncidentNo) -> Vec<IncidentNo> {
        let Some(vm) = self.logged.vms.get(&vm) else {
            return Vec::new();
        };
        let seen = vm.pids.iter().flat_map(|pid| {
            let all = self.incidents.of_process(*pid);
            all[all.partition_point(|no| *no < from)..].iter()
        });
        let seen = seen.filter(|no| self.incidents.get(**no).is_some_and(|e| !e.logged.alone));
        let mut all: Vec<IncidentNo> = vm.incidents.range(from..).chain(seen).copied().collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// [`Self::incidents_of`] all, where they are quickly looked through.
    fn few_of(&self, vm: u32) -> Option<Vec<IncidentNo>> {
        const FEW: usize = 64;
        let known = self.logged.vms.get(&vm)?;
        let seen = known.pids.iter().map(|pid| self.incidents.of_process(*pid).len());
        (known.incidents.len() + seen.sum::<usize>() <= FEW).then(|| self.incidents_of(vm, 0))
    }

    /// Whether an incident is one of [`Self::incidents_of`].
    fn is_of_vm(&self, no: IncidentNo, vm: u32) -> bool {
        let Some(vm) = self.logged.vms.get(&vm) else {
            return false;
        };
        let seen = || {
            let of = |pid: &u32| self.incidents.of_process(*pid).binary_search(&no).is_ok();
            vm.pids.iter().any(of) && self.incidents.get(no).is_some_and(|e| !e.logged.alone)
        };
        vm.incidents.contains(&no) || seen()
    }

    /// The incident that a message of the VMM `pid` itself is of: that of the page that it names, else its latest. It opens
    /// none: what happens is seen.
    fn spoken_of_by(&self, pid: u32, names: Names) -> Option<IncidentNo> {
        let page = |e: &Evidence| {
            let size = e.size().unwrap_or(PAGE_SIZE);
            let by_hva = names
                .hva
                .zip(e.hva)
                .map(|(hva, known)| hva.wrapping_sub(known) < size);
            let by_gpa = names.gpa.zip(e.gpa).map(|(gpa, known)| (gpa ^ known) < size);
            by_hva.or(by_gpa)
        };
        // The latest first; a VMM's last message may come when it is gone.
        let mut all = self.incidents.iter().rev().filter(|(_, e)| e.pid == pid);
        if names.hva.is_none() && names.gpa.is_none() {
            return all.next().map(|(no, _)| no);
        }
        let known = all.clone().find(|(_, e)| page(e) == Some(true));
        // Else one whose addresses are not known yet.
        known
            .or_else(|| all.find(|(_, e)| page(e).is_none()))
            .map(|(no, _)| no)
    }

    fn open_stated(&mut self, event: &Event, vm: u32, names: Names, untimed: bool) -> IncidentNo {
        let known = self.logged.vms.get(&vm).filter(|vm| vm.pids.len() == 1);
        let of_vm = known.and_then(|vm| vm.pids.first().copied());
        let pid = names.pid.or(of_vm).unwrap_or(0);
        let vmm = self.processes.get(&pid).cloned().unwrap_or_default();
        let mut evidence = Evidence::new(event.t, pid, vmm);
        evidence.logged.alone = true;
        evidence.logged.untimed = untimed;
        self.open(evidence)
    }
}

/// The one of them, where there is one only.
fn only(mut all: impl Iterator<Item = IncidentNo>) -> Option<IncidentNo> {
    let first = all.next()?;
    all.next().is_none().then_some(first)
}

/// Whether a statement was made at the time of an incident, as far as one clock shows both.
fn is_at_its_time(e: &Evidence, t: u64, record: &LogRecord, within_ns: u64) -> bool {
    let late = t.saturating_sub(e.last_poison) > within_ns;
    !is_before(e, t, record) && (record.own_clock.is_some() || e.logged.untimed || !late)
}

/// Whether a statement was made before an incident began, as one clock shows both.
fn is_before(e: &Evidence, t: u64, record: &LogRecord) -> bool {
    let early = t.saturating_add(LOGS_APART_NS) < e.t0;
    let unsignalled =
        is_effect(&record.statement) && e.logged.precedes_signal_by(t, record, 0) > STAMPS_APART_NS;
    record.own_clock.is_none() && !e.logged.untimed && (early || unsignalled)
}
