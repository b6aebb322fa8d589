//! What the common clock is worth, in words: for each source's clock how many events tie it to the others, and
//! how well.

use std::collections::BTreeMap;

use super::{
    align::{Alignment, Clock},
    logs::{Log, Turn},
};

/// Says it for the clocks of all statements. `unplaced`: files whose lines have no common time, and whether they
/// have one of their own.
pub fn note(
    logs: &[Log],
    turns: &[Turn<'_>],
    alignment: &Alignment,
    unplaced: &BTreeMap<usize, bool>,
    notes: &mut Vec<String>,
) {
    let mut files: BTreeMap<(Clock, usize), ()> = BTreeMap::new();
    for turn in turns {
        if let Some((clock, _)) = turn.clocks.time(turn.item.stamp) {
            files.insert((clock, turn.file), ());
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
            let milliseconds = offset.spread as f64 / 1e6;
            let well = match offset.by {
                1 => "by 1 event that both tell of (how exactly is not known)".to_owned(),
                n => format!("by {n} events that both tell of, to within {milliseconds:.1} ms"),
            };
            notes.push(format!(
                "the clock of {name} ({}) is aligned {well}",
                clock_name(&clock)
            ));
        }
    }
    for (file, timed) in unplaced {
        let Some(name) = logs.get(*file).map(|log| &log.name) else {
            continue;
        };
        notes.push(if *timed {
            format!(
                "the clock of {name} against the others: it tells of no event that another source tells of; its lines are in order, at no known offset"
            )
        } else {
            format!("the times of {name}: its lines have none; they are in order, at no known offset")
        });
    }
}

fn clock_name(clock: &Clock) -> &'static str {
    match clock {
        Clock::Trace => "of the trace",
        Clock::HostBoot => "host, since boot",
        Clock::HostWall => "host, wall clock",
        Clock::NoYear(_) => "host, wall clock without a year",
        Clock::GuestBoot(_) => "guest, since boot",
        Clock::GuestWall(_) => "guest, wall clock",
    }
}
