//! Counts checks and prints each as cargo prints a test.

use std::fmt;

use anyhow::Result;

#[derive(Default)]
pub struct Tally {
    pub passed: u32,
    pub failed: u32,
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
                self.failed += 1;
                println!("test {scenario}::{what} ... FAILED\n    {error:#}");
            }
        }
    }

    /// Adds the counts of another tally.
    pub fn add(&mut self, other: &Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }

    pub fn skip(&mut self, what: &str, reason: &str) {
        self.skipped += 1;
        println!("test {what} ... SKIP: {reason}");
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failed)?;
        if self.skipped > 0 {
            write!(f, ", {} skipped", self.skipped)?;
        }
        Ok(())
    }
}
