//! A rate limit for lines of the log.

/// A rate limit: `burst` at once, then one a second of the events' time. What is held back is counted.
pub struct Limit {
    left: u32,
    burst: u32,
    since_ns: u64,
    held_back: u64,
}

const SECOND_NS: u64 = 1_000_000_000;

impl Limit {
    pub fn new(burst: u32) -> Self {
        Self {
            left: burst,
            burst,
            since_ns: 0,
            held_back: 0,
        }
    }

    /// Whether one more may pass now.
    pub fn pass(&mut self, now_ns: u64) -> bool {
        let seconds = now_ns.saturating_sub(self.since_ns) / SECOND_NS;
        if seconds > 0 {
            self.since_ns = now_ns;
            let more = u32::try_from(seconds).unwrap_or(u32::MAX);
            self.left = self.left.saturating_add(more).min(self.burst);
        }
        if self.left == 0 {
            self.held_back += 1;
            return false;
        }
        self.left -= 1;
        true
    }

    /// How many were held back since the last call.
    pub fn held_back(&mut self) -> u64 {
        std::mem::take(&mut self.held_back)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_passes_in_a_burst_and_then_once_a_second() {
        let mut limit = Limit::new(3);
        let passed = (0..100).filter(|_| limit.pass(SECOND_NS)).count();
        assert_eq!((passed, limit.held_back()), (3, 97));
        assert!(limit.pass(2 * SECOND_NS) && !limit.pass(2 * SECOND_NS));
        assert_eq!(limit.held_back(), 1);
    }
}
