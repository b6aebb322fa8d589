//! Turns by VM: a VM's thousand changes wait for each other, not before another VM's first.
//!
//! A VM is the process number of its VMM, 0 where none is known. Pages that the kernel has named are a [`Class`] of their own.

use std::collections::{BTreeMap, VecDeque};

/// What waits: the VM whose turn is longest ago comes next, and of a VM the oldest.
pub struct FairQueue<T> {
    waiting: BTreeMap<u32, VecDeque<T>>,
    /// VMs for which something waits.
    turns: VecDeque<u32>,
    len: usize,
}

impl<T> Default for FairQueue<T> {
    fn default() -> Self {
        Self {
            waiting: BTreeMap::new(),
            turns: VecDeque::new(),
            len: 0,
        }
    }
}

impl<T> FairQueue<T> {
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many wait for this VM.
    pub fn len_of(&self, vm: u32) -> usize {
        self.waiting.get(&vm).map_or(0, VecDeque::len)
    }

    pub fn push(&mut self, vm: u32, item: T) {
        let items = self.waiting.entry(vm).or_default();
        if items.is_empty() {
            self.turns.push_back(vm);
        }
        items.push_back(item);
        self.len += 1;
    }

    /// The next one.
    pub fn pop(&mut self) -> Option<(u32, T)> {
        self.pop_of(|_| true)
    }

    /// The next one of those VMs that `may`.
    pub fn pop_of(&mut self, may: impl Fn(u32) -> bool) -> Option<(u32, T)> {
        let at = self.turns.iter().position(|vm| may(*vm))?;
        let vm = self.turns.remove(at)?;
        let items = self.waiting.get_mut(&vm)?;
        let item = items.pop_front()?;
        self.len -= 1;
        if items.is_empty() {
            self.waiting.remove(&vm);
        } else {
            self.turns.push_back(vm);
        }
        Some((vm, item))
    }

    /// The VM for which most wait.
    pub fn longest(&self) -> Option<u32> {
        let longest = self.waiting.iter().max_by_key(|(_, items)| items.len());
        longest.map(|(vm, _)| *vm)
    }

    /// Takes the newest of a VM's out again.
    pub fn drop_newest(&mut self, vm: u32) -> Option<T> {
        let items = self.waiting.get_mut(&vm)?;
        let item = items.pop_back()?;
        self.len -= 1;
        if items.is_empty() {
            self.waiting.remove(&vm);
            self.turns.retain(|other| *other != vm);
        }
        Some(item)
    }

    /// Takes all of a VM's out, oldest first.
    pub fn take(&mut self, vm: u32) -> VecDeque<T> {
        let items = self.waiting.remove(&vm).unwrap_or_default();
        self.turns.retain(|other| *other != vm || items.is_empty());
        self.len -= items.len();
        items
    }

    /// Takes the first of a VM's out that `is` the wanted one.
    pub fn remove(&mut self, vm: u32, is: impl Fn(&T) -> bool) -> Option<T> {
        let items = self.waiting.get_mut(&vm)?;
        let item = items.remove(items.iter().position(is)?)?;
        self.len -= 1;
        if items.is_empty() {
            self.waiting.remove(&vm);
            self.turns.retain(|other| *other != vm);
        }
        Some(item)
    }

    /// The oldest of each VM.
    pub fn oldest(&self) -> impl Iterator<Item = &T> {
        self.waiting.values().filter_map(VecDeque::front)
    }
}

/// Who can make what waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Of a page that the kernel has named: no VMM makes those as it likes.
    Named,
    /// Anything else, of as many VMMs as a user likes to start.
    Other,
}

/// The two classes take turns, and in each of them the VMs: however many VMMs make incidents, those of pages that the kernel
/// has named do not wait for all of them.
pub struct ClassedQueue<T> {
    named: FairQueue<T>,
    other: FairQueue<T>,
    other_next: bool,
}

impl<T> Default for ClassedQueue<T> {
    fn default() -> Self {
        Self {
            named: FairQueue::default(),
            other: FairQueue::default(),
            other_next: false,
        }
    }
}

impl<T> ClassedQueue<T> {
    pub fn len(&self) -> usize {
        self.named.len() + self.other.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn is_empty_of(&self, class: Class) -> bool {
        self.of(class).is_empty()
    }

    fn of(&self, class: Class) -> &FairQueue<T> {
        match class {
            Class::Named => &self.named,
            Class::Other => &self.other,
        }
    }

    fn of_mut(&mut self, class: Class) -> &mut FairQueue<T> {
        match class {
            Class::Named => &mut self.named,
            Class::Other => &mut self.other,
        }
    }

    pub fn push(&mut self, vm: u32, class: Class, item: T) {
        self.of_mut(class).push(vm, item);
    }

    /// As [`Self::push`], behind all that waits for this VM: where one of them is named, all are.
    pub fn push_in_order(&mut self, vm: u32, class: Class, item: T) {
        if class == Class::Other && self.named.len_of(vm) == 0 {
            return self.other.push(vm, item);
        }
        for before in self.other.take(vm) {
            self.named.push(vm, before);
        }
        self.named.push(vm, item);
    }

    /// The next one.
    pub fn pop(&mut self) -> Option<T> {
        self.pop_of(|_, _| true)
    }

    /// The next one of those VMs and classes that `may`.
    pub fn pop_of(&mut self, may: impl Fn(u32, Class) -> bool) -> Option<T> {
        let mut turns = [Class::Named, Class::Other];
        if self.other_next {
            turns.reverse();
        }
        let (class, item) = turns.into_iter().find_map(|class| {
            let (_, item) = self.of_mut(class).pop_of(|vm| may(vm, class))?;
            Some((class, item))
        })?;
        self.other_next = class == Class::Named;
        Some(item)
    }

    /// Takes one of a VM's out.
    pub fn remove(&mut self, vm: u32, class: Class, is: impl Fn(&T) -> bool) -> Option<T> {
        self.of_mut(class).remove(vm, is)
    }

    /// Takes the newest of the VM with most out, of those that no kernel has named if there are any.
    pub fn make_room(&mut self) {
        let class = match self.other.is_empty() {
            true => Class::Named,
            false => Class::Other,
        };
        let queue = self.of_mut(class);
        if let Some(longest) = queue.longest() {
            queue.drop_newest(longest);
        }
    }

    /// The oldest of each VM and class.
    pub fn oldest(&self) -> impl Iterator<Item = &T> {
        self.named.oldest().chain(self.other.oldest())
    }
}

/// Whether a VM that holds `own` of a room of which `free` is left may take more: one alone gets half of the room, and what
/// is left is open to every other. (Dynamic thresholds, Choudhury and Hahne 1998.)
pub fn may_take(own: usize, free: usize) -> bool {
    own < free
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vms_take_turns_and_each_gets_its_oldest_first() {
        let mut queue = FairQueue::default();
        for n in 0..1000 {
            queue.push(7, n);
        }
        queue.push(8, 5000);
        queue.push(9, 6000);
        queue.push(9, 6001);
        let first: Vec<(u32, i32)> = std::iter::from_fn(|| queue.pop()).take(6).collect();
        assert_eq!(first, [(7, 0), (8, 5000), (9, 6000), (7, 1), (9, 6001), (7, 2)]);
        assert_eq!((queue.len(), queue.len_of(7), queue.len_of(8)), (997, 997, 0));
    }

    #[test]
    fn the_newest_of_the_longest_makes_room() {
        let mut queue = FairQueue::default();
        for n in 0..10 {
            queue.push(7, n);
        }
        queue.push(8, 100);
        assert_eq!(queue.longest(), Some(7));
        assert_eq!(queue.drop_newest(7), Some(9));
        assert_eq!(queue.drop_newest(8), Some(100));
        assert_eq!(queue.pop_of(|vm| vm == 8), None);
        assert_eq!(queue.len(), 9);
        assert_eq!(queue.pop(), Some((7, 0)));
        assert!(queue.take(8).is_empty());
        assert_eq!(queue.take(7), (1..9).collect::<VecDeque<_>>());
        assert_eq!((queue.len(), queue.pop()), (0, None));
    }

    #[test]
    fn what_the_kernel_has_named_does_not_wait_for_a_thousand_vmms() {
        let mut queue = ClassedQueue::default();
        (0..1000).for_each(|vm| queue.push(vm, Class::Other, vm));
        queue.push(5000, Class::Named, 5000);
        queue.push(5001, Class::Named, 5001);
        let first: Vec<u32> = std::iter::from_fn(|| queue.pop()).take(5).collect();
        assert_eq!(first, [5000, 0, 5001, 1, 2]);
        let held = |vm: u32, class: Class| class == Class::Named || vm > 990;
        assert_eq!(queue.pop_of(held), Some(991));
        assert_eq!(queue.remove(992, Class::Other, |vm| *vm == 992), Some(992));
        assert_eq!(queue.remove(992, Class::Other, |vm| *vm == 992), None);
        assert_eq!(queue.len(), 1002 - 7);
    }

    #[test]
    fn a_vm_whose_page_is_named_late_keeps_its_order() {
        let mut queue = ClassedQueue::default();
        queue.push_in_order(7, Class::Other, 1);
        queue.push_in_order(8, Class::Other, 10);
        queue.push_in_order(7, Class::Named, 2);
        queue.push_in_order(7, Class::Other, 3);
        assert!(queue.of(Class::Other).len_of(7) == 0);
        let all: Vec<u32> = std::iter::from_fn(|| queue.pop()).collect();
        assert_eq!(all, [1, 10, 2, 3]);
    }

    #[test]
    fn one_vm_alone_gets_half_of_a_room() {
        let (mut own, room) = (0, 512);
        while may_take(own, room - own) {
            own += 1;
        }
        assert_eq!(own, 256);
        assert!(may_take(0, room - own));
    }
}
