//! Whether the wall clock may be believed, before anything is deleted by it. A clock that is wrong by years (a flat battery, a
//! restored machine) is set right within hours of the start, which is a jump against the time that the machine has run; one
//! that has not jumped for a week is taken for right. Whether it is synchronised is not asked for: adjtimex(2) could answer, but
//! the unit's ProtectClock= forbids it.

use std::time::Duration;

use poisontrace_sources::host::machine;

/// How long the clock must not jump.
pub const CONFIRMED_AFTER: Duration = Duration::from_secs(7 * 86_400);
/// What slewing (500 ppm) makes of a week, and more, is no jump, seconds.
const JUMP: u64 = 3600;

/// Both clocks at one instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// Time since the machine was booted, suspended or not.
    pub running: Duration,
    /// Seconds since the epoch.
    pub wall: i64,
}

impl Reading {
    pub fn now() -> Self {
        let (running, wall) = machine::running_and_wall();
        Self { running, wall }
    }

    /// When the machine was booted, by the wall clock, seconds.
    fn booted(self) -> i64 {
        let running = i64::try_from(self.running.as_secs()).unwrap_or(i64::MAX);
        self.wall.saturating_sub(running)
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct ClockWatch {
    /// The first reading since which the clock has not jumped.
    since: Option<Reading>,
}

impl ClockWatch {
    /// Takes a reading. Returns whether the clock is confirmed.
    pub fn confirms(&mut self, now: Reading) -> bool {
        let since = self
            .since
            .filter(|since| since.booted().abs_diff(now.booted()) <= JUMP);
        let since = *self.since.insert(since.unwrap_or(now));
        now.running.saturating_sub(since.running) >= CONFIRMED_AFTER
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3600;
    const DAY: u64 = 24 * HOUR;

    fn reading(hours: u64, ahead_days: i64) -> Reading {
        Reading {
            running: Duration::from_secs(hours * HOUR),
            wall: 1_800_000_000 + (hours * HOUR) as i64 + ahead_days * DAY as i64,
        }
    }

    #[test]
    fn a_clock_that_runs_for_a_week_without_a_jump_is_confirmed() {
        let mut clock = ClockWatch::default();
        for hour in 0..7 * 24 {
            assert!(!clock.confirms(reading(100 + hour, 0)), "{hour}");
        }
        assert!(clock.confirms(reading(100 + 7 * 24, 0)));
        // Slewed.
        let mut slewed = reading(100 + 8 * 24, 0);
        slewed.wall += 300;
        assert!(clock.confirms(slewed));
    }

    #[test]
    fn a_jump_begins_the_week_anew_in_either_direction() {
        let mut clock = ClockWatch::default();
        // The machine has run for a year when the daemon starts, which shows nothing of its clock.
        assert!(!clock.confirms(reading(8760, 500)));
        assert!(!clock.confirms(reading(8760 + 24, 500)));
        assert!(!clock.confirms(reading(8760 + 25, 0)), "set right");
        assert!(!clock.confirms(reading(8760 + 7 * 24, 0)));
        assert!(clock.confirms(reading(8760 + 25 + 7 * 24, 0)));
        assert!(!clock.confirms(reading(8760 + 26 + 7 * 24, 500)), "set wrong");
    }
}
