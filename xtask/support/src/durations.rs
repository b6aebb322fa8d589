//! How long the tasks of a command took.

use std::fmt::Write as _;
use std::time::Duration;

/// Lines of the table.
const LONGEST: usize = 15;
/// Shorter tasks are left out.
const SHORTEST: Duration = Duration::from_secs(1);

const ALL: &str = "in all";

/// Tasks in the order of their ends.
#[derive(Debug, Default)]
pub struct Durations(Vec<(String, Duration)>);

impl Durations {
    pub fn add(&mut self, name: &str, took: Duration) {
        self.0.push((name.to_owned(), took));
    }

    /// The longest tasks first. `whole`: from the command's start to now.
    pub fn table(&self, whole: Duration) -> Option<String> {
        let mut longest: Vec<&(String, Duration)> =
            self.0.iter().filter(|(_, took)| *took >= SHORTEST).collect();
        if longest.is_empty() {
            return None;
        }
        longest.sort_by(|(_, a), (_, b)| b.cmp(a));
        let left_out = longest.len().saturating_sub(LONGEST);
        longest.truncate(LONGEST);
        let width = longest
            .iter()
            .map(|(name, _)| name.chars().count())
            .max()
            .unwrap_or(0)
            .max(ALL.len());
        let mut table = "The longest tasks (some ran at the same time):\n".to_owned();
        for (name, took) in longest {
            // A String takes every write.
            writeln!(table, "  {name:width$}  {:>8}", clock(*took)).ok();
        }
        if left_out > 0 {
            writeln!(table, "  and {left_out} shorter ones").ok();
        }
        writeln!(table, "  {:width$}  {:>8}", ALL, clock(whole)).ok();
        Some(table)
    }
}

/// `1:05` for 65 seconds.
fn clock(time: Duration) -> String {
    let seconds = time.as_secs_f64().round() as u64;
    format!("{}:{:02}", seconds / 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_task_comes_first_and_the_shortest_are_left_out() {
        let mut durations = Durations::default();
        durations.add("download", Duration::from_millis(900));
        durations.add("build", Duration::from_millis(64_600));
        durations.add("boot", Duration::from_secs(125));
        let table = durations.table(Duration::from_secs(150)).unwrap();
        assert_eq!(
            table,
            "The longest tasks (some ran at the same time):\n  boot        2:05\n  build       1:05\n  in all      2:30\n"
        );
    }

    #[test]
    fn without_a_task_of_a_second_there_is_no_table() {
        let mut durations = Durations::default();
        assert_eq!(durations.table(Duration::from_secs(1)), None);
        durations.add("short", Duration::from_millis(10));
        assert_eq!(durations.table(Duration::from_secs(1)), None);
    }

    #[test]
    fn a_long_list_is_cut_and_says_so() {
        let mut durations = Durations::default();
        for n in 1..=20 {
            durations.add(&format!("task {n}"), Duration::from_secs(n));
        }
        let table = durations.table(Duration::from_secs(30)).unwrap();
        assert!(table.contains("  and 5 shorter ones\n"), "{table}");
        assert!(!table.contains("task 5 "), "{table}");
    }
}
