//! Compares the kernel's count of memory failures with what the probes saw.

/// Finds failures that the kernel counted and no probe saw.
#[derive(Default)]
pub struct Reconciler {
    /// The kernel's count when the probes were attached.
    base: Option<u64>,
    actions: u64,
    /// Calls that returned 0: what there is where memory_failure_event is not attached.
    ends: u64,
    missed: u64,
    /// What was missing at the last look: an event on its way is not missing.
    missing: u64,
}

impl Reconciler {
    /// An action of `memory_failure()` was seen.
    pub fn saw(&mut self) {
        self.actions += 1;
    }

    /// A call of `memory_failure()` was seen to return 0.
    pub fn saw_end(&mut self) {
        self.ends += 1;
    }

    fn seen(&self) -> u64 {
        match self.actions {
            0 => self.ends,
            actions => actions,
        }
    }

    /// Compares with the kernel's count, and returns how many more are known to be missed: those that were
    /// missing at the last look as well.
    pub fn look(&mut self, kernel: Option<u64>) -> u64 {
        let Some(kernel) = kernel else { return 0 };
        let seen = self.seen();
        let base = *self.base.get_or_insert(kernel.saturating_sub(seen));
        let counted = kernel.saturating_sub(base);
        let missing = counted.saturating_sub(seen + self.missed);
        let new = missing.min(self.missing);
        self.missed += new;
        self.missing = missing - new;
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_that_no_probe_saw_is_counted_once_and_one_on_its_way_is_not() {
        let mut reconciler = Reconciler::default();
        assert_eq!(reconciler.look(Some(7)), 0, "what was before does not count");
        assert_eq!(reconciler.look(Some(8)), 0, "its event may be on its way");
        reconciler.saw();
        assert_eq!(reconciler.look(Some(8)), 0);
        assert_eq!(reconciler.look(Some(10)), 0);
        assert_eq!(reconciler.look(Some(10)), 2);
        assert_eq!(reconciler.look(Some(10)), 0);
        assert_eq!(reconciler.look(None), 0);
    }

    #[test]
    fn without_the_tracepoint_the_returns_of_memory_failure_are_what_was_seen() {
        let mut reconciler = Reconciler::default();
        assert_eq!(reconciler.look(Some(0)), 0);
        reconciler.saw_end();
        assert_eq!((reconciler.look(Some(1)), reconciler.look(Some(1))), (0, 0));
    }
}
