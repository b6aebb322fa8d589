//! Statements of logs, put in order: whose each is, of which VM, when by the common clock, and each once, in however
//! many files it stands.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::{
    align::{Alignment, Clock, Clocks},
    alignment_notes,
    host_boots::HostBoots,
    joins::{self, Turn, Vm},
    log::Log,
    speakers::{self, Attributed},
    text::clock::Stamp,
};
use poisontrace_model::{
    correlate::Correlator,
    event::{
        Event, EventKind,
        log_statement::{JoinKey, LogRecord, LogStatement, Machine, Role, Speaker},
    },
    incident::{missing::MissingEvidence, model::HostEvent},
};

/// What the logs come to.
pub struct Logged {
    pub vms: Vec<Vm>,
    pub events: Vec<Event>,
    pub host_events: Vec<HostEvent>,
    /// How many more of these there are.
    pub host_events_left_out: u64,
    /// The host's kernel release, if a log shows it.
    pub kernel: Option<String>,
    /// The dates that have no year, by file and line.
    pub dates: HashMap<String, BTreeMap<u64, Stamp>>,
}

/// All statements as events on one clock, the host's first and the guest's last; what the clocks are worth
/// goes to `notes`.
pub fn read(
    logs: &[Log],
    seen: &std::collections::BTreeSet<u32>,
    alignment: &mut Alignment,
    traced: bool,
    notes: &mut Vec<MissingEvidence>,
) -> Logged {
    let mut all = speakers::attribute(logs, seen);
    if !traced {
        super::lone::mark(&mut all);
    }
    let joined = joins::join(logs, &all);
    let boots = HostBoots::of(logs, &all);
    let mut turns = once(logs, &all, &joined.of, &boots);
    for (vm, number) in joined.vms.iter().zip(1..) {
        alignment.learn_vm(number, &vm.pids);
    }
    for turn in &turns {
        let vm = turn.of.first().map_or(0, |(vm, _)| *vm);
        alignment.entry(
            turn.clocks.clone(),
            turn.entry.item.stamp,
            &turn.entry.statement,
            vm,
        );
    }
    alignment.settle(traced);
    // What opens an incident comes before what only adds to one.
    let adds = |entry: &LogStatement| {
        matches!(
            entry,
            LogStatement::HostAction { .. }
                | LogStatement::HostMce(_)
                | LogStatement::MemoryError { .. }
                | LogStatement::SoftwarePoison { .. }
        )
    };
    let order = |turn: &Turn<'_>| {
        let entry = turn.entry;
        let vm = turn.of.first().map_or(0, |(vm, _)| *vm);
        (
            vm,
            rank(entry),
            adds(&entry.statement),
            entry.stream.file,
            logs.get(entry.stream.file)
                .map_or(entry.item.line, |log| log.place(entry.item)),
        )
    };
    turns.sort_by_key(order);
    let dates = without_year(logs, &turns);
    let mut events = events(logs, &turns, alignment, notes);
    let platforms = super::platform::of_vms(logs, &all, &joined.of);
    events.extend(platforms.into_iter().map(|(vm, name)| on_platform(vm, name)));
    for log in logs.iter().filter(|log| log.dropped > 0) {
        notes.push(MissingEvidence::Statements {
            count: log.dropped,
            source: log.name.clone(),
        });
    }
    let (host_events, host_events_left_out) = super::host_events::collect(logs, &all, &joined.of);
    Logged {
        vms: joined.vms,
        events,
        host_events,
        host_events_left_out,
        kernel: host_kernel(logs, &all),
        dates,
    }
}

fn without_year(logs: &[Log], turns: &[Turn<'_>]) -> HashMap<String, BTreeMap<u64, Stamp>> {
    let mut dates: HashMap<String, BTreeMap<u64, Stamp>> = HashMap::new();
    for turn in turns {
        let item = turn.entry.item;
        let log = logs.get(turn.entry.stream.file);
        if let Some(log) = log.filter(|_| item.stamp.no_year && item.stamp.wall.is_some()) {
            let of_file = dates.entry(log.name.clone()).or_default();
            of_file.insert(item.line, item.stamp);
        }
    }
    dates
}

fn host_kernel(logs: &[Log], all: &[Attributed<'_>]) -> Option<String> {
    let by_libvirt = logs.iter().find_map(|log| log.libvirt_kernel.clone());
    let guests: HashSet<_> = all
        .iter()
        .filter(|entry| entry.role == Role::GuestKernel)
        .map(|entry| entry.stream)
        .collect();
    let boots = all.iter().filter(|entry| !guests.contains(&entry.stream));
    by_libvirt.or_else(|| {
        boots.into_iter().find_map(|entry| match &entry.statement {
            LogStatement::Machine {
                about: Machine::Boot(release),
            } => Some(release.clone()),
            _ => None,
        })
    })
}

/// The order of the speakers of one VM.
fn rank(entry: &Attributed<'_>) -> u8 {
    match (&entry.statement, entry.role) {
        (LogStatement::GuestMce(_) | LogStatement::GuestPanic { .. }, _) | (_, Role::GuestKernel) => 3,
        (LogStatement::ProcessEnded { .. }, _) => 4,
        // KubeVirt's events are a tool's.
        (LogStatement::QmpShutdown { .. }, _) => 2,
        (_, Role::HostKernel | Role::Tool | Role::Kernel) => 0,
        (_, Role::Qmp) => 2,
        _ => 1,
    }
}

fn events(
    logs: &[Log],
    turns: &[Turn<'_>],
    alignment: &Alignment,
    notes: &mut Vec<MissingEvidence>,
) -> Vec<Event> {
    let mut kinds: HashMap<(u32, u8, std::mem::Discriminant<LogStatement>, String), usize> = HashMap::new();
    let mut unplaced: BTreeMap<usize, bool> = BTreeMap::new();
    let mut clocks: HashMap<Clock, u32> = HashMap::new();
    let mut number = |clock: &Clock| {
        let next = clocks.len() as u32;
        *clocks.entry(clock.clone()).or_insert(next)
    };
    let answered = super::answers::pair(logs, turns);
    let mut events = Vec::with_capacity(turns.len());
    for (n, turn) in turns.iter().enumerate() {
        let (entry, item) = (turn.entry, turn.entry.item);
        if silent(&entry.statement) {
            continue;
        }
        let vm = turn.of.first().map_or(0, |(vm, _)| *vm);
        let nth = kinds
            .entry((
                vm,
                rank(entry),
                std::mem::discriminant(&entry.statement),
                kind(&entry.statement),
            ))
            .or_default();
        let placed = alignment.place(&turn.clocks, item.stamp).or_else(|| {
            alignment
                .same_event(&entry.statement, vm, *nth)
                .filter(|_| turn.clocks.time(item.stamp).is_none())
        });
        *nth += 1;
        let own_clock = placed.is_none().then(|| own_time(&turn.clocks, item.stamp));
        // A command line has no time, and needs none.
        let of_identity = matches!(&entry.statement, LogStatement::VmName { .. });
        if let Some(clock) = own_clock.as_ref().filter(|_| !of_identity) {
            *unplaced.entry(entry.stream.file).or_default() |= !clock.is_empty();
        }
        let boot = item.stamp.boot.map(|t| (number(&turn.clocks.boot), t));
        let wall = item.stamp.wall.and_then(|t| u64::try_from(t).ok());
        let wall = wall.map(|t| (number(&turn.clocks.wall), t));
        let times: Vec<(u32, u64)> = boot.into_iter().chain(wall).collect();
        let nowhere = [(0, None)];
        for (vm, joined) in if turn.of.is_empty() { &nowhere } else { turn.of } {
            events.push(Event {
                t: placed.unwrap_or(0),
                tid: 0,
                pid: 0,
                vcpu: None,
                what: EventKind::LogStatement(Box::new(LogRecord {
                    source: logs
                        .get(entry.stream.file)
                        .map(|log| log.name.clone())
                        .unwrap_or_default(),
                    line: item.line,
                    speaker: speaker(logs, entry),
                    vm: *vm,
                    joined: joined.clone(),
                    answers: answered.get(&n).copied(),
                    text: item.text.clone(),
                    own_clock: own_clock.clone(),
                    times: times.clone(),
                    statement: entry.statement.clone(),
                })),
            });
        }
    }
    alignment_notes::note(logs, turns, alignment, &unplaced, notes);
    events
}

/// Whose machine a guest runs on.
fn on_platform(vm: u32, name: &str) -> Event {
    Event {
        t: 0,
        tid: 0,
        pid: 0,
        vcpu: None,
        what: EventKind::LogStatement(Box::new(LogRecord {
            source: String::new(),
            line: 0,
            speaker: Speaker::default(),
            vm,
            joined: None,
            answers: None,
            text: String::new(),
            own_clock: None,
            times: Vec::new(),
            statement: LogStatement::Machine {
                about: Machine::Hypervisor(name.to_owned()),
            },
        })),
    }
}

/// What shows nothing of an incident.
fn silent(statement: &LogStatement) -> bool {
    match statement {
        // A corrected error is of no page that was lost.
        LogStatement::MemoryError { corrected, .. } => *corrected,
        LogStatement::Machine { .. } | LogStatement::Other => true,
        _ => false,
    }
}

fn speaker(logs: &[Log], entry: &Attributed<'_>) -> Speaker {
    let sender = logs
        .get(entry.stream.file)
        .and_then(|log| log.senders.get(entry.stream.sender))
        .cloned()
        .unwrap_or_default();
    Speaker {
        role: entry.role,
        host: sender.host,
        boot: sender.boot,
        tag: sender.tag,
        pid: sender.pid,
        unit: sender.unit,
        domain: sender.domain,
    }
}

/// The clocks by which a statement is stamped.
fn clocks(logs: &[Log], entry: &Attributed<'_>, boots: &HostBoots) -> Clocks {
    let file = entry.stream.file;
    if logs.get(file).is_some_and(|log| log.trace) {
        return Clocks {
            boot: Clock::Trace,
            wall: Clock::HostWall,
        };
    }
    let wall = if entry.item.stamp.no_year {
        Clock::NoYear(boots.of_one_host(file))
    } else {
        Clock::HostWall
    };
    if entry.role != Role::GuestKernel {
        return Clocks {
            boot: Clock::HostBoot(boots.number(logs, entry)),
            wall,
        };
    }
    let sender = logs
        .get(file)
        .and_then(|log| log.senders.get(entry.stream.sender));
    // Who relays a console stamps its lines by the host's clock.
    let relayed = sender.is_some_and(|sender| sender.host.is_some() || sender.relay);
    let stream = (file, entry.stream.sender);
    Clocks {
        boot: Clock::GuestBoot(stream),
        wall: if relayed { wall } else { Clock::GuestWall(stream) },
    }
}

/// Each statement once: with a time, wherever it stands; without, as often as the file has it that has it most.
fn once<'a>(
    logs: &[Log],
    all: &'a [Attributed<'a>],
    of: &'a [Vec<(u32, Option<JoinKey>)>],
    boots: &HostBoots,
) -> Vec<Turn<'a>> {
    let mut timed: HashSet<(Clock, u64, u32, &LogStatement)> = HashSet::new();
    let mut untimed: HashMap<(u32, &LogStatement), usize> = HashMap::new();
    let mut here: HashMap<(usize, u32, &LogStatement), usize> = HashMap::new();
    let mut turns = Vec::new();
    for (entry, of) in all.iter().zip(of) {
        let clocks = clocks(logs, entry, boots);
        let vm = of.first().map_or(0, |(vm, _)| *vm);
        let new = match clocks.time(entry.item.stamp) {
            // One guest's console may stand in two files: the clock's file is no difference.
            Some((clock, t)) => timed.insert((shared(clock), t, vm, &entry.statement)),
            None => {
                let here = here.entry((entry.stream.file, vm, &entry.statement)).or_default();
                *here += 1;
                let most = untimed.entry((vm, &entry.statement)).or_default();
                let new = *here > *most;
                *most = (*most).max(*here);
                new
            }
        };
        if new {
            turns.push(Turn { entry, clocks, of });
        }
    }
    turns
}

fn shared(clock: Clock) -> Clock {
    match clock {
        Clock::NoYear(_) => Clock::NoYear(0),
        Clock::GuestBoot(_) => Clock::GuestBoot((0, 0)),
        Clock::GuestWall(_) => Clock::GuestWall((0, 0)),
        other => other,
    }
}

/// Feeds the VMs and the statements to the correlator.
pub fn feed(correlator: &mut Correlator, logged: &Logged) {
    for (vm, number) in logged.vms.iter().zip(1..) {
        correlator.learn_vm(number, &vm.pids, &vm.vmm);
    }
    for event in &logged.events {
        correlator.feed(event);
    }
}

/// Statements that may show the same event are counted together.
fn kind(entry: &LogStatement) -> String {
    match entry {
        LogStatement::VmmInjected { severity, .. } => format!("{severity:?}"),
        LogStatement::QmpMemoryFailure { action_required, .. } => action_required.to_string(),
        _ => String::new(),
    }
}

/// A time on a clock that is not aligned, for the timeline.
fn own_time(clocks: &Clocks, stamp: Stamp) -> String {
    match (stamp.boot, clocks.time(stamp)) {
        (Some(boot), _) => format!("{}.{:06}", boot / 1_000_000_000, boot % 1_000_000_000 / 1000),
        (None, Some(_)) => stamp.shown().unwrap_or_default(),
        (None, None) => String::new(),
    }
}
