//! A few values by key. Most incidents are of one page and one vCPU, and a flood has ten thousand of them: a sorted list
//! without spare room takes a tenth of a tree's node, which has room for eleven.

use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// Lists that are shorter grow by one.
const FEW: usize = 4;

/// Appends without room for more, as long as there are few.
pub fn push<T>(list: &mut Vec<T>, value: T) {
    room(list);
    list.push(value);
}

fn room<T>(list: &mut Vec<T>) {
    if list.len() < FEW {
        list.reserve_exact(1);
    }
}

/// See the module. In order of the keys; its JSON is a list of pairs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CompactMap<K, V>(Vec<(K, V)>);

impl<K, V> Default for CompactMap<K, V> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<K: Ord, V> CompactMap<K, V> {
    fn place(&self, key: &K) -> Result<usize, usize> {
        self.0.binary_search_by(|(known, _)| known.cmp(key))
    }

    /// The value of a key.
    pub fn get(&self, key: &K) -> Option<&V> {
        self.place(key).ok().map(|n| &self.0[n].1)
    }

    /// The value of a key, to be changed.
    pub fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        self.place(key).ok().map(|n| &mut self.0[n].1)
    }

    /// Whether the key is there.
    pub fn contains_key(&self, key: &K) -> bool {
        self.place(key).is_ok()
    }

    /// The value of `key`, which is made where there is none.
    pub fn entry(&mut self, key: K) -> &mut V
    where
        V: Default,
    {
        let n = match self.place(&key) {
            Ok(n) => n,
            Err(n) => {
                room(&mut self.0);
                self.0.insert(n, (key, V::default()));
                n
            }
        };
        &mut self.0[n].1
    }

    /// In place of the value before.
    pub fn insert(&mut self, key: K, value: V) {
        match self.place(&key) {
            Ok(n) => self.0[n].1 = value,
            Err(n) => {
                room(&mut self.0);
                self.0.insert(n, (key, value));
            }
        }
    }

    /// Removes a key and returns its value.
    pub fn remove(&mut self, key: &K) -> Option<V> {
        let value = self.place(key).ok().map(|n| self.0.remove(n).1);
        // What comes and goes with each exit has its place.
        if self.0.is_empty() && self.0.capacity() > FEW {
            self.0 = Vec::new();
        }
        value
    }

    /// Removes the entry of the lowest key.
    pub fn remove_first(&mut self) {
        if !self.0.is_empty() {
            self.0.remove(0);
        }
    }

    /// Removes all.
    pub fn clear(&mut self) {
        self.0 = Vec::new();
    }

    /// Entries.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All entries, in order of their keys.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.0.iter().map(|(key, value)| (key, value))
    }

    /// All values, in order of their keys.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.0.iter().map(|(_, value)| value)
    }

    /// All values, to be changed.
    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut V> {
        self.0.iter_mut().map(|(_, value)| value)
    }
}

impl<K, V> IntoIterator for CompactMap<K, V> {
    type Item = (K, V);
    type IntoIter = alloc::vec::IntoIter<(K, V)>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

#[cfg(test)]
mod tests {
    use alloc::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn few_values_are_as_a_map_has_them(steps in prop::collection::vec((0u8..3, 0u32..12, 0u64..5), 0..60)) {
            let (mut compact_map, mut map) = (CompactMap::default(), BTreeMap::new());
            for (step, key, value) in steps {
                match step {
                    0 => {
                        compact_map.insert(key, value);
                        map.insert(key, value);
                    }
                    1 => prop_assert_eq!(compact_map.remove(&key), map.remove(&key)),
                    _ => {
                        *compact_map.entry(key) += 1;
                        *map.entry(key).or_default() += 1;
                    }
                }
                prop_assert!(compact_map.iter().eq(map.iter()));
                prop_assert_eq!(compact_map.get(&key), map.get(&key));
            }
        }
    }
}
