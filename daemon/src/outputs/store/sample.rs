//! Which of an incident's events are kept: all of the first ones, then ever fewer, so that a storm's shape stays to
//! be seen and its length does not matter. What was left out shows in the numbers of those that are there.

/// Events that are all kept.
const ALL: u64 = 256;
/// Kept of each doubling after those.
const AN_OCTAVE: u64 = 64;
/// From here on one a doubling.
const MANY: u64 = 1 << 20;

/// Most events of one incident: `ALL`, 64 for each of 12 doublings, one for each of the rest.
pub const MAX_EVENTS: u64 = ALL + 12 * AN_OCTAVE + 44;

/// Whether event number `n` (from 0) of an incident is kept.
pub fn kept(n: u64) -> bool {
    match n {
        0..ALL => true,
        ALL..MANY => n.is_multiple_of((1 << n.ilog2()) / AN_OCTAVE),
        _ => n.is_power_of_two(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_storm_of_millions_leaves_a_bounded_sample_of_its_whole_length() {
        let of = |events: u64| (0..events).filter(|n| kept(*n)).count() as u64;
        assert_eq!(of(256), 256);
        assert_eq!(of(512), 256 + 64);
        assert_eq!(of(1 << 20), 256 + 12 * 64);
        assert!(of(10_000_000) < MAX_EVENTS);
        assert!((900_000..1_000_000).any(kept), "the end of a storm is seen too");
    }
}
