//! Statements of logs about an incident, kept beside what was observed: those of the VMM, of the guest's kernel and of the
//! host's.

use alloc::collections::BTreeSet;
use alloc::{borrow::ToOwned as _, boxed::Box, string::String, vec::Vec};
use core::ops::{Deref, DerefMut};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use once_cell::race::OnceBox;

use super::{
    bug_check::{self, BugCheckError},
    mca,
    model::Severity,
};
use crate::event::log_statement::{LogRecord, LogStatement, MceReport};

const MAX_INJECTIONS: usize = 256;
const MAX_MCES: usize = 64;
/// Statements of one incident that are kept to be shown.
const MAX_RECORDS: usize = 128;
/// A panic so soon after a machine check comes of it, whatever its text, nanoseconds.
const PANIC_WITHIN_NS: u64 = 10_000_000_000;
/// See the module.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Logged {
    /// The incident was seen in an imported trace.
    pub trace: bool,
    /// A log opened it: what was observed is of other incidents.
    pub alone: bool,
    /// The log that opened it shows no time that other clocks are known to agree with.
    #[serde(skip_serializing_if = "core::ops::Not::not")]
    pub untimed: bool,
    /// Files that mention it.
    pub sources: BTreeSet<String>,
    /// Injected machine checks, in order.
    #[serde(alias = "told")]
    pub machine_checks: Vec<LogInjection>,
    /// AO injections.
    #[serde(alias = "told_ao")]
    pub ao_injections: u64,
    /// AR injections.
    #[serde(alias = "told_ar")]
    pub ar_injections: u64,
    /// Machine checks that the guest logged, with their time.
    pub mces: Vec<(u64, MceReport)>,
    /// The guest's panic message, if it died of a machine check.
    pub panic: Option<String>,
    /// The guest's own memory_failure(): whom it signalled, and how it ended.
    pub guest_signal: Option<(String, u32)>,
    /// How its memory_failure() ended.
    pub guest_result: Option<String>,
    /// The host's kernel named this process; whether it is a VMM nothing shows.
    pub process: Option<String>,
    /// The VMM accessed the page itself.
    pub own_access: bool,
    /// The VMM ended because of its own memory.
    pub own_fatal: bool,
    /// Memory of the VMM itself is poisoned, and it goes on without having accessed it.
    pub own_ignored: bool,
    /// The VMM logged a SIGBUS that it does not handle.
    pub vmm_sigbus: bool,
    /// The process was killed by SIGBUS.
    pub died_by_sigbus: bool,
    /// The host's kernel killed the process for lack of memory.
    #[serde(skip_serializing_if = "core::ops::Not::not")]
    pub out_of_memory: bool,
    /// The host's kernel killed it (SIGKILL): the page could not be unmapped.
    pub killed: bool,
    /// KVM_RUN returned -EHWPOISON.
    pub run_failed: bool,
    /// QMP: reset because of a second error (recursive), or with machine checks off.
    pub qmp_reset: Option<bool>,
    /// QMP: left out, because a machine check was in progress (ignore, recursive).
    #[serde(alias = "passed_over")]
    pub injections_skipped: u64,
    /// QMP: an error that the VMM ignored.
    #[serde(skip_serializing_if = "core::ops::Not::not")]
    pub qmp_ignored: bool,
    /// QMP: the VMM ends; who the error was for.
    pub qmp_fatal: Option<String>,
    /// QMP: the guest panicked.
    pub qmp_panicked: bool,
    /// QMP: the guest reset itself.
    pub guest_reset: bool,
    /// libvirt: the domain is gone.
    pub shutdown: Option<Shutdown>,
    /// The guest panicked of something else, in its own words.
    pub other_panic: Option<String>,
    /// Windows: code of its bug check.
    pub bug_check: Option<u64>,
    /// Windows: what its bug check names of a machine check.
    pub bug_check_error: Option<BugCheckError>,
    /// It ended, or its end was, long after its last sign of poison.
    pub late_end: bool,
    /// QEMU refused to migrate it.
    pub migration_refused: bool,
    /// The host's kernel: machine checks of physical processors, and its panic.
    pub host_mces: Vec<MceReport>,
    /// The host's panic message.
    pub host_panic: Option<String>,
    /// The host's log shows a physical machine.
    pub physical: bool,
    /// A kernel's panic of a machine check: the host's or a guest's.
    pub kernel_panic: Option<String>,
    /// Software poisoned the page.
    pub software: bool,
    /// The hypervisor that the guest names, where it is not KVM.
    pub hypervisor: Option<String>,
    /// The process on the processor that panicked.
    pub on_cpu: Option<(String, u32)>,
    /// The trace shows whom it signalled.
    pub signalled: Option<String>,
    /// The DIMM of the page, as the host's hardware drivers or firmware label it.
    pub dimm: Option<String>,
    /// The evidence, statement by statement.
    pub records: Vec<LogRecord>,
    /// Something of it was joined without a key.
    pub joined_by_clock: bool,
    /// The host's kernel's first signal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_signal: Option<FirstSignal>,
    /// What comes of a signal was stated before it: the signal may have been of another page.
    pub effect_first: bool,
    /// What comes of a signal was stated long after it, and names no page that the signal named.
    #[serde(skip_serializing_if = "core::ops::Not::not")]
    pub paired_late: bool,
    /// When the last statement of the poison itself was made, by the clocks of the sources.
    #[serde(skip)]
    pub poison_times: Vec<(u32, u64)>,
}

/// Where and when the host's kernel stated its first signal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FirstSignal {
    /// The file.
    pub source: String,
    /// Its line, from 1.
    pub line: u64,
    /// By the clock that all logs share.
    pub t: Option<u64>,
}

/// libvirt: the domain is gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shutdown {
    /// libvirt's reason.
    pub reason: String,
    /// Long after the last sign of poison.
    pub late: bool,
}

/// The same, where there is any: most incidents are in no log, and a flood has ten thousand.
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

/// An injection by the VMM, as a log shows it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LogInjection {
    /// Monotonic nanoseconds.
    pub t: u64,
    /// Guest page address.
    pub gpa: Option<u64>,
    /// Action required or optional.
    pub severity: Severity,
    /// Seen by QMP, which names no page: the VMM's log may show the same one.
    #[serde(default)]
    pub by_qmp: bool,
}

impl Logged {
    /// Whether any log mentions it.
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
            || self.own_ignored
            || self.own_access
            || self.kernel_panic.is_some()
            || self.panic.is_some()
            || self.guest_signal.is_some()
            || self.guest_result.is_some()
            || self.bug_check_error.is_some()
            || self.alone && self.died_by_sigbus
            || self.killed
            || self.run_failed
            || self.qmp_reset.is_some()
            || self.qmp_fatal.is_some()
            || self.qmp_ignored
            || self.injections_skipped > 0
            || self.host_cut_off()
    }

    /// The host's kernel panicked of an error that its firmware reported, and took no machine check.
    pub fn fatal_by_firmware(&self) -> bool {
        self.host_mces.is_empty() && self.host_panic.as_deref().is_some_and(is_fatal_by_firmware)
    }

    /// The host's log ends with a machine check: the next boot follows.
    pub fn host_cut_off(&self) -> bool {
        self.host_mces.iter().any(|mce| mce.last_words)
    }

    /// All machine checks of its kernel were injected by software of that kernel.
    pub fn software_machine_checks(&self) -> bool {
        let of_guest = self.mces.iter().map(|(_, mce)| mce);
        let mut all = of_guest.chain(&self.host_mces).peekable();
        all.peek().is_some() && all.all(|mce| mce.by_software)
    }

    /// The host's kernel stated a signal at `t`.
    pub(crate) fn signalled_at(&mut self, t: u64, record: &LogRecord) {
        if self.first_signal.is_none() {
            self.first_signal = Some(FirstSignal {
                source: record.source.clone(),
                line: record.line,
                t: record.own_clock.is_none().then_some(t),
            });
        }
    }

    /// How long before the first signal a statement of the same file was made, nanoseconds: the clocks of two files may differ.
    /// Where no clock shows both, a line above that of the signal is taken for `by_line` earlier.
    pub(crate) fn precedes_signal_by(&self, t: u64, record: &LogRecord, by_line: u64) -> u64 {
        let first = self.first_signal.as_ref();
        let Some(first) = first.filter(|first| first.source == record.source) else {
            return 0;
        };
        match (first.t, &record.own_clock) {
            (Some(signal), None) => signal.saturating_sub(t),
            _ if record.line < first.line => by_line,
            _ => 0,
        }
    }

    /// Whether a statement was made more than `within` nanoseconds after the last one of the poison itself, as one clock shows
    /// both; `None`: none does.
    pub(crate) fn is_late(&self, record: &LogRecord, within: u64) -> Option<bool> {
        let since = record.times.iter().filter_map(|(clock, t)| {
            let (_, last) = self.poison_times.iter().find(|(known, _)| known == clock)?;
            Some(t.saturating_sub(*last))
        });
        since.min().map(|since| since > within)
    }

    /// A statement of the poison itself.
    pub(crate) fn poisoned_at(&mut self, record: &LogRecord) {
        const MAX_CLOCKS: usize = 16;
        for (clock, t) in &record.times {
            let known = self.poison_times.iter_mut().find(|(known, _)| known == clock);
            if let Some((_, last)) = known {
                *last = (*last).max(*t);
            } else if self.poison_times.len() < MAX_CLOCKS {
                self.poison_times.push((*clock, *t));
            }
        }
    }

    /// Keeps an injection.
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
            .any(|(at, mce)| !mce.is_polled() && t.saturating_sub(*at) < PANIC_WITHIN_NS)
            && !late;
        let handled = self.guest_result.is_some() && !by_machine_check(text);
        // A bank that the kernel found is of an earlier time: what it died of is another machine check.
        let found = !self.mces.is_empty() && self.mces.iter().all(|(_, mce)| mce.is_polled());
        if by_machine_check(text) && !late && !found || soon && !has_own_reason(text) && !handled {
            self.panic.get_or_insert_with(|| text.to_owned());
        } else {
            self.other_panic.get_or_insert_with(|| text.to_owned());
            self.late_end |= late;
        }
    }

    /// Keeps a machine check of the host's kernel.
    pub fn host_machine_check(&mut self, mce: MceReport) {
        if self.host_mces.len() < MAX_MCES {
            self.host_mces.push(mce);
        }
    }

    /// Keeps a machine check of the guest's kernel.
    pub fn machine_check(&mut self, t: u64, mce: MceReport) {
        if self.mces.len() < MAX_MCES {
            self.mces.push((t, mce));
        }
    }

    /// The machine check of the error: one with a reason, else one with an address, else the last.
    pub fn mce(&self) -> Option<&MceReport> {
        let all = || self.mces.iter().rev().map(|(_, mce)| mce);
        all()
            .find(|mce| mce.reason.is_some() && mce.addr.is_some())
            .or_else(|| all().find(|mce| mce.addr.is_some() && mce.status.is_some()))
            .or_else(|| all().next())
    }

    /// The kernel's reason of the last machine check that has one.
    pub fn reason(&self) -> Option<&str> {
        self.mces.iter().rev().find_map(|(_, mce)| mce.reason.as_deref())
    }

    /// The function of the guest's kernel that accessed the page, if it is one that flushes.
    pub fn flusher(&self) -> Option<&str> {
        self.mces
            .iter()
            .filter_map(|(_, mce)| mce.symbol.as_deref())
            .find(|symbol| {
                symbol.contains("clflush") || symbol.contains("cpa_flush") || symbol.contains("clwb")
            })
    }

    /// The bank whose STATUS had OVER last.
    pub fn overflowed_bank(&self) -> Option<u32> {
        self.mces
            .iter()
            .rev()
            .find(|(_, mce)| mce.status.is_some_and(|status| status.0 & mca::OVER != 0))
            .and_then(|(_, mce)| mce.bank)
    }
}

/// Whether the kernel panicked because its init was killed by SIGBUS (do_exit(); the wait status is the signal).
pub fn init_was_killed(panic: &str) -> bool {
    const WORDS: &str = "attempted to kill init! exitcode=0x00000007";
    panic.to_ascii_lowercase().starts_with(WORDS)
}

/// Whether the kernel panicked of a machine check, in its own words.
pub fn by_machine_check(panic: &str) -> bool {
    const WORDS: [&str; 5] = [
        "machine check",
        "mce",
        "not all cpus entered broadcast exception handler",
        "failed kernel mode recovery",
        "memory failure",
    ];
    let lower = panic.to_ascii_lowercase();
    init_was_killed(panic) || WORDS.iter().any(|words| lower.contains(words))
}

/// Whether a panic's whole text is one of those that the kernel's machine-check handler has (`mce_panic()` and `mce_timed_out()`,
/// arch/x86/kernel/cpu/mce/core.c, 2.6.x to 7.3).
pub fn states_machine_check(panic: &str) -> bool {
    const TEXTS: [&str; 11] = [
        "fatal machine check",
        "fatal local machine check",
        "fatal machine check from unknown source",
        "machine check from unknown source",
        "fatal machine check on current cpu",
        "uncorrected machine check",
        "unable to continue",
        "timeout: not all cpus entered broadcast exception handler",
        "timeout: subject cpus unable to finish machine check processing",
        "timeout: monarch cpu unable to finish machine check processing",
        "timeout: monarch cpu did not finish machine check processing",
    ];
    let panic = panic.trim().to_ascii_lowercase();
    TEXTS.contains(&panic.as_str())
}

/// Whether a kernel panicked of an error that its firmware reported (`__ghes_panic()`, drivers/acpi/apei/ghes.c).
pub fn is_fatal_by_firmware(panic: &str) -> bool {
    panic.eq_ignore_ascii_case("Fatal hardware error!")
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
        | LogStatement::VmmInjected { .. }
        | LogStatement::VmmSigbus { .. }
        | LogStatement::HostPanic { .. }
        | LogStatement::KernelPanic { .. }
        | LogStatement::OwnAccess { .. }
        | LogStatement::VmmOwnMemory { .. }
        | LogStatement::GuestSignal { .. }
        | LogStatement::GuestAction { .. }
        | LogStatement::QmpMemoryFailure { .. } => true,
        LogStatement::ProcessEnded { lone, .. } => *lone,
        // SIGBUS of an init has other reasons too: a disk that fails below a mapped file.
        LogStatement::GuestPanic { text } => states_machine_check(text),
        LogStatement::BugCheck { args, .. } => {
            matches!(bug_check::error(args), Some(BugCheckError::MachineCheck { .. }))
        }
        LogStatement::GuestMce(mce) => is_of_poison(mce),
        LogStatement::HostMce(mce) => mce.last_words && is_of_poison(mce),
        _ => false,
    }
}

/// Corrected errors never open an incident.
fn is_of_poison(mce: &MceReport) -> bool {
    mce.status
        .is_none_or(|status| mca::raises_mc(status.0) || status.0 & mca::DEFERRED != 0)
}
