//! Which signal of the host's kernel an injection of the VMM answers, where a host's log has both: of the lines of one VM the
//! only signal that has no answer yet. So each page of many keeps its own addresses.

use std::collections::{BTreeSet, HashMap};

use super::{joins::Turn, log::Log};
use poisontrace_model::{event::log_statement::LogStatement, hex::Hex};

/// A VMM answers within this time.
const ANSWERS_WITHIN_NS: i64 = 60_000_000_000;

/// The signals and injections of one VM in one file.
#[derive(Default)]
struct Open {
    /// Pages with a signal that has no answer, and when the last one was signalled.
    pages: BTreeSet<u64>,
    last: Option<i64>,
    /// Answers to come to signals among which none was distinguished.
    unknown: usize,
    /// Addresses that were injected: a guest that touches its page again is signalled without a line of its host.
    injected: BTreeSet<Hex>,
}

/// By number of the turn: the page of the host.
pub fn pair(logs: &[Log], turns: &[Turn<'_>]) -> HashMap<usize, Hex> {
    let mut order: Vec<usize> = (0..turns.len())
        .filter(|n| {
            matches!(
                turns[*n].entry.statement,
                LogStatement::HostSignal { .. } | LogStatement::VmmInjected { .. }
            )
        })
        .collect();
    let place = |n: &usize| {
        let entry = turns[*n].entry;
        let log = logs.get(entry.stream.file);
        let at = log.map_or(entry.item.line, |log| log.place(entry.item));
        (entry.stream.file, at)
    };
    order.sort_by_key(place);
    let mut open: HashMap<(usize, u32), Open> = HashMap::new();
    let mut answers = HashMap::new();
    for n in order {
        let entry = turns[n].entry;
        let [(vm, _)] = turns[n].of else { continue };
        let open = open.entry((entry.stream.file, *vm)).or_default();
        match &entry.statement {
            LogStatement::HostSignal { pfn, .. } => {
                open.pages.insert(pfn.0);
                open.last = entry.item.stamp.wall;
            }
            LogStatement::VmmInjected { gpa, hva, .. } => {
                let again = gpa.or(*hva).is_some_and(|at| !open.injected.insert(at));
                if !again && let Some(pfn) = open.answer(entry.item.stamp.wall) {
                    answers.insert(n, Hex(pfn));
                }
            }
            _ => {}
        }
    }
    answers
}

impl Open {
    /// The page that an injection of this time is of.
    fn answer(&mut self, at: Option<i64>) -> Option<u64> {
        if self.unknown > 0 {
            self.unknown -= 1;
            return None;
        }
        let late = self
            .last
            .zip(at)
            .is_some_and(|(signal, at)| at.saturating_sub(signal) > ANSWERS_WITHIN_NS);
        let only = match self.pages.len() {
            1 => self.pages.pop_first(),
            n => {
                self.unknown = n.saturating_sub(1);
                self.pages.clear();
                None
            }
        };
        only.filter(|_| !late)
    }
}

#[cfg(test)]
mod tests {
    use super::Open;

    fn answers(events: &str) -> Vec<Option<u64>> {
        let mut open = Open::default();
        let mut found = Vec::new();
        for event in events.split(' ') {
            match event.strip_prefix('s') {
                Some(page) => {
                    open.pages.insert(page.parse().unwrap());
                }
                None => found.push(open.answer(None)),
            }
        }
        found
    }

    #[test]
    fn an_injection_answers_the_only_signal_before_it() {
        assert_eq!(answers("s1 i s2 i"), [Some(1), Some(2)]);
        assert_eq!(answers("s1 s1 i s2 i"), [Some(1), Some(2)]);
        assert_eq!(answers("i s1 i"), [None, Some(1)]);
        // Which of two it answers is not known, nor which of them the next one does.
        assert_eq!(
            answers("s1 s2 i s3 i s4 i i s5 i"),
            [None, None, None, None, Some(5)]
        );
        assert_eq!(answers("s1 s2 i i s3 i"), [None, None, Some(3)]);
    }
}
