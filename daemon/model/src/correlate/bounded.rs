//! A map of bounded size: where a new key finds no room, the first keys are evicted and counted; those that are spared only where
//! there are no others.

use alloc::collections::BTreeMap;

/// See the module.
pub(super) struct BoundedMap<K, V> {
    entries: BTreeMap<K, V>,
    limit: usize,
    evicted: u64,
}

impl<K: Ord + Clone, V> BoundedMap<K, V> {
    /// Of at most `limit` entries, but one at least.
    pub fn new(limit: usize) -> Self {
        Self {
            entries: BTreeMap::new(),
            limit: limit.max(1),
            evicted: 0,
        }
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Entries evicted so far.
    pub fn evicted(&self) -> u64 {
        self.evicted
    }

    pub fn get(&self, key: &K) -> Option<&V> {
        self.entries.get(key)
    }

    pub fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        self.entries.get_mut(key)
    }

    pub fn insert(&mut self, key: K, value: V) {
        self.insert_sparing(key, value, |_, _| false);
    }

    pub fn insert_sparing(&mut self, key: K, value: V, spared: impl Fn(&K, &V) -> bool) {
        self.make_room(&key, spared);
        self.entries.insert(key, value);
    }

    pub fn get_or_default(&mut self, key: K) -> &mut V
    where
        V: Default,
    {
        self.get_or_default_sparing(key, |_, _| false)
    }

    pub fn get_or_default_sparing(&mut self, key: K, spared: impl Fn(&K, &V) -> bool) -> &mut V
    where
        V: Default,
    {
        self.make_room(&key, spared);
        self.entries.entry(key).or_default()
    }

    pub fn remove(&mut self, key: &K) -> Option<V> {
        self.entries.remove(key)
    }

    pub fn retain(&mut self, keep: impl FnMut(&K, &mut V) -> bool) {
        self.entries.retain(keep);
    }

    fn make_room(&mut self, key: &K, spared: impl Fn(&K, &V) -> bool) {
        if self.entries.len() < self.limit || self.entries.contains_key(key) {
            return;
        }
        while self.entries.len() >= self.limit {
            let goes = self.entries.iter().find(|(key, value)| !spared(key, value));
            match goes.map(|(key, _)| key.clone()) {
                Some(key) => self.entries.remove(&key),
                None => self.entries.pop_first().map(|(_, value)| value),
            };
            self.evicted += 1;
        }
    }
}
