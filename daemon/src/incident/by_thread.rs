//! A few values by thread. Most incidents have one vCPU's: a list is smaller than a map, and a flood has many.

use serde::{Deserialize, Serialize};

/// vCPU threads whose values are kept.
const MAX_THREADS: usize = 1024;

/// See the module.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ByThread<T>(Vec<(u32, T)>);

impl<T> Default for ByThread<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> ByThread<T> {
    pub fn get(&self, tid: u32) -> Option<&T> {
        self.iter().find(|(of, _)| *of == tid).map(|(_, value)| value)
    }

    pub fn get_mut(&mut self, tid: u32) -> Option<&mut T> {
        let mut all = self.0.iter_mut();
        all.find(|(of, _)| *of == tid).map(|(_, value)| value)
    }

    /// In place of the thread's value before; not kept where there are too many threads.
    pub fn insert(&mut self, tid: u32, value: T) {
        if let Some(known) = self.get_mut(tid) {
            *known = value;
        } else if self.0.len() < MAX_THREADS {
            self.0.reserve_exact(1);
            self.0.push((tid, value));
        }
    }

    pub fn remove(&mut self, tid: u32) {
        self.0.retain(|(of, _)| *of != tid);
    }

    pub fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        self.0.iter().map(|(tid, value)| (*tid, value))
    }
}
