//! What logs reported an incident: testimony of the VMM and of the two kernels, beside what was observed.

use alloc::collections::BTreeSet;
use alloc::{borrow::ToOwned as _, boxed::Box, string::String, string::ToString as _, vec::Vec};
use core::ops::{Deref, DerefMut};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use once_cell::race::OnceBox;

use super::{
    evidence::{Evidence, Termination},
    exits::Total,
    mca,
    missing::MissingEvidence,
    model::{self, Cause, Confidence, Outcome, Severity},
    verdict::Verdict,
};
use crate::{
    event::log_statement::{JoinKey, LogRecord, LogStatement, MceReport},
    hex::Hex,
};

const MAX_INJECTIONS: usize = 256;
const MAX_MCES: usize = 64;
/// Statements of one incident that are kept to be shown.
const MAX_RECORDS: usize = 128;
/// A panic so soon after a machine check comes of it, whatever its text, nanoseconds.
const PANIC_WITHIN_NS: u64 = 10_000_000_000;
/// A VMM that ends later than this after its SIGBUS had another reason.
const SIGBUS_KILLS_WITHIN_NS: u64 = 1_000_000_000;

/// See the module.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Logged {
    /// The incident was seen in an imported trace.
    pub trace: bool,
    /// A log opened it: what was observed is of other incidents.
    pub alone: bool,
    pub sources: BTreeSet<String>,
    #[serde(alias = "told")]
    pub machine_checks: Vec<LogInjection>,
    #[serde(alias = "told_ao")]
    pub ao_injections: u64,
    #[serde(alias = "told_ar")]
    pub ar_injections: u64,
    pub mces: Vec<(u64, MceReport)>,
    pub panic: Option<String>,
    /// The guest's own memory_failure(): whom it signalled, and how it ended.
    pub guest_signal: Option<(String, u32)>,
    pub guest_result: Option<String>,
    /// The host's kernel named this process; whether it is a VMM nothing shows.
    pub process: Option<String>,
    pub own_access: bool,
    pub own_fatal: bool,
    pub vmm_sigbus: bool,
    /// The process was killed by SIGBUS.
    pub died_by_sigbus: bool,
    /// The host's kernel killed it (SIGKILL): the page could not be unmapped.
    pub killed: bool,
    /// KVM_RUN returned -EHWPOISON.
    pub run_failed: bool,
    /// QMP: reset because of a second error (recursive), or with machine checks off.
    pub qmp_reset: Option<bool>,
    /// QMP: left out, because a machine check was in progress (ignore, recursive).
    #[serde(alias = "passed_over")]
    pub injections_skipped: u64,
    /// QMP: the VMM ends; who the error was for.
    pub qmp_fatal: Option<String>,
    pub qmp_panicked: bool,
    pub guest_reset: bool,
    pub shutdown: Option<Shutdown>,
    /// The guest panicked of something else, in its own words.
    pub other_panic: Option<String>,
    /// Windows: code of its bug check.
    pub bug_check: Option<u64>,
    /// It ended, or its end was, long after its last sign of poison.
    pub late_end: bool,
    pub migration_refused: bool,
    /// The host's kernel: machine checks of physical processors, and its panic.
    pub host_mces: Vec<MceReport>,
    pub host_panic: Option<String>,
    /// The host's log shows a physical machine.
    pub physical: bool,
    /// The process on the processor that panicked.
    pub on_cpu: Option<(String, u32)>,
    /// The evidence, statement by statement.
    pub records: Vec<LogRecord>,
    /// Something of it was joined without a key.
    pub joined_by_clock: bool,
}

/// libvirt: the domain is gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shutdown {
    pub reason: String,
    /// Long after the last sign of poison.
    pub late: bool,
}

/// The same, where there is any: most incidents are never spoken of, and a flood has ten thousand.
#[derive(Clone, Debug, Default)]
pub struct LogEvidence(Option<Box<Logged>>);

/// Without std there is no `LazyLock`.
static NONE: OnceBox<Logged> = OnceBox::new();

impl Deref for LogEvidence {
    type Target = Logged;

    fn deref(&self) -> &Logged {
        self.0
            .as_deref()
            .unwrap_or_else(|| NONE.get_or_init(Box::default))
    }
}

impl DerefMut for LogEvidence {
    fn deref_mut(&mut self) -> &mut Logged {
        self.0.get_or_insert_default()
    }
}

impl Serialize for LogEvidence {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Logged::serialize(self, serializer)
    }
}

impl<'de> Deserialize<'de> for LogEvidence {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let logged = Logged::deserialize(deserializer)?;
        Ok(Self(Some(Box::new(logged))))
    }
}

/// What a log states that the VMM reported.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LogInjection {
    pub t: u64,
    pub gpa: Option<u64>,
    pub severity: Severity,
    /// QMP reported it, which names no page: the VMM's log may show the same.
    #[serde(default)]
    pub by_qmp: bool,
}

impl Logged {
    /// Whether any log speaks of it.
    pub fn any(&self) -> bool {
        !self.sources.is_empty()
    }

    /// Whether a log proves that the process runs a guest.
    pub fn proves_guest(&self) -> bool {
        !self.machine_checks.is_empty()
            || self.host_panic.is_some()
            || !self.mces.is_empty()
            || self.process.is_some()
            || self.vmm_sigbus
            || self.own_fatal
            || self.killed
            || self.run_failed
            || self.qmp_reset.is_some()
            || self.qmp_fatal.is_some()
    }

    pub fn record_injection(&mut self, injection: LogInjection) {
        match injection.severity {
            Severity::Ao => self.ao_injections += 1,
            Severity::Ar => self.ar_injections += 1,
            Severity::Broadcast | Severity::Other => {}
        }
        if self.machine_checks.len() < MAX_INJECTIONS {
            self.machine_checks.push(injection);
        }
    }

    /// Keeps a statement of it.
    pub fn note(&mut self, record: &LogRecord) {
        self.joined_by_clock |= record.joined.as_ref().is_some_and(|key| !key.is_certain());
        if self.records.len() < MAX_RECORDS {
            self.records.push(record.clone());
        }
    }

    /// The guest's kernel panicked. Its text shows of what, unless that is a machine check's direct consequence.
    pub fn panicked(&mut self, t: u64, text: &str, late: bool) {
        let soon = self
            .mces
            .iter()
            .any(|(mce, _)| t.saturating_sub(*mce) < PANIC_WITHIN_NS)
            && !late;
        let handled = self.guest_result.is_some() && !by_machine_check(text);
        if by_machine_check(text) && !late || soon && !has_own_reason(text) && !handled {
            self.panic.get_or_insert_with(|| text.to_owned());
        } else {
            self.other_panic.get_or_insert_with(|| text.to_owned());
            self.late_end |= late;
        }
    }

    pub fn host_machine_check(&mut self, _t: u64, mce: MceReport) {
        if self.host_mces.len() < MAX_MCES {
            self.host_mces.push(mce);
        }
    }

    pub fn machine_check(&mut self, t: u64, mce: MceReport) {
        if self.mces.len() < MAX_MCES {
            self.mces.push((t, mce));
        }
    }

    /// The machine check that speaks of the error: one with a reason, else one with an address, else the last.
    fn mce(&self) -> Option<&MceReport> {
        let all = || self.mces.iter().rev().map(|(_, mce)| mce);
        all()
            .find(|mce| mce.reason.is_some() && mce.addr.is_some())
            .or_else(|| all().find(|mce| mce.addr.is_some() && mce.status.is_some()))
            .or_else(|| all().next())
    }

    fn reason(&self) -> Option<&str> {
        self.mces.iter().rev().find_map(|(_, mce)| mce.reason.as_deref())
    }

    /// The function of the guest's kernel that met the poison, if it is one that flushes.
    fn flusher(&self) -> Option<&str> {
        self.mces
            .iter()
            .filter_map(|(_, mce)| mce.symbol.as_deref())
            .find(|symbol| {
                symbol.contains("clflush") || symbol.contains("cpa_flush") || symbol.contains("clwb")
            })
    }

    pub fn overflowed_bank(&self) -> Option<u32> {
        self.mces
            .iter()
            .rev()
            .find(|(_, mce)| mce.status.is_some_and(|status| status.0 & mca::OVER != 0))
            .and_then(|(_, mce)| mce.bank)
    }
}

const fn verdict(outcome: Outcome, cause: Cause, confidence: Confidence) -> Option<Verdict> {
    Some(Verdict {
        outcome,
        cause,
        confidence,
    })
}

/// Deaths that a log shows: the host's, the guest's own last words, then the VMM's. What rests on clocks alone is not
/// certain.
pub fn death(e: &Evidence) -> Option<Verdict> {
    let v = shown(e)?;
    Some(match (e.logged.joined_by_clock, v.confidence) {
        (true, Confidence::Certain) => Verdict {
            confidence: Confidence::Likely,
            ..v
        },
        _ => v,
    })
}

fn shown(e: &Evidence) -> Option<Verdict> {
    let l = &e.logged;
    if l.host_panic.is_some() {
        return Some(host_panic(l));
    }
    if l.panic.is_some() && (!l.mces.is_empty() || l.panic.as_deref().is_some_and(by_machine_check)) {
        return Some(panic(e));
    }
    if l.vmm_sigbus {
        return verdict(Outcome::VmmExited, Cause::SigbusUnhandled, Confidence::Certain);
    }
    if l.died_by_sigbus {
        // QEMU re-raises a second SIGBUS that comes while one is pending; without a handler it is the first.
        let injection = !l.machine_checks.is_empty() || !e.machine_checks.is_empty();
        let cause = if injection {
            Cause::SecondSigbus
        } else {
            Cause::SigbusUnhandled
        };
        return verdict(Outcome::VmmKilled, cause, Confidence::Likely);
    }
    if l.killed {
        return verdict(Outcome::VmmKilled, Cause::Unknown, Confidence::Likely);
    }
    if l.run_failed {
        return verdict(Outcome::Running, Cause::GuestMemfd, Confidence::Certain);
    }
    if let Some(recursive) = l.qmp_reset {
        let cause = if recursive {
            Cause::MceNested
        } else {
            Cause::MceDisabled
        };
        return verdict(Outcome::GuestReset, cause, Confidence::Certain);
    }
    if let Some(recipient) = &l.qmp_fatal {
        return if recipient == "guest" {
            verdict(Outcome::VmmExited, Cause::SigbusUnhandled, Confidence::Likely)
        } else {
            verdict(Outcome::VmmExited, Cause::VmmOwnMemory, Confidence::Certain)
        };
    }
    if l.own_fatal {
        // The same words stand for a guest without software error recovery.
        return verdict(Outcome::VmmExited, Cause::VmmOwnMemory, Confidence::Likely);
    }
    None
}

/// A physical machine's kernel took a machine check that it could not outlive.
/// - `kernel_access`: its own reason states that its kernel consumed the error;
/// - `not_poison`: the processor's context was corrupt (PCC): no page is at fault.
///
/// Certain where the log shows a physical machine: DMI, EDAC, PPIN.
fn host_panic(l: &Logged) -> Verdict {
    let reasons: Vec<String> = l
        .host_mces
        .iter()
        .filter_map(|mce| mce.reason.as_ref().map(|reason| reason.to_ascii_lowercase()))
        .collect();
    let states = |words: &str| reasons.iter().any(|reason| reason.contains(words));
    let corrupt = |mce: &MceReport| mce.status.is_some_and(|status| status.0 & mca::PCC != 0);
    let cause = if states("processor context corrupt") || l.host_mces.iter().any(corrupt) {
        Cause::NotPoison
    } else if states("area of kernel") || states("in kernel") {
        Cause::KernelAccess
    } else {
        Cause::Unknown
    };
    Verdict {
        outcome: Outcome::HostPanicked,
        cause,
        confidence: match l.physical && cause != Cause::Unknown {
            true => Confidence::Certain,
            false => Confidence::Likely,
        },
    }
}

/// Windows: MACHINE_CHECK_EXCEPTION and WHEA_UNCORRECTABLE_ERROR.
fn is_machine_check(bug_check: u64) -> bool {
    matches!(bug_check, 0x9c | 0x124)
}

/// The guest outlived its poison: it was migrated, shut down or died of something else long after.
fn lived_on(l: &Logged) -> Option<Verdict> {
    let handled = l.guest_signal.as_ref().is_some_and(|(_, pid)| *pid != 1);
    if l.late_end && handled {
        return verdict(Outcome::Survived, Cause::Contained, Confidence::Likely);
    }
    if l.late_end {
        return verdict(Outcome::Survived, Cause::Unknown, Confidence::Likely);
    }
    if l.other_panic.is_some() {
        return match handled {
            true => verdict(Outcome::Survived, Cause::Contained, Confidence::Likely),
            false => verdict(Outcome::GuestPanicked, Cause::NotPoison, Confidence::Possible),
        };
    }
    match l.shutdown.as_ref()? {
        Shutdown { reason, .. } if reason == "migrated" => {
            verdict(Outcome::Survived, Cause::Unknown, Confidence::Likely)
        }
        Shutdown { late: true, .. } => verdict(Outcome::Survived, Cause::Unknown, Confidence::Likely),
        // The VMM died, or the guest panicked and libvirt ended it: one word for both.
        Shutdown { reason, .. } if reason == "crashed" => {
            verdict(Outcome::VmmExited, Cause::Unknown, Confidence::Possible)
        }
        Shutdown { .. } => None,
    }
}

/// What logs make of an incident of which nothing else is known.
pub fn hints(e: &Evidence, total: &Total) -> Option<Verdict> {
    let l = &e.logged;
    if let Some(code) = l.bug_check.filter(|_| !l.late_end) {
        // A machine check of another kind, or of another page, has the same code; any other code is another matter.
        let sure = match is_machine_check(code) {
            true => Confidence::Likely,
            false => Confidence::Possible,
        };
        return verdict(Outcome::GuestPanicked, Cause::Unknown, sure);
    }
    if l.qmp_panicked || l.panic.is_some() {
        // Without a machine check in its words it may have died of something else.
        return verdict(Outcome::GuestPanicked, Cause::Unknown, Confidence::Possible);
    }
    if l.own_access {
        return verdict(Outcome::Unknown, Cause::VmmOwnMemory, Confidence::Possible);
    }
    if l.guest_reset {
        return verdict(Outcome::GuestReset, Cause::Unknown, Confidence::Possible);
    }
    let recovered = l
        .guest_result
        .as_deref()
        .is_some_and(|result| result == "Recovered");
    if recovered && l.guest_signal.as_ref().is_none_or(|(_, pid)| *pid != 1) {
        return verdict(Outcome::Survived, Cause::Contained, Confidence::Likely);
    }
    if let Some(v) = lived_on(l) {
        return Some(v);
    }
    // Gone at once, and never reported: the VMM did not survive its SIGBUS.
    let gone = e.sign(|sign| *sign == Termination::VmmGone);
    if let Some(end) = gone
        && l.trace
        && e.exit_signals > 0
        && e.delivered == 0
        && end.t.saturating_sub(e.last_poison) < SIGBUS_KILLS_WITHIN_NS
    {
        return verdict(Outcome::VmmExited, Cause::SigbusUnhandled, Confidence::Likely);
    }
    // The guest went on after every exit, and nothing was notified to it.
    let x = &total.page;
    if l.trace && x.exits > 0 && e.delivered == 0 && l.machine_checks.is_empty() && e.ends.is_empty() {
        let went_on = x.exit_to_entry.count == x.exits;
        return went_on
            .then(|| verdict(Outcome::Running, Cause::Unknown, Confidence::Possible))
            .flatten();
    }
    None
}

/// Whether the kernel panicked of a machine check, in its own words.
pub fn by_machine_check(panic: &str) -> bool {
    const WORDS: [&str; 6] = [
        "machine check",
        "mce",
        "not all cpus entered broadcast exception handler",
        "failed kernel mode recovery",
        "memory failure",
        // init was killed by SIGBUS.
        "attempted to kill init! exitcode=0x00000007",
    ];
    let panic = panic.to_ascii_lowercase();
    WORDS.iter().any(|words| panic.contains(words))
}

/// Whether a panic names a reason that no machine check is.
fn has_own_reason(panic: &str) -> bool {
    const WORDS: [&str; 8] = [
        "out of memory",
        "panic_on_oom",
        "hung_task",
        "sysrq",
        "softlockup",
        "hard lockup",
        "unable to mount root",
        "nmi: not continuing",
    ];
    let panic = panic.to_ascii_lowercase();
    WORDS.iter().any(|words| panic.contains(words))
}

/// Statements that are an incident by themselves.
pub fn opens(statement: &LogStatement) -> bool {
    match statement {
        LogStatement::HostSignal { .. }
        | LogStatement::HostKilled { .. }
        | LogStatement::RunFailed
        | LogStatement::VmmTold { .. }
        | LogStatement::VmmSigbus { .. }
        | LogStatement::HostPanic { .. }
        | LogStatement::QmpMemoryFailure { .. } => true,
        LogStatement::VmmOwnMemory { fatal } => *fatal,
        LogStatement::GuestMce(mce) => is_of_poison(mce),
        _ => false,
    }
}

/// A corrected error is nobody's death.
fn is_of_poison(mce: &MceReport) -> bool {
    mce.status
        .is_none_or(|status| mca::raises_mc(status.0) || status.0 & mca::DEFERRED != 0)
}

/// Why the guest panicked, in its kernel's own words (`arch/x86/kernel/cpu/mce/severity.c`), else by the bank.
fn panic(e: &Evidence) -> Verdict {
    let l = &e.logged;
    let reason = l.reason().unwrap_or_default().to_ascii_lowercase();
    let states = |words: &str| reason.contains(words);
    let in_kernel = l.mce().and_then(|mce| mce.cs).map(|cs| cs & 3 == 0);
    let status = l.mce().and_then(|mce| mce.status).map_or(0, |status| status.0);
    let host_told = e.pfn.is_some()
        || !l.machine_checks.is_empty()
        || e.ao_signals + e.ar_signals + e.exit_signals > 0
        || !e.machine_checks.is_empty();
    let corrupt = states("processor context corrupt") || status & mca::PCC != 0;
    let (cause, confidence) = if corrupt && !host_told {
        (Cause::NotPoison, Confidence::Likely)
    } else if states("overflowed uncorrected") || states("lost events") {
        (Cause::MceOverflow, Confidence::Certain)
    } else if l.flusher().is_some() {
        (Cause::Clflush, Confidence::Likely)
    } else if states("unrecoverable area of kernel")
        || states("in kernel context")
        || states("fetch error in kernel")
        || states("in kernel and no restart")
    {
        (Cause::KernelAccess, Confidence::Certain)
    } else if states("without mca recovery") {
        (Cause::FatalNotification, Confidence::Likely)
    } else {
        match (mca::severity(status), status & mca::OVER != 0, in_kernel) {
            (Severity::Ar, true, _) => (Cause::MceOverflow, Confidence::Likely),
            (Severity::Ar, false, Some(true)) => (Cause::KernelAccess, Confidence::Likely),
            (Severity::Ao, ..) => (Cause::FatalNotification, Confidence::Likely),
            _ => (Cause::Unknown, Confidence::Possible),
        }
    };
    Verdict {
        outcome: Outcome::GuestPanicked,
        cause,
        confidence,
    }
}

/// Puts what the logs reported into the answer, where nothing better is known.
pub fn adorn(incident: &mut model::Incident, e: &Evidence) {
    use MissingEvidence as M;
    let l = &e.logged;
    if e.pid == 0 {
        incident.vm.pid = None;
    }
    if !l.any() {
        return;
    }
    if l.alone && !l.trace && !e.touched() && e.machine_checks.is_empty() && e.delivered == 0 {
        // The trace beside it is silent about this one: that is not known to be nothing.
        incident.signals = model::Signals::default();
        incident.exits = model::Exits::default();
        incident.injections.delivered = None;
        incident.injections.vcpus = None;
    }
    let n = &mut incident.injections;
    if e.machine_checks.is_empty() && !(l.machine_checks.is_empty() && l.mces.is_empty()) {
        // That nothing more was notified no log shows.
        n.action_optional = (l.ao_injections > 0).then_some(l.ao_injections);
        n.action_required = (l.ar_injections > 0).then_some(l.ar_injections);
        n.events = injections(e);
    }
    if l.flusher().is_some() && incident.flush.basis != model::FlushBasis::InstructionBytes {
        incident.flush = model::Flush {
            verdict: model::FlushVerdict::FlushOnly,
            basis: model::FlushBasis::GuestConsole,
            instruction: None,
            confidence: Some(Confidence::Likely),
        };
    }
    let spoken = l.panic.is_some();
    incident.missing.retain(|what| match what {
        M::GuestConsole | M::PanicDevice => !spoken,
        M::VmmProcess | M::VmName => false,
        _ => true,
    });
    let mut note = |absent: bool, what: M| {
        if absent {
            incident.missing.push(what);
        }
    };
    if l.alone && !l.trace && !e.touched() {
        incident
            .missing
            .retain(|what| !matches!(what, M::Probe { .. } | M::MemoryFailure | M::Gpa));
        incident.missing.push(M::Probes);
        return of_logs_alone(incident, e);
    }
    note(e.vmm.name.is_none(), M::VmNameInFiles);
    if let Some(process) = &l.process {
        let process = process.clone();
        note(
            e.vmm.is_vmm != Some(true) && l.machine_checks.is_empty(),
            M::IsVmm { process },
        );
    }
    note(
        !l.machine_checks.is_empty() && e.machine_checks.is_empty() && l.mces.is_empty(),
        M::InjectedBank,
    );
    note(incident.outcome == Outcome::Unknown, M::Ending);
}

/// What a reader of logs alone can still get.
fn of_logs_alone(incident: &mut model::Incident, e: &Evidence) {
    let l = &e.logged;
    if !l.machine_checks.is_empty() && e.machine_checks.is_empty() && l.mces.is_empty() {
        incident.missing.push(MissingEvidence::InjectedBank);
    }
    if incident.outcome == Outcome::Unknown {
        incident.missing.push(MissingEvidence::Ending);
    }
}

/// The tellings of the log; the machine check on the console is what became of the last one with its address.
fn injections(e: &Evidence) -> Vec<model::InjectionEvent> {
    let l = &e.logged;
    let offset = |t: u64| i64::try_from(i128::from(t) - i128::from(e.t0)).unwrap_or(0);
    let mut all: Vec<model::InjectionEvent> = l
        .machine_checks
        .iter()
        .map(|injection| model::InjectionEvent {
            t_ns: Some(offset(injection.t)),
            vcpu: None,
            via: model::Via::Log,
            bank: None,
            status: None,
            addr: injection.gpa.map(Hex),
            misc: None,
            mcg_status: None,
            severity: injection.severity,
            overflow: None,
        })
        .collect();
    for (t, mce) in &l.mces {
        let Some(status) = mce.status else { continue };
        let severity = mca::severity(status.0);
        let known = all
            .iter_mut()
            .rev()
            .find(|injection| injection.severity == severity && injection.status.is_none());
        let entry = match known {
            Some(injection) => injection,
            None => {
                all.push(model::InjectionEvent {
                    t_ns: Some(offset(*t)),
                    vcpu: None,
                    via: model::Via::Log,
                    bank: None,
                    status: None,
                    addr: None,
                    misc: None,
                    mcg_status: None,
                    severity,
                    overflow: None,
                });
                let last = all.len() - 1;
                &mut all[last]
            }
        };
        entry.vcpu = mce.cpu;
        entry.bank = mce.bank;
        entry.status = Some(status);
        entry.addr = mce.addr.or(entry.addr);
        entry.misc = mce.misc;
        entry.mcg_status = mce.mcg_status;
        entry.overflow = Some(status.0 & mca::OVER != 0);
    }
    all
}

/// By what its sources were joined: once each.
pub fn joins(e: &Evidence) -> Vec<model::Join> {
    let mut joins: Vec<model::Join> = Vec::new();
    for record in &e.logged.records {
        let Some(key) = &record.joined else { continue };
        let (key, value) = named(key);
        let known =
            |join: &model::Join| join.key == key && join.value == value && join.source == record.source;
        if !joins.iter().any(known) {
            joins.push(model::Join {
                key: key.to_owned(),
                value,
                source: record.source.clone(),
                line: (record.line > 0).then_some(record.line),
            });
        }
    }
    joins
}

/// A key's name and its value.
pub fn named(key: &JoinKey) -> (&'static str, Option<String>) {
    match key {
        JoinKey::Pid(pid) => ("pid", Some(pid.to_string())),
        JoinKey::Unit(unit) => ("unit", Some(unit.clone())),
        JoinKey::Tag(tag) => ("tag", Some(tag.clone())),
        JoinKey::Domain(name) => ("domain", Some(name.clone())),
        JoinKey::Uuid(uuid) => ("uuid", Some(uuid.clone())),
        JoinKey::Hva(at) => ("hva", Some(at.to_string())),
        JoinKey::Pfn(pfn) => ("pfn", Some(pfn.to_string())),
        JoinKey::Gpa(at) => ("gpa", Some(at.to_string())),
        JoinKey::Clock => ("clock", None),
    }
}
