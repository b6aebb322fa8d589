//! Clocks of speakers: when their statements were made, between which times a process lived, and when a kernel booted.

use crate::text::clock::{OF_NO_YEAR, Stamp};

const S: i64 = 1_000_000_000;
/// How exactly wall clocks agree.
pub const GRAIN_NS: i64 = 2 * S;
/// What a log says of an end may come so long after it, and a start's log before it.
const LIFE_SLACK_NS: i64 = 60 * S;
/// How far apart the wall clocks of two places are at most, where logs omit the time zone.
const ZONES_NS: i64 = 26 * 3600 * S;
/// One event is in two logs that show their zones at nearly the same time; a guest's clock may be off.
const SAME_EVENT_NS: i64 = 3600 * S;
/// Two boots of one machine are further apart than this.
const BOOT_GRAIN_NS: i64 = 30 * S;
/// By how much a kernel's clock and the wall clock drift, parts of one: 100 ppm.
const DRIFT: i64 = 10_000;
const YEAR_NS: i64 = 365 * 24 * 3600 * S;

/// The wall clock of some statements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wall {
    pub first: i64,
    pub last: i64,
    /// The year is known.
    pub year: bool,
    /// The zone is not.
    pub local: bool,
}

impl Wall {
    pub fn of(stamp: Stamp) -> Option<Self> {
        let wall = stamp.wall?;
        Some(Self {
            first: wall,
            last: wall,
            year: !stamp.no_year,
            local: stamp.local,
        })
    }

    pub fn union(self, other: Self) -> Self {
        // Years are few where the better clock is asked.
        if self.year != other.year {
            return if self.year { self } else { other };
        }
        Self {
            first: self.first.min(other.first),
            last: self.last.max(other.last),
            year: self.year,
            local: self.local || other.local,
        }
    }

    /// How far apart the nearest of their statements are.
    fn gap(self, other: Self) -> i64 {
        if self.last < other.first {
            other.first.saturating_sub(self.last)
        } else {
            self.first.saturating_sub(other.last).max(0)
        }
    }

    /// The same without a year, as logs that omit it are read.
    fn without_year(self) -> Option<Self> {
        if !self.year {
            return Some(self);
        }
        Some(Self {
            first: in_no_year(self.first)?,
            last: in_no_year(self.last)?,
            year: false,
            ..self
        })
    }

    /// How far apart the nearest of their statements are at least, zones and years left out where a log omits them.
    pub fn apart(self, other: Self) -> Option<i64> {
        let gap = if self.year == other.year {
            self.gap(other)
        } else {
            let (a, b) = (self.without_year()?, other.without_year()?);
            let gap = a.gap(b);
            // A year may end between them.
            gap.min(YEAR_NS.saturating_sub(gap).max(0))
        };
        Some(match self.local || other.local {
            // Of one place, perhaps; that of two is not known.
            true if self.local != other.local || self.year != other.year => {
                gap.saturating_sub(ZONES_NS).max(0)
            }
            _ => gap,
        })
    }

    /// Whether both cannot be of one event that two logs show.
    pub fn is_another_event(self, other: Self) -> bool {
        let most = if self.local || other.local {
            ZONES_NS
        } else {
            SAME_EVENT_NS
        };
        self.apart(other).is_some_and(|apart| apart > most)
    }

    /// Whether one clock shows both, the nearest of them no further apart.
    pub fn is_near(self, other: Self, within: i64) -> bool {
        self.comparable(other) && self.gap(other) <= within
    }

    fn comparable(self, other: Self) -> bool {
        self.year == other.year && self.local == other.local
    }
}

/// The time of a date in the year of those that have none.
fn in_no_year(wall: i64) -> Option<i64> {
    let at = jiff::Timestamp::from_nanosecond(i128::from(wall)).ok()?;
    let at = at.to_zoned(jiff::tz::TimeZone::UTC);
    let then = at.with().year(OF_NO_YEAR).build().ok()?;
    i64::try_from(then.timestamp().as_nanosecond()).ok()
}

/// Between which times a process or a VM lived.
#[derive(Clone, Copy, Debug, Default)]
pub struct Life {
    pub born: Option<Wall>,
    pub ended: Option<Wall>,
}

impl Life {
    pub fn union(self, other: Self) -> Self {
        let latest = |a: Wall, b: Wall| {
            if a.comparable(b) && b.first > a.first {
                b
            } else {
                a
            }
        };
        let first = |a: Wall, b: Wall| {
            if a.comparable(b) && b.first < a.first {
                b
            } else {
                a
            }
        };
        let both = |a: Option<Wall>, b: Option<Wall>, pick: fn(Wall, Wall) -> Wall| match (a, b) {
            (Some(a), Some(b)) => Some(pick(a, b)),
            (a, b) => a.or(b),
        };
        Self {
            born: both(self.born, other.born, latest),
            ended: both(self.ended, other.ended, first),
        }
    }

    /// Whether all of these statements were made before it began, or after it ended.
    pub fn excludes(self, wall: Wall) -> bool {
        let before = self.born.is_some_and(|born| {
            born.comparable(wall) && wall.last < born.first.saturating_sub(LIFE_SLACK_NS)
        });
        let after = self.ended.is_some_and(|ended| {
            ended.comparable(wall) && wall.first > ended.last.saturating_add(LIFE_SLACK_NS)
        });
        before || after
    }
}

/// When a kernel booted, by lines that show its own clock and a wall clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BootAt {
    wall: Wall,
    /// Longest time since boot.
    since: i64,
}

impl BootAt {
    pub fn of(stamp: Stamp) -> Option<Self> {
        let since = i64::try_from(stamp.boot?).ok()?;
        let mut wall = Wall::of(stamp)?;
        wall.first = wall.first.saturating_sub(since);
        wall.last = wall.first;
        Some(Self { wall, since })
    }

    /// What is logged late has the wall clock's time of the logging: the least is the nearest.
    pub fn union(self, other: Self) -> Self {
        let mut wall = match self.wall.comparable(other.wall) && other.wall.first < self.wall.first {
            true => other.wall,
            false => self.wall,
        };
        wall.last = wall.first;
        Self {
            wall,
            since: self.since.max(other.since),
        }
    }

    /// Whether both clocks show one boot.
    pub fn is_same(self, other: Self) -> bool {
        self.wall.comparable(other.wall) && !self.is_another(other)
    }

    /// Whether these are two boots.
    pub fn is_another(self, other: Self) -> bool {
        let drift = self.since.max(other.since) / DRIFT;
        self.wall.comparable(other.wall) && self.wall.gap(other.wall) > BOOT_GRAIN_NS.saturating_add(drift)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 24 * 3600 * S;

    fn at(t: i64) -> Wall {
        Wall {
            first: t,
            last: t,
            year: true,
            local: false,
        }
    }

    #[test]
    fn days_are_apart_whatever_a_log_omits() {
        let nov22 = 1_795_362_334 * S;
        let (exact, local) = (
            at(nov22),
            Wall {
                local: true,
                ..at(nov22)
            },
        );
        assert!(!exact.is_another_event(at(nov22 + 600 * S)));
        assert!(exact.is_another_event(at(nov22 + 2 * 3600 * S)));
        assert!(!local.is_another_event(at(nov22 + 9 * 3600 * S)), "another zone");
        assert!(local.is_another_event(at(nov22 + 3 * DAY)));
        let syslog = at(nov22).without_year().unwrap();
        assert_eq!(syslog.apart(exact), Some(0));
        assert!(
            Wall {
                local: true,
                ..syslog
            }
            .is_another_event(at(nov22 + 4 * DAY))
        );
    }

    #[test]
    fn nothing_is_of_a_life_before_it_or_after_it() {
        let life = Life {
            born: Some(at(0)),
            ended: Some(at(DAY)),
        };
        assert!(life.excludes(at(-DAY)) && life.excludes(at(2 * DAY)));
        assert!(!life.excludes(at(DAY / 2)) && !life.excludes(at(DAY + 30 * S)));
        assert!(!life.excludes(Wall {
            year: false,
            ..at(2 * DAY)
        }));
    }

    #[test]
    fn a_boot_is_known_by_its_two_clocks() {
        let boot = |boot: i64, wall: i64| {
            BootAt::of(Stamp {
                boot: u64::try_from(boot * S).ok(),
                wall: Some(wall * S),
                ..Stamp::default()
            })
            .unwrap()
        };
        assert!(!boot(900, 1_000_900).is_another(boot(5000, 1_005_010)));
        assert!(boot(900, 1_000_900).is_another(boot(900, 1_090_000)));
    }
}
