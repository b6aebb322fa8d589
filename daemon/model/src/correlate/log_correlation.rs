//! Imported evidence: signals without an address, and statements of logs. A log names an incident by what it
//! knows of it: a process, a pfn, an hva, a GPA. What names none, and contradicts just one, speaks of that one.

use std::sync::Arc;

use super::{Correlator, IncidentNo, answers::ToThread};
use crate::{
    event::{
        Event, PoisonExit, SigbusSeverity, Vmm,
        log_statement::{Ended, LogRecord, LogStatement, MceReport},
        session::Session,
    },
    hex::Hex,
    incident::{
        evidence::Evidence,
        limits::PAGE_SIZE,
        log_evidence::LogTold,
        mca,
        model::Severity,
        timeline::{self, TimelineEvent},
    },
};

const SIGBUS: u32 = 7;
/// Firecracker's exit status after SIGBUS (`FcExitCode::SIGBUS`).
const FIRECRACKER_SIGBUS: u32 = 149;

/// Largest page: 1 GiB; and the usual huge one.
const LSB_1G: u32 = 30;
const LSB_2M: u32 = 21;

/// What a statement knows of its page.
#[derive(Clone, Copy, Default)]
struct Names {
    pid: Option<u32>,
    pfn: Option<u64>,
    hva: Option<u64>,
    gpa: Option<u64>,
}

/// What a file has told so far.
#[derive(Default)]
pub(super) struct File {
    /// The incident that it spoke of last.
    last: Option<IncidentNo>,
    vmm: Vmm,
}

/// A SIGBUS as a trace shows it.
pub(super) struct Seen {
    pub severity: SigbusSeverity,
    pub pid: u32,
    pub tid: u32,
    pub gpa: Option<u64>,
    pub pfn: Option<u64>,
}

impl Names {
    fn is_empty(&self) -> bool {
        self.pid.is_none() && self.pfn.is_none() && self.hva.is_none() && self.gpa.is_none()
    }
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
        let live = self
            .session
            .binding("send_sig_mceerr")
            .is_some_and(|b| b.starts_with("tracepoint "));
        let failure = self.failures.get(&event.tid).filter(|_| live);
        let pfn = seen.pfn.or_else(|| failure?.pfn);
        let found = match (seen.gpa, pfn) {
            (Some(gpa), _) => self.page_touched(seen.pid, gpa),
            (None, Some(pfn)) => self.of_pfn(seen.pid, pfn),
            (None, None) if seen.severity == SigbusSeverity::ActionRequired => self.latest_of(seen.pid),
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
        let vcpu = self.vcpu_of(seen.tid);
        self.signals_without_address = true;
        if let Some(pfn) = pfn {
            self.name_pfn(no, pfn);
        }
        let Some(e) = self.touch(no) else { return };
        e.logged.trace |= !live;
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
        if let Some(no) = self.incident_of_gpa(pid, gpa) {
            return Some(no);
        }
        if let Some(no) = self.huge_around(pid, gpa) {
            let e = self.touch(no)?;
            let within = e.gpa.is_some_and(|known| (known ^ gpa) >> LSB_2M == 0);
            e.lsb = Some(if within { LSB_2M } else { LSB_1G });
            return Some(no);
        }
        self.only_unplaced(pid)
    }

    /// `memory_failure_event` of a page whose signals were seen without a probe on the function.
    pub(super) fn action_seen(&mut self, event: &Event, pfn: u64, page_type: &str, result: &str) {
        // Live, memory_failure()'s own thread joins them: no search through all incidents.
        if !self.signals_without_address {
            return;
        }
        let named = self.by_pfn.range((pfn, 0)..=(pfn, IncidentNo::MAX));
        let mine: Vec<IncidentNo> = named
            .filter_map(|(_, no)| Some((*no, self.incidents.get(no)?)))
            .filter(|(_, e)| e.logged.trace && e.page_type.is_none())
            .map(|(no, _)| no)
            .collect();
        for no in mine {
            if let Some(e) = self.touch(no) {
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
        let Some(no) = self.latest_of(event.pid) else {
            return false;
        };
        let Some(e) = self.touch(no) else { return false };
        e.poison_at(event.t);
        e.exit(event.tid, event.vcpu, exit);
        e.timeline.add(
            exit.exit_ns.unwrap_or(event.t),
            TimelineEvent::exit(exit, event.vcpu),
        );
        true
    }

    pub(super) fn said(&mut self, event: &Event, record: &LogRecord) {
        let names = names(&record.statement);
        let opens = opens(&record.statement);
        if let LogStatement::VmName { name, uuid, vmm, .. } = &record.statement {
            let file = self.files.entry(record.source.clone()).or_default();
            merge_name(&mut file.vmm, name, uuid, vmm);
        }
        // What names no page goes on about the one that the file spoke of before.
        let last = self.files.get(&record.source).and_then(|file| file.last);
        let nameless = names.is_empty() && named_domain(&record.statement).is_none();
        let found = match event.pid {
            0 => last
                .filter(|no| nameless && self.incidents.contains_key(no))
                .or_else(|| self.spoken_of(&record.statement, names))
                .or_else(|| opens.then(|| self.open_said(event, names))),
            pid => self.spoken_of_by(pid, names),
        };
        let Some(no) = found else { return };
        let file = self.files.entry(record.source.clone()).or_default();
        file.last = Some(no);
        let vmm = file.vmm.clone();
        if let Some(pfn) = names.pfn {
            self.name_pfn(no, pfn);
        }
        let Some(e) = self.touch(no) else { return };
        // Without a common clock it is only known that it was said.
        let t = match record.own_clock {
            Some(_) if e.last != event.t => e.last,
            _ => event.t,
        };
        e.logged.sources.insert(record.source.clone());
        e.hva = e.hva.or(names.hva.map(|hva| hva & !(PAGE_SIZE - 1)));
        e.gpa = e.gpa.or(names.gpa.map(|gpa| gpa & !(PAGE_SIZE - 1)));
        e.last = e.last.max(t);
        if t < e.t0
            && record.own_clock.is_none()
            && matches!(record.statement, LogStatement::HostSignal { .. })
            && !e.logged.trace
        {
            e.t0 = t;
        }
        if vmm != Vmm::default() {
            merge_name(Arc::make_mut(&mut e.vmm), &vmm.name, &vmm.uuid, &vmm.vmm);
        }
        learn(e, t, &record.statement);
        if in_timeline(&record.statement) {
            let statement = timeline::Statement {
                source: record.source.clone(),
                own_clock: record.own_clock.clone(),
                statement: record.statement.clone(),
            };
            e.timeline.add(t, TimelineEvent::Statement(Box::new(statement)));
        }
        if let LogStatement::GuestMce(_) | LogStatement::VmmTold { .. } = record.statement {
            e.last_poison = e.last_poison.max(t);
        }
    }

    /// The incident of which the VMM `pid` speaks itself: that of the page that it names, else its latest. It opens
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
        // The latest first; a VMM's last words may come when it is gone.
        let mut all = self.incidents.iter().rev().filter(|(_, e)| e.pid == pid);
        if names.hva.is_none() && names.gpa.is_none() {
            return all.next().map(|(no, _)| *no);
        }
        let known = all.clone().find(|(_, e)| page(e) == Some(true));
        // Else one whose addresses are not known yet.
        known
            .or_else(|| all.find(|(_, e)| page(e).is_none()))
            .map(|(no, _)| *no)
    }

    /// The incident of which a statement speaks.
    fn spoken_of(&self, said: &LogStatement, names: Names) -> Option<IncidentNo> {
        let by = |wanted: &dyn Fn(&Evidence) -> bool| {
            let mut all = self
                .incidents
                .iter()
                .filter(|(_, e)| wanted(e))
                .map(|(no, _)| *no);
            let first = all.next()?;
            // Two VMs with the same guest address: the later one would be a guess.
            all.next().is_none().then_some(first)
        };
        let page = |gpa: u64| gpa & !(PAGE_SIZE - 1);
        let covers = |e: &Evidence, gpa: u64| {
            let size = e.size().unwrap_or(PAGE_SIZE);
            e.gpa.is_some_and(|known| (known ^ page(gpa)) < size) || e.gpas.contains(&page(gpa))
        };
        if let (Some(pfn), Some(pid)) = (names.pfn, names.pid)
            && let Some(no) = by(&|e| e.pfn == Some(pfn) && (e.pid == pid || e.pid == 0))
        {
            return Some(no);
        }
        if let Some(pfn) = names.pfn
            && names.pid.is_none()
            && let Some(no) = by(&|e| e.pfn == Some(pfn))
        {
            return Some(no);
        }
        if let Some(hva) = names.hva
            && let Some(no) = by(&|e| {
                e.hva
                    .is_some_and(|known| hva.wrapping_sub(known) < e.size().unwrap_or(PAGE_SIZE))
            })
        {
            return Some(no);
        }
        if let Some(gpa) = names.gpa
            && let Some(no) = by(&|e| covers(e, gpa))
        {
            return Some(no);
        }
        if named_domain(said).is_some()
            && let Some(no) = by(&|e| e.vmm.name.as_deref() == named_domain(said))
        {
            return Some(no);
        }
        // A host loses many pages: which of them is the guest's, an action alone does not tell.
        if matches!(said, LogStatement::HostAction { .. }) {
            return None;
        }
        by(&|e| {
            names.pid.is_none_or(|pid| e.pid == 0 || e.pid == pid)
                && names.pfn.is_none_or(|pfn| e.pfn.is_none_or(|known| known == pfn))
                && names.hva.is_none_or(|_| e.hva.is_none())
                && names.gpa.is_none_or(|_| e.gpa.is_none())
                && named_domain(said)
                    .is_none_or(|name| e.vmm.name.as_deref().is_none_or(|known| known == name))
        })
    }

    fn open_said(&mut self, event: &Event, names: Names) -> IncidentNo {
        let pid = names.pid.unwrap_or(0);
        let vmm = self.processes.get(&pid).cloned().unwrap_or_default();
        let mut evidence = Evidence::new(event.t, pid, vmm);
        evidence.logged.alone = true;
        self.open(evidence)
    }
}

/// Statements that are an incident by themselves.
fn opens(statement: &LogStatement) -> bool {
    match statement {
        LogStatement::HostSignal { .. }
        | LogStatement::HostKilled { .. }
        | LogStatement::RunFailed
        | LogStatement::VmmTold { .. }
        | LogStatement::VmmSigbus { .. }
        | LogStatement::QmpMemoryFailure { .. } => true,
        LogStatement::VmmOwnMemory { fatal } => *fatal,
        LogStatement::GuestMce(mce) => fatal_or_deferred(mce),
        _ => false,
    }
}

/// A corrected error never opens an incident.
fn fatal_or_deferred(mce: &MceReport) -> bool {
    mce.status
        .is_none_or(|status| mca::raises_mc(status.0) || status.0 & mca::DEFERRED != 0)
}

/// Statements that are events of an incident, not facts about its VM or machine.
const fn in_timeline(statement: &LogStatement) -> bool {
    !matches!(
        statement,
        LogStatement::VmName { .. }
            | LogStatement::HostMce(_)
            | LogStatement::HostPanic { .. }
            | LogStatement::Machine(_)
            | LogStatement::MemoryError { .. }
            | LogStatement::AddressMap { .. }
            | LogStatement::MigrationRefused
            | LogStatement::BugCheck { .. }
            | LogStatement::Cut { .. }
    )
}

fn names(said: &LogStatement) -> Names {
    let hex = |value: &Option<Hex>| value.map(|value| value.0);
    match said {
        LogStatement::HostSignal { pfn, pid, .. } | LogStatement::HostKilled { pfn, pid, .. } => Names {
            pid: Some(*pid),
            pfn: Some(pfn.0),
            ..Names::default()
        },
        LogStatement::HostAction { pfn, .. } => Names {
            pfn: Some(pfn.0),
            ..Names::default()
        },
        LogStatement::ProcessEnded { pid, .. } => Names {
            pid: *pid,
            ..Names::default()
        },
        LogStatement::OwnAccess { pid, hva, .. } => Names {
            pid: Some(*pid),
            hva: Some(hva.0),
            ..Names::default()
        },
        LogStatement::VmmTold { hva, gpa, .. } => Names {
            hva: hex(hva),
            gpa: hex(gpa),
            ..Names::default()
        },
        LogStatement::GuestMce(mce) => Names {
            gpa: hex(&mce.addr),
            ..Names::default()
        },
        LogStatement::GuestSignal { pfn, .. } | LogStatement::GuestAction { pfn, .. } => Names {
            gpa: pfn.0.checked_mul(PAGE_SIZE),
            ..Names::default()
        },
        _ => Names::default(),
    }
}

fn named_domain(said: &LogStatement) -> Option<&str> {
    match said {
        LogStatement::QmpMemoryFailure { domain, .. }
        | LogStatement::QmpPanicked { domain }
        | LogStatement::QmpReset { domain, .. }
        | LogStatement::QmpShutdown { domain, .. } => domain.as_deref(),
        _ => None,
    }
}

fn severity(required: bool) -> Severity {
    if required { Severity::Ar } else { Severity::Ao }
}

/// Notes the statement in the evidence.
fn learn(e: &mut Evidence, t: u64, said: &LogStatement) {
    if let Some(name) = named_domain(said) {
        Arc::make_mut(&mut e.vmm)
            .name
            .get_or_insert_with(|| name.to_owned());
    }
    let l = &mut e.logged;
    match said {
        LogStatement::HostKilled { .. } => l.killed = true,
        LogStatement::ProcessEnded { how, .. } => match how {
            Ended::Signal(SIGBUS) => l.died_by_sigbus = true,
            Ended::Exit(FIRECRACKER_SIGBUS) => l.vmm_sigbus = true,
            _ => {}
        },
        LogStatement::VmmReset { recursive } => l.qmp_reset = Some(*recursive),
        LogStatement::RunFailed => l.run_failed = true,
        LogStatement::HostSignal { comm, pid, .. } => {
            l.process = Some(format!("{comm} (pid {pid})"));
            Arc::make_mut(&mut e.vmm).vmm.get_or_insert_with(|| comm.clone());
            if e.pid == 0 {
                e.pid = *pid;
            }
        }
        LogStatement::HostAction {
            page_type, result, ..
        } if e.page_type.is_none() => {
            e.page_type = Some(page_type.clone());
            e.recovery = Some(result.clone());
        }
        LogStatement::OwnAccess { .. } => l.own_access = true,
        LogStatement::VmmTold { gpa, severity, .. } => l.tell(LogTold {
            t,
            gpa: gpa.map(|gpa| gpa.0),
            severity: match severity {
                Some(SigbusSeverity::ActionRequired) => Severity::Ar,
                Some(SigbusSeverity::ActionOptional) => Severity::Ao,
                None => Severity::Other,
            },
        }),
        LogStatement::VmmOwnMemory { fatal } => l.own_fatal |= *fatal,
        LogStatement::VmmSigbus { .. } => l.vmm_sigbus = true,
        LogStatement::VmName { name, uuid, vmm, .. } => {
            merge_name(Arc::make_mut(&mut e.vmm), name, uuid, vmm)
        }
        LogStatement::VmShutdown { reason } => l.shutdown = Some(reason.clone()),
        LogStatement::GuestMce(mce) => l.machine_check(t, mce.clone()),
        LogStatement::GuestPanic { text } => {
            l.panic.get_or_insert_with(|| text.clone());
        }
        LogStatement::GuestSignal { comm, pid, .. } => l.guest_signal = Some((comm.clone(), *pid)),
        LogStatement::GuestAction { result, .. } => l.guest_result = Some(result.clone()),
        LogStatement::QmpMemoryFailure {
            recipient,
            action,
            action_required,
            recursive,
            ..
        } => match action.as_str() {
            "inject" if l.told.is_empty() => l.tell(LogTold {
                t,
                gpa: None,
                severity: severity(*action_required),
            }),
            "reset" => l.qmp_reset = Some(*recursive),
            "ignore" if *recursive => l.passed_over += 1,
            "fatal" => l.qmp_fatal = Some(recipient.clone()),
            _ => {}
        },
        LogStatement::QmpPanicked { .. } => l.qmp_panicked = true,
        LogStatement::QmpReset { guest, .. } => l.guest_reset |= *guest,
        LogStatement::QmpShutdown { reason, .. } => {
            l.qmp_panicked |= reason.as_deref() == Some("guest-panic");
            l.guest_reset |= reason.as_deref() == Some("guest-reset");
        }
        LogStatement::HostAction { .. }
        | LogStatement::HostMce(_)
        | LogStatement::HostPanic { .. }
        | LogStatement::Machine(_)
        | LogStatement::MemoryError { .. }
        | LogStatement::AddressMap { .. }
        | LogStatement::MigrationRefused
        | LogStatement::BugCheck { .. }
        | LogStatement::Cut { .. } => {}
    }
}

fn merge_name(known: &mut Vmm, name: &Option<String>, uuid: &Option<String>, vmm: &Option<String>) {
    known.name = known.name.take().or_else(|| name.clone());
    known.uuid = known.uuid.take().or_else(|| uuid.clone());
    known.vmm = known.vmm.take().or_else(|| vmm.clone());
}
