//! Changed incidents that wait for an output, each once, in turns by class and VM.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use crate::fair::{Class, ClassedQueue};
use poisontrace_model::correlate::IncidentNo;

/// See the module.
#[derive(Default)]
pub struct Waiting {
    /// Since when.
    queue: ClassedQueue<(IncidentNo, Instant)>,
    all: BTreeMap<IncidentNo, Class>,
}

impl Waiting {
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    pub fn is_empty_of(&self, class: Class) -> bool {
        self.queue.is_empty_of(class)
    }

    pub fn contains(&self, no: IncidentNo) -> bool {
        self.all.contains_key(&no)
    }

    /// Adds an incident of `vm`; one that waits already keeps its place, unless the kernel has named its page since.
    pub fn insert(&mut self, vm: u32, class: Class, no: IncidentNo) {
        let since = match self.all.get(&no) {
            None => Instant::now(),
            Some(Class::Other) if class == Class::Named => {
                let waits = self.queue.remove(vm, Class::Other, |(other, _)| *other == no);
                waits.map_or_else(Instant::now, |(_, since)| since)
            }
            Some(_) => return,
        };
        self.all.insert(no, class);
        self.queue.push(vm, class, (no, since));
    }

    /// Takes an incident out, if it waits and its page is none that the kernel has named.
    pub fn give_up(&mut self, vm: u32, no: IncidentNo) -> bool {
        let gone = self
            .queue
            .remove(vm, Class::Other, |(other, _)| *other == no)
            .is_some();
        if gone {
            self.all.remove(&no);
        }
        gone
    }

    pub fn pop(&mut self) -> Option<IncidentNo> {
        self.pop_of(|_, _| true)
    }

    /// The next one of those VMs and classes that `may`.
    pub fn pop_of(&mut self, may: impl Fn(u32, Class) -> bool) -> Option<IncidentNo> {
        let (no, _) = self.queue.pop_of(may)?;
        self.all.remove(&no);
        Some(no)
    }

    /// How long the one that waits longest has waited.
    pub fn longest(&self) -> Duration {
        let since = self.queue.oldest().map(|(_, since)| *since).min();
        since.map_or(Duration::ZERO, |since| since.elapsed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_incident_whose_page_the_kernel_names_while_it_waits_waits_once_and_comes_before() {
        let mut waiting = Waiting::default();
        waiting.insert(6, Class::Other, 1);
        waiting.insert(7, Class::Other, 2);
        waiting.insert(7, Class::Named, 2);
        waiting.insert(7, Class::Other, 2);
        assert!(waiting.contains(2) && !waiting.is_empty_of(Class::Other));
        assert!(!waiting.give_up(7, 2), "the kernel has named it");
        let all: Vec<IncidentNo> = std::iter::from_fn(|| waiting.pop()).collect();
        assert_eq!(all, [2, 1]);
        waiting.insert(6, Class::Other, 3);
        assert!(waiting.give_up(6, 3) && waiting.is_empty());
        assert!(waiting.is_empty());
    }
}
