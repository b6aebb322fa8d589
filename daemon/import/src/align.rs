//! Clocks. Where two sources show the same event, the difference of their times is the offset of their
//! clocks; several such events say how well. What shares no event with another keeps its order and no more.

use std::collections::{BTreeMap, BTreeSet};

use super::text::clock::Stamp;
use poisontrace_model::event::{Event, EventKind, SigbusSeverity, log_statement::LogStatement};

/// Marks kept of one clock.
const MAX_MARKS: usize = 4096;

/// A clock of the sources.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Clock {
    /// Of the traces and recordings.
    Trace,
    /// Since a boot of a host.
    HostBoot(u32),
    /// The wall clock of the host, in all its files.
    HostWall,
    /// A wall clock without a year, by file.
    NoYear(usize),
    /// A guest's, by file and sender; since its boot or on the wall.
    GuestBoot((usize, usize)),
    GuestWall((usize, usize)),
}

/// Something that two sources can both show.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mark {
    Optional,
    Required,
    Action(u64),
    MachineCheck,
    Panic,
    Gone,
}

/// Whose event a mark is. A clock is aligned by events of one VM: those of two lie apart by chance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Whose {
    /// The host's, or nobody's that is known.
    Host,
    /// Of a process of the trace.
    Process(u32),
    /// Of a VM of the logs.
    Vm(u32),
}

/// How a clock lies to the base.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offset {
    /// To be added for the base's time, nanoseconds.
    pub ns: i128,
    /// Events that both show; 0: the source itself shows both times.
    pub by: usize,
    /// How far those lie apart, nanoseconds.
    pub spread: u64,
}

/// See the module.
#[derive(Default)]
pub struct Alignment {
    marks: BTreeMap<Clock, Vec<(Mark, Whose, u64)>>,
    /// Two clocks on one line: boot to wall.
    pairs: BTreeMap<(Clock, Clock), i128>,
    offsets: BTreeMap<Clock, Offset>,
    /// The VM of the logs that a process runs.
    vms: BTreeMap<u32, u32>,
    pub base: Option<Clock>,
}

impl Alignment {
    /// Notes an event of a trace or recording.
    pub fn event(&mut self, event: &Event) {
        let of = Whose::Process;
        let (mark, whose) = match &event.what {
            EventKind::Sigbus {
                severity, target_pid, ..
            }
            | EventKind::SigbusNoAddress {
                severity, target_pid, ..
            } => (signal(*severity), of(*target_pid)),
            EventKind::FailureAction { pfn, .. } => (Mark::Action(pfn.0), Whose::Host),
            EventKind::Delivered => (Mark::MachineCheck, of(event.pid)),
            EventKind::Pio { port, .. } if port.0 == 0x505 => (Mark::Panic, of(event.pid)),
            EventKind::VmmGone | EventKind::TaskExit { live: Some(0), .. } => (Mark::Gone, of(event.pid)),
            _ => return,
        };
        self.mark(Clock::Trace, mark, whose, event.t);
    }

    /// Notes which VM of the logs runs in these processes.
    pub fn learn_vm(&mut self, vm: u32, pids: &BTreeSet<u32>) {
        self.vms.extend(pids.iter().map(|pid| (*pid, vm)));
    }

    /// Notes a statement about `vm` (0: about none that is known), and both of its times.
    pub fn entry(&mut self, clocks: Clocks, stamp: Stamp, entry: &LogStatement, vm: u32) {
        if let (Some(boot), Some(wall)) = (stamp.boot, stamp.wall) {
            // What is logged late has the wall clock's time of the logging: the least difference is the nearest.
            let difference = i128::from(wall) - i128::from(boot);
            self.pairs
                .entry((clocks.boot.clone(), clocks.wall.clone()))
                .and_modify(|known| *known = difference.min(*known))
                .or_insert(difference);
        }
        let Some((clock, t)) = clocks.time(stamp) else {
            return;
        };
        if let Some(mark) = mark_of(entry) {
            let whose = match (&mark, vm) {
                (Mark::Action(_), _) | (_, 0) => Whose::Host,
                _ => Whose::Vm(vm),
            };
            self.mark(clock, mark, whose, t);
        } else {
            self.marks.entry(clock).or_default();
        }
    }

    fn mark(&mut self, clock: Clock, mark: Mark, whose: Whose, t: u64) {
        let marks = self.marks.entry(clock).or_default();
        let new = (mark, whose, t);
        if marks.len() < MAX_MARKS && !marks.contains(&new) {
            marks.push(new);
        }
    }

    /// Chooses the base and aligns what can be aligned, each clock to one that is aligned already.
    pub fn settle(&mut self, traced: bool) {
        let base = if traced {
            Some(Clock::Trace)
        } else {
            self.marks.keys().next().cloned()
        };
        let Some(base) = base else { return };
        self.offsets.insert(
            base.clone(),
            Offset {
                ns: 0,
                by: 0,
                spread: 0,
            },
        );
        self.base = Some(base);
        while let Some((clock, offset)) = self.next() {
            self.offsets.insert(clock, offset);
        }
    }

    fn next(&self) -> Option<(Clock, Offset)> {
        for ((boot, wall), difference) in &self.pairs {
            match (self.offsets.get(boot), self.offsets.get(wall)) {
                (Some(known), None) => {
                    let ns = known.ns - difference;
                    return Some((wall.clone(), Offset { ns, ..*known }));
                }
                (None, Some(known)) => {
                    let ns = known.ns + difference;
                    return Some((boot.clone(), Offset { ns, ..*known }));
                }
                _ => {}
            }
        }
        let open = self
            .marks
            .keys()
            .filter(|clock| !self.offsets.contains_key(clock));
        open.filter_map(|clock| Some((clock.clone(), self.best(clock)?)))
            .max_by_key(|(_, offset)| offset.by)
    }

    fn best(&self, clock: &Clock) -> Option<Offset> {
        let mine = self.of_vms(self.marks.get(clock)?);
        self.offsets
            .iter()
            .filter_map(|(other, known)| {
                let shared = differences(&self.of_vms(self.marks.get(other)?), &mine);
                let mut sorted = shared;
                sorted.sort_unstable();
                let median = *sorted.get(sorted.len() / 2)?;
                let spread = sorted.last()?.checked_sub(*sorted.first()?)?;
                Some(Offset {
                    ns: median + known.ns,
                    by: sorted.len(),
                    spread: u64::try_from(spread)
                        .unwrap_or(u64::MAX)
                        .saturating_add(known.spread),
                })
            })
            .max_by_key(|offset| offset.by)
    }

    /// The marks with the VMs of their processes.
    fn of_vms(&self, marks: &[(Mark, Whose, u64)]) -> Vec<(Mark, Whose, u64)> {
        let vm = |whose: Whose| match whose {
            Whose::Process(pid) => self.vms.get(&pid).map_or(whose, |vm| Whose::Vm(*vm)),
            other => other,
        };
        marks
            .iter()
            .map(|(mark, whose, t)| (mark.clone(), vm(*whose), *t))
            .collect()
    }

    /// The base's time of a stamp.
    pub fn place(&self, clocks: &Clocks, stamp: Stamp) -> Option<u64> {
        let (clock, t) = clocks.time(stamp)?;
        let offset = self.offsets.get(&clock)?;
        u64::try_from(i128::from(t) + offset.ns).ok()
    }

    /// A statement about `vm` without a clock that shows an event of the base has that event's time.
    pub fn same_event(&self, entry: &LogStatement, vm: u32, nth: usize) -> Option<u64> {
        let mark = mark_of(entry)?;
        let marks = self.of_vms(self.marks.get(self.base.as_ref()?)?);
        let alone = only(&marks) != Only::Several;
        let whose = match (&mark, vm) {
            (Mark::Action(_), _) | (_, 0) => Whose::Host,
            _ => Whose::Vm(vm),
        };
        let mut same = marks
            .iter()
            .filter(|(other, of, _)| *other == mark && (alone || *of == whose));
        same.nth(nth).map(|(_, _, t)| *t)
    }

    pub fn offset(&self, clock: &Clock) -> Option<Offset> {
        self.offsets.get(clock).copied()
    }

    /// Wall clock minus base, where both are known.
    pub fn wall(&self) -> Option<i128> {
        self.offsets.get(&Clock::HostWall).map(|offset| -offset.ns)
    }
}

/// The clocks that one file's lines of one speaker use.
#[derive(Clone, Debug)]
pub struct Clocks {
    pub boot: Clock,
    pub wall: Clock,
}

impl Clocks {
    /// The finer one of a stamp's times.
    pub fn time(&self, stamp: Stamp) -> Option<(Clock, u64)> {
        match (stamp.boot, stamp.wall) {
            (Some(boot), _) => Some((self.boot.clone(), boot)),
            (None, Some(wall)) => Some((self.wall.clone(), u64::try_from(wall).ok()?)),
            (None, None) => None,
        }
    }
}

fn signal(severity: SigbusSeverity) -> Mark {
    match severity {
        SigbusSeverity::ActionOptional => Mark::Optional,
        SigbusSeverity::ActionRequired => Mark::Required,
    }
}

fn mark_of(entry: &LogStatement) -> Option<Mark> {
    Some(match entry {
        // It was sent by memory_failure(), which finds an owner that did not touch the page.
        LogStatement::HostSignal { .. } => Mark::Optional,
        LogStatement::HostAction { pfn, .. } => Mark::Action(pfn.0),
        LogStatement::VmmInjected { severity, .. } => signal((*severity)?),
        LogStatement::QmpMemoryFailure { action_required, .. } => {
            if *action_required {
                Mark::Required
            } else {
                Mark::Optional
            }
        }
        LogStatement::GuestMce(mce) if mce.reason.is_some() || mce.status.is_some() => Mark::MachineCheck,
        LogStatement::GuestPanic { .. } | LogStatement::QmpPanicked { .. } => Mark::Panic,
        LogStatement::VmShutdown { .. } | LogStatement::QmpShutdown { .. } => Mark::Gone,
        _ => return None,
    })
}

/// Of how many VMs some marks are.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Only {
    None,
    One(Whose),
    Several,
}

fn only(marks: &[(Mark, Whose, u64)]) -> Only {
    let of_vms = marks.iter().map(|(_, whose, _)| *whose);
    of_vms
        .filter(|whose| *whose != Whose::Host)
        .fold(Only::None, |only, whose| match only {
            Only::None => Only::One(whose),
            Only::One(one) if one == whose => only,
            _ => Only::Several,
        })
}

/// Whether all marks of both are, as far as known, of one VM. Two VMs of the logs are two; which of them a process of a
/// trace runs, where nothing names it, only its being alone shows.
fn one_vm(base: Only, mine: Only) -> bool {
    match (base, mine) {
        (Only::Several, _) | (_, Only::Several) => false,
        (Only::One(Whose::Vm(a)), Only::One(Whose::Vm(b))) => a == b,
        _ => true,
    }
}

/// Differences base minus mine of the marks that both have, the k-th of a VM with its k-th.
fn differences(base: &[(Mark, Whose, u64)], mine: &[(Mark, Whose, u64)]) -> Vec<i128> {
    let alone = one_vm(only(base), only(mine));
    let key = |mark: &Mark, whose: Whose| (mark.clone(), if alone { Whose::Host } else { whose });
    let mut times: BTreeMap<(Mark, Whose), Vec<u64>> = BTreeMap::new();
    for (mark, whose, t) in base {
        times.entry(key(mark, *whose)).or_default().push(*t);
    }
    let mut used: BTreeMap<(Mark, Whose), usize> = BTreeMap::new();
    let mut found = Vec::new();
    for (mark, whose, t) in mine {
        let key = key(mark, *whose);
        let nth = used.entry(key.clone()).or_default();
        if let Some(other) = times.get(&key).and_then(|times| times.get(*nth)) {
            found.push(i128::from(*other) - i128::from(*t));
        }
        *nth += 1;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use poisontrace_model::hex::Hex;

    fn action(pfn: u64) -> LogStatement {
        LogStatement::HostAction {
            pfn: Hex(pfn),
            page_type: "dirty LRU page".to_owned(),
            result: "Recovered".to_owned(),
        }
    }

    fn boot(ns: u64) -> Stamp {
        Stamp {
            boot: Some(ns),
            ..Stamp::default()
        }
    }

    const HOST: Clocks = Clocks {
        boot: Clock::HostBoot(0),
        wall: Clock::HostWall,
    };

    #[test]
    fn two_common_events_give_the_offset_and_how_well_it_is_known() {
        let mut alignment = Alignment::default();
        for (t, pfn) in [(1_000, 1), (2_000, 2)] {
            alignment.event(&Event {
                t,
                tid: 1,
                pid: 1,
                vcpu: None,
                what: EventKind::FailureAction {
                    pfn: Hex(pfn),
                    page_type: String::new(),
                    result: String::new(),
                },
            });
        }
        alignment.entry(HOST, boot(1_500), &action(1), 0);
        alignment.entry(HOST, boot(2_600), &action(2), 0);
        alignment.settle(true);
        let offset = alignment.offset(&Clock::HostBoot(0)).unwrap();
        assert_eq!((offset.by, offset.spread), (2, 100));
        assert_eq!(alignment.place(&HOST, boot(1_500)), Some(1_000));
    }

    #[test]
    fn clocks_without_a_common_event_are_not_aligned() {
        let mut alignment = Alignment::default();
        alignment.entry(HOST, boot(1_500), &action(1), 0);
        let guest = Clocks {
            boot: Clock::GuestBoot((1, 0)),
            wall: Clock::GuestWall((1, 0)),
        };
        let panic = LogStatement::GuestPanic { text: String::new() };
        alignment.entry(guest.clone(), boot(9), &panic, 1);
        alignment.settle(false);
        assert_eq!(alignment.base, Some(Clock::HostBoot(0)));
        assert_eq!(alignment.place(&guest, boot(9)), None);
    }
    #[test]
    fn the_panic_of_one_vm_aligns_no_clock_with_the_panic_of_another() {
        let panic = LogStatement::GuestPanic { text: String::new() };
        let guest = |file| Clocks {
            boot: Clock::GuestBoot((file, 0)),
            wall: Clock::GuestWall((file, 0)),
        };
        let mut alignment = Alignment::default();
        alignment.entry(guest(1), boot(9), &panic, 1);
        alignment.entry(guest(2), boot(700), &panic, 2);
        alignment.settle(false);
        assert_eq!(alignment.place(&guest(2), boot(700)), None);
        // The same VM's console in another file shows the same event.
        let mut alignment = Alignment::default();
        alignment.entry(guest(1), boot(9), &panic, 1);
        alignment.entry(guest(2), boot(700), &panic, 1);
        alignment.settle(false);
        assert_eq!(alignment.place(&guest(2), boot(700)), Some(9));
    }
}
