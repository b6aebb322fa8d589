//! What happened when.

pub mod words;

use serde::{Deserialize, Serialize};

use words::Words;

/// This many first moments are kept, and as many last ones.
const MAX_MOMENTS: usize = 96;

/// What happened when: the first and the last moments, and how many fell out between.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Timeline {
    first: Vec<(u64, Words)>,
    last: std::collections::VecDeque<(u64, Words)>,
    skipped: u64,
}

impl Timeline {
    pub fn add(&mut self, t: u64, words: impl Into<Words>) {
        let words = words.into();
        if self.first.len() < MAX_MOMENTS {
            self.first.push((t, words));
            return;
        }
        if self.last.len() == MAX_MOMENTS {
            self.last.pop_front();
            self.skipped += 1;
        }
        self.last.push_back((t, words));
    }

    /// Adds another incident's moments.
    pub fn absorb(&mut self, other: Self) {
        for (t, words) in other.first.into_iter().chain(other.last) {
            self.add(t, words);
        }
        self.skipped += other.skipped;
    }

    /// All moments in order of time; one of them says how many are not shown.
    pub fn moments(&self) -> Vec<(u64, String)> {
        let owned = |(t, text): &(u64, Words)| (*t, text.to_string());
        let mut moments: Vec<(u64, String)> = self.first.iter().map(owned).collect();
        if let (true, Some((t, _))) = (self.skipped > 0, self.last.front()) {
            moments.push((
                *t,
                format!("({} moments before this one are not kept)", self.skipped),
            ));
        }
        moments.extend(self.last.iter().map(owned));
        moments.sort_by_key(|(t, _)| *t);
        moments
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeline_says_what_it_left_out() {
        let mut timeline = Timeline::default();
        for t in 0..1000 {
            timeline.add(t, format!("exit {t}"));
        }
        let moments = timeline.moments();
        assert_eq!(moments.len(), 2 * MAX_MOMENTS + 1);
        assert!(
            moments.iter().any(|(_, text)| text.contains("808 moments")),
            "{moments:?}"
        );
        assert_eq!(moments.last().map(|(t, _)| *t), Some(999));
    }
}
