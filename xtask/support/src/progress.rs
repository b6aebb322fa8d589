//! Shows what a long task does: a spinner with the elapsed time on a terminal, plain lines elsewhere. It also measures
//! how long each task took, for a table at the end.

use std::io::IsTerminal;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::durations::{Durations, processor_time};

/// One line of work; [`Progress::beside`] begins another.
pub struct Progress {
    shared: Arc<Shared>,
    spinner: Option<ProgressBar>,
}

struct Shared {
    started: Instant,
    bars: Option<MultiProgress>,
    durations: Mutex<Durations>,
}

impl Default for Progress {
    fn default() -> Self {
        let bars = std::io::stderr().is_terminal().then(MultiProgress::new);
        let shared = Shared {
            started: Instant::now(),
            bars,
            durations: Mutex::default(),
        };
        Self::of(Arc::new(shared))
    }
}

impl Progress {
    fn of(shared: Arc<Shared>) -> Self {
        let spinner = shared.bars.as_ref().map(|bars| bars.add(spinner()));
        Self { shared, spinner }
    }

    /// For work in another thread: a spinner of its own, the same clock and the same durations.
    pub fn beside(&self) -> Self {
        Self::of(Arc::clone(&self.shared))
    }

    /// Runs a task, and keeps how long it took.
    pub fn task<T>(&self, name: &str, work: impl FnOnce() -> T) -> T {
        let started = Instant::now();
        let result = work();
        let mut durations = self
            .shared
            .durations
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        durations.add(name, started.elapsed());
        result
    }

    /// The tasks that took longest, as a table; nothing where there was no task of a second.
    pub fn longest_tasks(&self) -> Option<String> {
        let durations = self
            .shared
            .durations
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        durations.table(self.shared.started.elapsed(), processor_time())
    }

    /// A new step begins; it replaces the one before.
    pub fn step(&self, what: impl AsRef<str>) {
        match &self.spinner {
            Some(spinner) => spinner.set_message(what.as_ref().to_owned()),
            None => self.plain(what.as_ref()),
        }
    }

    /// The detail of a step; too fine for plain lines.
    pub fn detail(&self, what: impl AsRef<str>) {
        if let Some(spinner) = &self.spinner {
            spinner.set_message(what.as_ref().to_owned());
        }
    }

    /// A line that stays on the screen.
    pub fn note(&self, what: impl AsRef<str>) {
        match &self.spinner {
            Some(spinner) => spinner.println(what.as_ref()),
            None => self.plain(what.as_ref()),
        }
    }

    /// Runs something that writes to the terminal itself.
    pub fn aside<T>(&self, work: impl FnOnce() -> T) -> T {
        match &self.shared.bars {
            Some(bars) => bars.suspend(work),
            None => work(),
        }
    }

    pub fn finish(&self) {
        if let Some(spinner) = &self.spinner {
            spinner.finish_and_clear();
        }
    }

    fn plain(&self, what: &str) {
        eprintln!("[{:4} s] {what}", self.shared.started.elapsed().as_secs());
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.finish();
    }
}

fn spinner() -> ProgressBar {
    let bar = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} [{elapsed}] {msg}") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(120));
    bar
}
