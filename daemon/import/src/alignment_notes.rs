//! How well the clock of each source is aligned: how many events tie it to the others, and how far they agree.

use std::collections::BTreeMap;

use poisontrace_model::incident::missing::{ClockAlignment, ClockKind, ClockNote, MissingEvidence};

use super::{
    align::{Alignment, Clock},
    joins::Turn,
    log::Log,
};

/// Notes it for the clocks of all statements. `unplaced`: files whose lines have no common time, and whether they
/// have one of their own.
pub fn note(
    logs: &[Log],
    turns: &[Turn<'_>],
    alignment: &Alignment,
    unplaced: &BTreeMap<usize, bool>,
    notes: &mut Vec<MissingEvidence>,
) {
    let mut files: BTreeMap<(Clock, usize), ()> = BTreeMap::new();
    for turn in turns {
        if let Some((clock, _)) = turn.clocks.time(turn.entry.item.stamp) {
            files.insert((clock, turn.entry.stream.file), ());
        }
    }
    for (clock, file) in files.into_keys() {
        let Some(name) = logs.get(file).map(|log| &log.name) else {
            continue;
        };
        if alignment.base.as_ref() == Some(&clock) {
            continue;
        }
        if let Some(offset) = alignment.offset(&clock).filter(|offset| offset.by > 0) {
            notes.push(MissingEvidence::Clock(ClockNote {
                source: name.clone(),
                alignment: ClockAlignment::Aligned {
                    clock: kind(&clock),
                    events: offset.by as u64,
                    spread_ns: offset.spread,
                },
            }));
        }
    }
    // A file by itself is in its own order, and nothing else is to be placed beside it.
    if logs.len() == 1 && alignment.base.as_ref() != Some(&Clock::Trace) {
        return;
    }
    for (file, timed) in unplaced {
        let Some(name) = logs.get(*file).map(|log| &log.name) else {
            continue;
        };
        let alignment = match timed {
            true => ClockAlignment::Unaligned,
            false => ClockAlignment::Untimed,
        };
        notes.push(MissingEvidence::Clock(ClockNote {
            source: name.clone(),
            alignment,
        }));
    }
}

const fn kind(clock: &Clock) -> ClockKind {
    match clock {
        Clock::Trace => ClockKind::Trace,
        Clock::HostBoot(_) => ClockKind::HostBoot,
        Clock::HostWall => ClockKind::HostWall,
        Clock::NoYear(_) => ClockKind::HostWallWithoutYear,
        Clock::GuestBoot(_) => ClockKind::GuestBoot,
        Clock::GuestWall(_) => ClockKind::GuestWall,
    }
}
