//! What the logs said, put in order: who speaks, when by the common clock, and each statement once, in
//! however many files it stands.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::{
    align::{Alignment, Clock, Clocks},
    clock_notes,
    text::{Item, Scanner, clock::Stamp},
};
use poisontrace_model::event::{
    Event, What,
    log_statement::{self, LogRecord, LogStatement, MceReport},
};
use poisontrace_model::incident::missing::MissingEvidence;

/// QEMU's bank and granularity for lost memory.
const QEMU_BANK: u32 = 9;
const QEMU_MISC: u64 = 0x8c;
const PAGE_SHIFT: u32 = 12;

/// The statements of one file.
pub struct Log {
    pub name: String,
    items: Vec<Item>,
    kernel: Option<String>,
    libvirt_kernel: Option<String>,
    pub hostname: Option<String>,
    guest: bool,
    dropped: u64,
    /// The items are a trace's own, on its clock.
    trace: bool,
    records: u64,
}

/// Who makes a statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Speaker {
    Host,
    Vmm,
    Qmp,
    Guest,
}

impl Log {
    pub fn new(name: String, scanner: Scanner, records: u64) -> Self {
        let mut items = scanner.items;
        items.sort_by_key(|item| item.line);
        Self {
            name,
            items,
            kernel: scanner.kernel,
            libvirt_kernel: scanner.host_kernel,
            hostname: scanner.hostname,
            guest: scanner.guest,
            dropped: scanner.dropped,
            trace: false,
            records,
        }
    }

    /// A host's database.
    pub fn of_host(name: String, items: Vec<Item>) -> Self {
        Self {
            name,
            items,
            kernel: None,
            libvirt_kernel: None,
            hostname: None,
            guest: false,
            dropped: 0,
            trace: false,
            records: 0,
        }
    }

    /// Failures of pages in a trace for which no signal was seen.
    pub fn of_trace(loose: Vec<(u64, LogStatement)>) -> Self {
        let items = loose.into_iter().zip(1..).map(|((t, said), line)| Item {
            line,
            stamp: Stamp {
                boot: Some(t),
                ..Stamp::default()
            },
            statement: said,
        });
        Self {
            trace: true,
            ..Self::of_host("trace".to_owned(), items.collect())
        }
    }

    /// Whether it is worth keeping although the file could not be read to its end.
    pub fn useful(&self) -> bool {
        !self.items.is_empty() || self.records > 0
    }

    /// The host's kernel release, if this file tells it.
    pub fn host_kernel(&self) -> Option<String> {
        self.libvirt_kernel
            .clone()
            .or_else(|| self.kernel.clone().filter(|_| !self.guest))
    }

    fn clocks(&self, file: usize, speaker: Speaker, stamp: Stamp) -> Clocks {
        if self.trace {
            return Clocks {
                boot: Clock::Trace,
                wall: Clock::HostWall,
            };
        }
        let wall = if stamp.no_year {
            Clock::NoYear(file)
        } else {
            Clock::HostWall
        };
        match speaker {
            Speaker::Guest => Clocks {
                boot: Clock::GuestBoot(file),
                wall: Clock::GuestWall(file),
            },
            _ => Clocks {
                boot: Clock::HostBoot,
                wall,
            },
        }
    }
}

/// Host and guest speak with the same words. A page that a machine check of the guest named is the guest's; a
/// machine check is the guest's if it has the mark of a VMM, or a panic follows, or the file says so.
pub fn settle_speakers(logs: &mut [Log]) {
    let mut guest_pages = HashSet::new();
    // A VMM's page is the host's, whatever a guest calls its own of the same number.
    let mut host_pages = HashSet::new();
    for log in logs.iter_mut() {
        let panicked = log
            .items
            .iter()
            .any(|item| matches!(item.statement, LogStatement::GuestPanic { .. }));
        let guest = log.guest;
        log.items.retain(|item| match &item.statement {
            LogStatement::GuestMce(mce) => guest || panicked || by_a_vmm(mce),
            _ => true,
        });
        for item in &log.items {
            match &item.statement {
                LogStatement::GuestMce(mce) => guest_pages.extend(mce.addr.map(|addr| addr.0 >> PAGE_SHIFT)),
                LogStatement::VmmTold { gpa, .. } => guest_pages.extend(gpa.map(|gpa| gpa.0 >> PAGE_SHIFT)),
                LogStatement::HostSignal { pfn, comm, .. } if vmm_name(comm) => {
                    host_pages.insert(pfn.0);
                }
                _ => {}
            }
        }
    }
    let guests = |pfn: u64| guest_pages.contains(&pfn) && !host_pages.contains(&pfn);
    for log in logs {
        let guest = log.guest;
        for item in &mut log.items {
            let said = match &item.statement {
                LogStatement::HostSignal { pfn, comm, pid }
                    if (guest || guests(pfn.0)) && !vmm_name(comm) =>
                {
                    LogStatement::GuestSignal {
                        pfn: *pfn,
                        comm: comm.clone(),
                        pid: *pid,
                    }
                }
                LogStatement::HostAction {
                    pfn,
                    page_type,
                    result,
                } if guest || guests(pfn.0) => LogStatement::GuestAction {
                    pfn: *pfn,
                    page_type: page_type.clone(),
                    result: result.clone(),
                },
                _ => continue,
            };
            item.statement = said;
        }
    }
}

fn by_a_vmm(mce: &MceReport) -> bool {
    mce.bank == Some(QEMU_BANK) && mce.misc.is_some_and(|misc| misc.0 == QEMU_MISC)
}

fn vmm_name(comm: &str) -> bool {
    [
        "qemu",
        "kvm",
        "CPU ",
        "firecracker",
        "fc_vcpu",
        "cloud-hyp",
        "crosvm",
        "vmm",
        "vcpu",
    ]
    .iter()
    .any(|name| comm.starts_with(name))
}

fn speaker(said: &LogStatement) -> Speaker {
    match said {
        LogStatement::HostSignal { .. }
        | LogStatement::HostAction { .. }
        | LogStatement::HostKilled { .. }
        | LogStatement::ProcessEnded { .. }
        | LogStatement::HostMce(_)
        | LogStatement::HostPanic { .. }
        | LogStatement::Machine(_)
        | LogStatement::MemoryError { .. }
        | LogStatement::OwnAccess { .. } => Speaker::Host,
        LogStatement::VmmTold { .. }
        | LogStatement::VmmReset { .. }
        | LogStatement::RunFailed
        | LogStatement::VmmOwnMemory { .. }
        | LogStatement::VmmSigbus { .. }
        | LogStatement::VmName { .. }
        | LogStatement::AddressMap { .. }
        | LogStatement::MigrationRefused
        | LogStatement::BugCheck { .. }
        | LogStatement::Cut { .. }
        | LogStatement::VmShutdown { .. } => Speaker::Vmm,
        LogStatement::QmpMemoryFailure { .. }
        | LogStatement::QmpPanicked { .. }
        | LogStatement::QmpReset { .. }
        | LogStatement::QmpShutdown { .. } => Speaker::Qmp,
        LogStatement::GuestMce(_)
        | LogStatement::GuestPanic { .. }
        | LogStatement::GuestSignal { .. }
        | LogStatement::GuestAction { .. } => Speaker::Guest,
    }
}

/// A statement that is to be said.
pub(super) struct Turn<'a> {
    speaker: Speaker,
    pub(super) file: usize,
    pub(super) item: &'a Item,
    pub(super) clocks: Clocks,
}

/// All statements as events on one clock, the host's first and the guest's last; what the clocks are worth
/// goes to `notes`.
pub fn events(
    logs: &[Log],
    alignment: &mut Alignment,
    traced: bool,
    notes: &mut Vec<MissingEvidence>,
) -> Vec<Event> {
    let mut turns = once(logs);
    for turn in &turns {
        alignment.said(turn.clocks.clone(), turn.item.stamp, &turn.item.statement);
    }
    alignment.settle(traced);
    // What opens an incident comes before what only adds to one.
    let adds = |said: &LogStatement| matches!(said, LogStatement::HostAction { .. });
    turns.sort_by_key(|turn| {
        (
            turn.speaker,
            adds(&turn.item.statement),
            turn.file,
            turn.item.line,
        )
    });
    let mut tellings: HashMap<&LogStatement, usize> = HashMap::new();
    let mut kinds: HashMap<(Speaker, std::mem::Discriminant<LogStatement>, String), usize> = HashMap::new();
    let mut unplaced: BTreeMap<usize, bool> = BTreeMap::new();
    let mut events = Vec::with_capacity(turns.len());
    for turn in &turns {
        let said = &turn.item.statement;
        *tellings.entry(said).or_default() += 1;
        let nth = kinds
            .entry((turn.speaker, std::mem::discriminant(said), kind(said)))
            .or_default();
        let placed = alignment.place(&turn.clocks, turn.item.stamp).or_else(|| {
            alignment
                .same_event(said, *nth)
                .filter(|_| turn.clocks.time(turn.item.stamp).is_none())
        });
        *nth += 1;
        let own_clock = placed.is_none().then(|| own_time(&turn.clocks, turn.item.stamp));
        if let Some(clock) = &own_clock {
            *unplaced.entry(turn.file).or_default() |= !clock.is_empty();
        }
        events.push(Event {
            t: placed.unwrap_or(0),
            tid: 0,
            pid: 0,
            vcpu: None,
            what: What::LogStatement(LogRecord {
                source: logs
                    .get(turn.file)
                    .map(|log| log.name.clone())
                    .unwrap_or_default(),
                line: turn.item.line,
                speaker: log_statement::Speaker::default(),
                own_clock,
                statement: said.clone(),
            }),
        });
    }
    clock_notes::note(logs, &turns, alignment, &unplaced, notes);
    for log in logs.iter().filter(|log| log.dropped > 0) {
        notes.push(MissingEvidence::Statements {
            count: log.dropped,
            source: log.name.clone(),
        });
    }
    events
}

/// Each statement once: with a time, wherever it stands; without, as often as the file says it that says it
/// most.
fn once(logs: &[Log]) -> Vec<Turn<'_>> {
    let mut timed: HashSet<(Clock, u64, &LogStatement)> = HashSet::new();
    let mut untimed: HashMap<&LogStatement, usize> = HashMap::new();
    let mut turns = Vec::new();
    for (file, log) in logs.iter().enumerate() {
        let mut here: HashMap<&LogStatement, usize> = HashMap::new();
        for item in &log.items {
            let speaker = speaker(&item.statement);
            let clocks = log.clocks(file, speaker, item.stamp);
            let new = match clocks.time(item.stamp) {
                // One guest's console may stand in two files: the clock's file is no difference.
                Some((clock, t)) => timed.insert((shared(clock), t, &item.statement)),
                None => {
                    let here = here.entry(&item.statement).or_default();
                    *here += 1;
                    let most = untimed.entry(&item.statement).or_default();
                    let new = *here > *most;
                    *most = (*most).max(*here);
                    new
                }
            };
            if new {
                turns.push(Turn {
                    speaker,
                    file,
                    item,
                    clocks,
                });
            }
        }
    }
    turns
}

fn shared(clock: Clock) -> Clock {
    match clock {
        Clock::NoYear(_) => Clock::NoYear(0),
        Clock::GuestBoot(_) => Clock::GuestBoot(0),
        Clock::GuestWall(_) => Clock::GuestWall(0),
        other => other,
    }
}

/// Statements that may tell of the same event are counted together.
fn kind(said: &LogStatement) -> String {
    match said {
        LogStatement::VmmTold { severity, .. } => format!("{severity:?}"),
        LogStatement::QmpMemoryFailure { action_required, .. } => action_required.to_string(),
        _ => String::new(),
    }
}

/// A time on a clock that is not aligned, for the timeline.
fn own_time(clocks: &Clocks, stamp: Stamp) -> String {
    match (stamp.boot, clocks.time(stamp)) {
        (Some(boot), _) => format!("{}.{:06}", boot / 1_000_000_000, boot % 1_000_000_000 / 1000),
        (None, Some((_, wall))) => jiff::Timestamp::from_nanosecond(i128::from(wall))
            .map(|at| at.to_string())
            .unwrap_or_default(),
        (None, None) => String::new(),
    }
}
