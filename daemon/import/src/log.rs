//! The statements of one file, as it was read.

use std::{cmp::Ordering, collections::HashMap};

use super::{
    reformat::LooksCut,
    text::{Item, Scanner, Sender, clock::Stamp},
};
use poisontrace_model::event::log_statement::{LogStatement, Role};

/// The statements of one file.
pub struct Log {
    pub name: String,
    pub items: Vec<Item>,
    pub senders: Vec<Sender>,
    pub(super) libvirt_kernel: Option<String>,
    pub hostname: Option<String>,
    pub(super) dropped: u64,
    /// The items are a trace's own, on its clock.
    pub(super) trace: bool,
    pub(super) records: u64,
    /// The latest line comes first (`journalctl -r`, viewers).
    reversed: bool,
    /// Lines of a kernel that lost their beginning.
    pub(super) torn: Vec<LooksCut>,
}

/// Kernels begin their clocks anew: without a wall clock, lines that go back by more are of another boot.
const REVERSED_WITHIN_NS: u64 = 60_000_000_000;

impl Log {
    pub fn new(name: String, scanner: Scanner, records: u64) -> Self {
        let mut items = scanner.items;
        items.sort_by_key(|item| (item.line, item.order));
        let reversed = reversed(&items);
        if reversed {
            items.reverse();
        }
        Self {
            name,
            items,
            senders: scanner.senders,
            libvirt_kernel: scanner.host_kernel,
            hostname: scanner.hostname,
            dropped: scanner.dropped,
            trace: false,
            records,
            reversed,
            torn: scanner.torn,
        }
    }

    /// The place of a statement among the others, the earliest first.
    pub fn place(&self, item: &Item) -> u64 {
        match self.reversed {
            true => u64::MAX - item.line,
            false => item.line,
        }
    }

    /// A host's database.
    pub fn of_host(name: String, items: Vec<Item>) -> Self {
        Self {
            name,
            items,
            senders: vec![Sender::default()],
            libvirt_kernel: None,
            hostname: None,
            dropped: 0,
            trace: false,
            records: 0,
            reversed: false,
            torn: Vec::new(),
        }
    }

    /// Failures of pages in a trace for which no signal was seen.
    pub fn of_trace(loose: Vec<(u64, LogStatement)>) -> Self {
        let items = loose.into_iter().zip(1..).map(|((t, statement), line)| Item {
            order: 0,
            line,
            stamp: Stamp {
                boot: Some(t),
                ..Stamp::default()
            },
            boot: None,
            host_boot: None,
            marks: 0,
            sender: 0,
            role: Role::HostKernel,
            text: String::new(),
            statement,
        });
        Self {
            trace: true,
            ..Self::of_host("trace".to_owned(), items.collect())
        }
    }

    /// Whether it is worth keeping although the file could not be read to its end.
    pub fn useful(&self) -> bool {
        !self.items.is_empty() || self.records > 0
    }
}

/// Whether all clocks of the file run backwards from line to line.
fn reversed(items: &[Item]) -> bool {
    let mut last: HashMap<usize, Stamp> = HashMap::new();
    let mut back = false;
    for item in items {
        let stamp = item.stamp;
        let Some(before) = last.insert(item.sender, stamp) else {
            continue;
        };
        let order = match (before.wall, stamp.wall, before.boot, stamp.boot) {
            (Some(before), Some(now), ..) if before != now => now.cmp(&before),
            (.., Some(before), Some(now)) if before.abs_diff(now) <= REVERSED_WITHIN_NS => now.cmp(&before),
            (.., Some(_), Some(_)) => return false,
            _ => continue,
        };
        match order {
            Ordering::Greater => return false,
            Ordering::Less => back = true,
            Ordering::Equal => {}
        }
    }
    back
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(text: &str) -> Log {
        let mut scanner = Scanner::default();
        for (line, number) in text.lines().zip(1..) {
            scanner.line(number, line.as_bytes());
        }
        scanner.finish();
        Log::new(String::new(), scanner, 0)
    }

    #[test]
    fn a_log_whose_latest_line_comes_first() {
        let newest_first = log(
            "[  157.392930] Kernel panic - not syncing: Fatal local machine check\n\
             [  157.392925] mce: [Hardware Error]: Machine check: Data load in unrecoverable area of kernel\n\
             [  157.392919] mce: [Hardware Error]: TSC 1 ADDR 283c4000 MISC 8c\n\
             [  157.392905] mce: [Hardware Error]: CPU 0: Machine Check Exception: 5 Bank 9: bd80000000000134\n",
        );
        assert!(newest_first.reversed);
        let LogStatement::GuestMce(mce) = &newest_first.items[0].statement else {
            panic!("{:?}", newest_first.items)
        };
        assert_eq!(
            (mce.bank, mce.addr.map(|addr| addr.0)),
            (Some(9), Some(0x283c_4000))
        );
        assert!(mce.reason.is_some());
        assert_eq!(newest_first.items.len(), 2);
        let two_boots = log(
            "[  500.1] Memory failure: 0x1: recovery action for dirty LRU page: Recovered\n\
             [   20.1] Memory failure: 0x2: recovery action for dirty LRU page: Recovered\n",
        );
        assert!(!two_boots.reversed);
    }
}
