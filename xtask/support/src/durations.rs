//! How long the tasks of a command took.

use std::fmt::Write as _;
use std::time::Duration;

/// Lines of the table.
const LONGEST: usize = 15;
/// Shorter tasks are left out.
const SHORTEST: Duration = Duration::from_secs(1);

const ALL: &str = "in all";
const PROCESSOR: &str = "processor time";

/// Tasks in the order of their ends.
#[derive(Debug, Default)]
pub struct Durations(Vec<(String, Duration)>);

impl Durations {
    pub fn add(&mut self, name: &str, took: Duration) {
        self.0.push((name.to_owned(), took));
    }

    /// The longest tasks first. `whole`: from the command's start to now; `processor`: the time that all its processes used
    /// of the cores.
    pub fn table(&self, whole: Duration, processor: Option<Duration>) -> Option<String> {
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
            .max(PROCESSOR.len());
        let mut table = "The longest tasks (some ran at the same time):\n".to_owned();
        for (name, took) in longest {
            // A String takes every write.
            writeln!(table, "  {name:width$}  {:>8}", clock(*took)).ok();
        }
        if left_out > 0 {
            writeln!(table, "  and {left_out} shorter ones").ok();
        }
        writeln!(table, "  {:width$}  {:>8}", ALL, clock(whole)).ok();
        if let Some(processor) = processor {
            writeln!(table, "  {:width$}  {:>8}", PROCESSOR, clock(processor)).ok();
        }
        Some(table)
    }
}

/// Processor time of this process and of its ended children, with theirs (proc_pid_stat(5): utime, stime, cutime,
/// cstime).
pub fn processor_time() -> Option<Duration> {
    of_stat(&std::fs::read_to_string("/proc/self/stat").ok()?)
}

fn of_stat(stat: &str) -> Option<Duration> {
    /// Of every x86-64 Linux (USER_HZ).
    const TICKS_A_SECOND: u64 = 100;
    // The name in parentheses may hold anything.
    let (_, fields) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let ticks = fields
        .get(11..15)?
        .iter()
        .map(|field| field.parse::<u64>().ok())
        .sum::<Option<u64>>()?;
    Some(Duration::from_millis(ticks * 1000 / TICKS_A_SECOND))
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
        let table = durations
            .table(Duration::from_secs(150), Some(Duration::from_secs(220)))
            .unwrap();
        assert_eq!(
            table,
            "The longest tasks (some ran at the same time):\n  boot                2:05\n  build               1:05\n  in all              2:30\n  processor time      3:40\n"
        );
    }

    #[test]
    fn without_a_task_of_a_second_there_is_no_table() {
        let mut durations = Durations::default();
        assert_eq!(durations.table(Duration::from_secs(1), None), None);
        durations.add("short", Duration::from_millis(10));
        assert_eq!(durations.table(Duration::from_secs(1), None), None);
    }

    #[test]
    fn a_long_list_is_cut_and_says_so() {
        let mut durations = Durations::default();
        for n in 1..=20 {
            durations.add(&format!("task {n}"), Duration::from_secs(n));
        }
        let table = durations.table(Duration::from_secs(30), None).unwrap();
        assert!(table.contains("  and 5 shorter ones\n"), "{table}");
        assert!(!table.contains("task 5 "), "{table}");
    }

    #[test]
    fn processor_time_is_summed_behind_the_name() {
        let stat = "7 (a ) b) S 1 7 7 0 -1 4194560 1 2 0 0 150 50 1000 300 20 0 1 0";
        assert_eq!(of_stat(stat), Some(Duration::from_secs(15)));
        assert_eq!(of_stat("7 (name) S 1"), None);
        assert!(processor_time().is_some());
    }
}
