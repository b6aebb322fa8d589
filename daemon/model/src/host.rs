//! Host identity and the offset between its monotonic and its wall clock.

use alloc::string::String;
use serde::{Deserialize, Serialize};

/// The traced host, as the answer names it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// Name of the host.
    pub hostname: Option<String>,
    /// `uname -r`.
    pub kernel: Option<String>,
    /// Version of the poisontrace that traced.
    #[serde(alias = "poisontrace")]
    pub poisontrace_version: String,
    /// True under software emulation (durations then show nothing about hardware); `None`: not known.
    pub emulated: Option<bool>,
}

/// One instant on both clocks, nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockPair {
    /// CLOCK_MONOTONIC, the clock of `bpf_ktime_get_ns` and of every event.
    pub monotonic_ns: u64,
    /// CLOCK_REALTIME since the epoch; `None` where a source has no wall clock.
    pub wall_ns: Option<i64>,
}

impl ClockPair {
    /// The wall clock at event time `t`, nanoseconds since the epoch.
    pub fn wall_at(&self, t: u64) -> Option<i64> {
        let offset = i64::try_from(i128::from(t) - i128::from(self.monotonic_ns)).ok()?;
        self.wall_ns?.checked_add(offset)
    }
}

#[cfg(test)]
mod tests {
    use super::ClockPair;

    #[test]
    fn event_times_before_and_after_the_pair_have_a_wall_clock() {
        let pair = ClockPair {
            monotonic_ns: 1_000,
            wall_ns: Some(50_000),
        };
        assert_eq!(pair.wall_at(1_500), Some(50_500));
        assert_eq!(pair.wall_at(400), Some(49_400));
        assert_eq!(pair.wall_at(u64::MAX), None);
        assert_eq!(
            ClockPair {
                monotonic_ns: 1,
                wall_ns: None
            }
            .wall_at(5),
            None
        );
    }
}
