//! Counts checks and prints each as cargo prints a test.

use std::fmt;

use anyhow::Result;

#[derive(Default)]
pub struct Tally {
    pub passed: u32,
    /// Each with its reason. Named again at the end: a log of the whole run is long, and what keeps it may keep its end alone.
    pub failed: Vec<String>,
    pub skipped: u32,
}

impl Tally {
    pub fn check(&mut self, scenario: &str, what: &str, outcome: Result<()>) {
        match outcome {
            Ok(()) => {
                self.passed += 1;
                println!("test {scenario}::{what} ... ok");
            }
            Err(error) => {
                println!("test {scenario}::{what} ... FAILED\n    {error:#}");
                self.failed.push(format!("{scenario}::{what}: {error:#}"));
            }
        }
    }

    /// Adds the counts of another tally.
    pub fn add(&mut self, other: &Self) {
        self.passed += other.passed;
        self.failed.extend(other.failed.iter().cloned());
        self.skipped += other.skipped;
    }

    pub fn skip(&mut self, what: &str, reason: &str) {
        self.skipped += 1;
        println!("test {what} ... SKIP: {reason}");
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for failure in &self.failed {
            writeln!(f, "failed: {failure}")?;
        }
        write!(f, "{} passed, {} failed", self.passed, self.failed.len())?;
        if self.skipped > 0 {
            write!(f, ", {} skipped", self.skipped)?;
        }
        Ok(())
    }
}
