//! Rate limits for lines of the log: by VM first, then for all of a class, so that one VM's flood silences no other, and a
//! thousand VMMs' none of a page that the kernel has named.

use std::collections::BTreeMap;

use crate::fair::Class;

/// A rate limit: `burst` at once, then so many a second of the events' time.
struct Limit {
    left: u32,
    burst: u32,
    a_second: u32,
    since_ns: u64,
}

const SECOND_NS: u64 = 1_000_000_000;

impl Limit {
    const fn new(burst: u32, a_second: u32) -> Self {
        Self {
            left: burst,
            burst,
            a_second,
            since_ns: 0,
        }
    }

    /// Whether one more may pass now.
    fn pass(&mut self, now_ns: u64) -> bool {
        let seconds = now_ns.saturating_sub(self.since_ns) / SECOND_NS;
        if seconds > 0 {
            self.since_ns = now_ns;
            let more = u32::try_from(seconds).unwrap_or(u32::MAX);
            self.left = self
                .left
                .saturating_add(more.saturating_mul(self.a_second))
                .min(self.burst);
        }
        if self.left == 0 {
            return false;
        }
        self.left -= 1;
        true
    }
}

/// Lines of one VM.
const OF_A_VM: Limit = Limit::new(20, 1);
/// Lines of all VMs after the first of each.
const OF_ALL: Limit = Limit::new(100, 10);
/// First lines of VMs, which no other lines hold back.
const FIRST: Limit = Limit::new(1000, 20);
/// VMs that are distinguished; the one with the lowest process number makes room.
const MAX_VMS: usize = 4096;

/// Lines of all VMs of a class.
struct OfAClass {
    all: Limit,
    first: Limit,
}

impl OfAClass {
    const fn new() -> Self {
        Self {
            all: OF_ALL,
            first: FIRST,
        }
    }
}

/// See the module.
pub struct Limits {
    by_vm: BTreeMap<u32, Limit>,
    named: OfAClass,
    other: OfAClass,
    held_back: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            by_vm: BTreeMap::new(),
            named: OfAClass::new(),
            other: OfAClass::new(),
            held_back: 0,
        }
    }
}

impl Limits {
    /// Whether one more line of this VM, on an incident of this class, may pass now. What is held back is counted.
    pub fn pass(&mut self, vm: u32, class: Class, now_ns: u64) -> bool {
        let of_class = match class {
            Class::Named => &mut self.named,
            Class::Other => &mut self.other,
        };
        let passes = match self.by_vm.get_mut(&vm) {
            Some(own) => own.pass(now_ns) && of_class.all.pass(now_ns),
            None => {
                while self.by_vm.len() >= MAX_VMS {
                    self.by_vm.pop_first();
                }
                let mut own = OF_A_VM;
                own.pass(now_ns);
                self.by_vm.insert(vm, own);
                of_class.first.pass(now_ns)
            }
        };
        self.held_back += u64::from(!passes);
        passes
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
        let mut limits = Limits::default();
        let passed = (0..100)
            .filter(|_| limits.pass(7, Class::Other, SECOND_NS))
            .count();
        assert_eq!((passed, limits.held_back()), (20, 80));
        assert!(limits.pass(7, Class::Other, 2 * SECOND_NS) && !limits.pass(7, Class::Other, 2 * SECOND_NS));
        assert_eq!(limits.held_back(), 1);
    }

    #[test]
    fn the_first_word_of_a_vm_passes_in_the_floods_of_others() {
        let mut limits = Limits::default();
        for vm in 0..200 {
            for _ in 0..1000 {
                limits.pass(vm, Class::Other, SECOND_NS);
            }
        }
        assert!(limits.pass(5000, Class::Other, SECOND_NS), "its first");
        assert!(
            !limits.pass(5000, Class::Other, SECOND_NS),
            "the rest is as limited as that of others"
        );
    }
    #[test]
    fn the_first_words_of_thousands_of_vmms_hold_back_none_of_a_page_that_the_kernel_has_named() {
        let mut limits = Limits::default();
        let passed = (0..3000)
            .filter(|vm| limits.pass(*vm, Class::Other, SECOND_NS))
            .count();
        assert_eq!(passed, 1000);
        assert!(limits.pass(5000, Class::Named, SECOND_NS));
        assert!(limits.pass(5000, Class::Named, SECOND_NS), "its death, too");
    }
}
