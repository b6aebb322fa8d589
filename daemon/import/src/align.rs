//! Clocks. Where two sources show the same event, the difference of their times is the offset of their
//! clocks; several such events say how well. What shares no event with another keeps its order and no more.

use std::collections::BTreeMap;

use super::text::clock::Stamp;
use poisontrace_model::event::{Event, EventKind, SigbusSeverity, log_statement::LogStatement};

/// Marks kept of one clock.
const MAX_MARKS: usize = 4096;

/// A clock of the sources.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Clock {
    /// Of the traces and recordings.
    Trace,
    /// Since boot of the host.
    HostBoot,
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
    marks: BTreeMap<Clock, Vec<(Mark, u64)>>,
    /// Two clocks on one line: boot to wall.
    pairs: BTreeMap<(Clock, Clock), i128>,
    offsets: BTreeMap<Clock, Offset>,
    pub base: Option<Clock>,
}

impl Alignment {
    /// Notes an event of a trace or recording.
    pub fn event(&mut self, event: &Event) {
        let mark = match &event.what {
            EventKind::Sigbus { severity, .. } | EventKind::SigbusNoAddress { severity, .. } => {
                signal(*severity)
            }
            EventKind::FailureAction { pfn, .. } => Mark::Action(pfn.0),
            EventKind::Delivered => Mark::MachineCheck,
            EventKind::Pio { port, .. } if port.0 == 0x505 => Mark::Panic,
            EventKind::VmmGone | EventKind::TaskExit { live: Some(0), .. } => Mark::Gone,
            _ => return,
        };
        self.mark(Clock::Trace, mark, event.t);
    }

    /// Notes a statement, and both of its times.
    pub fn entry(&mut self, clocks: Clocks, stamp: Stamp, entry: &LogStatement) {
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
            self.mark(clock, mark, t);
        } else {
            self.marks.entry(clock).or_default();
        }
    }

    fn mark(&mut self, clock: Clock, mark: Mark, t: u64) {
        let marks = self.marks.entry(clock).or_default();
        if marks.len() < MAX_MARKS && !marks.contains(&(mark.clone(), t)) {
            marks.push((mark, t));
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
        let mine = self.marks.get(clock)?;
        self.offsets
            .iter()
            .filter_map(|(other, known)| {
                let shared = differences(self.marks.get(other)?, mine);
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

    /// The base's time of a stamp.
    pub fn place(&self, clocks: &Clocks, stamp: Stamp) -> Option<u64> {
        let (clock, t) = clocks.time(stamp)?;
        let offset = self.offsets.get(&clock)?;
        u64::try_from(i128::from(t) + offset.ns).ok()
    }

    /// A statement without a clock that shows an event of the base has that event's time.
    pub fn same_event(&self, entry: &LogStatement, nth: usize) -> Option<u64> {
        let mark = mark_of(entry)?;
        let marks = self.marks.get(self.base.as_ref()?)?;
        let mut same = marks.iter().filter(|(other, _)| *other == mark);
        same.nth(nth).map(|(_, t)| *t)
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
        LogStatement::VmmTold { severity, .. } => signal((*severity)?),
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

/// Differences base minus mine of the marks that both have, the k-th with the k-th.
fn differences(base: &[(Mark, u64)], mine: &[(Mark, u64)]) -> Vec<i128> {
    let mut times: BTreeMap<&Mark, Vec<u64>> = BTreeMap::new();
    for (mark, t) in base {
        times.entry(mark).or_default().push(*t);
    }
    let mut used: BTreeMap<&Mark, usize> = BTreeMap::new();
    let mut found = Vec::new();
    for (mark, t) in mine {
        let nth = used.entry(mark).or_default();
        if let Some(other) = times.get(mark).and_then(|times| times.get(*nth)) {
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
        boot: Clock::HostBoot,
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
        alignment.entry(HOST, boot(1_500), &action(1));
        alignment.entry(HOST, boot(2_600), &action(2));
        alignment.settle(true);
        let offset = alignment.offset(&Clock::HostBoot).unwrap();
        assert_eq!((offset.by, offset.spread), (2, 100));
        assert_eq!(alignment.place(&HOST, boot(1_500)), Some(1_000));
    }

    #[test]
    fn clocks_without_a_common_event_are_not_aligned() {
        let mut alignment = Alignment::default();
        alignment.entry(HOST, boot(1_500), &action(1));
        let guest = Clocks {
            boot: Clock::GuestBoot((1, 0)),
            wall: Clock::GuestWall((1, 0)),
        };
        let panic = LogStatement::GuestPanic { text: String::new() };
        alignment.entry(guest.clone(), boot(9), &panic);
        alignment.settle(false);
        assert_eq!(alignment.base, Some(Clock::HostBoot));
        assert_eq!(alignment.place(&guest, boot(9)), None);
    }
}
