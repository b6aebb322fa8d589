//! Tells what a long step does: a spinner with the elapsed time on a terminal, plain lines elsewhere.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

pub struct Progress {
    started: Instant,
    spinner: Option<ProgressBar>,
}

impl Default for Progress {
    fn default() -> Self {
        Self {
            started: Instant::now(),
            spinner: std::io::stderr().is_terminal().then(spinner),
        }
    }
}

impl Progress {
    /// A new step begins; it replaces the one before.
    pub fn step(&self, what: impl AsRef<str>) {
        match &self.spinner {
            Some(spinner) => spinner.set_message(what.as_ref().to_owned()),
            None => self.plain(what.as_ref()),
        }
    }

    /// What the step is at; too fine for plain lines.
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
        match &self.spinner {
            Some(spinner) => spinner.suspend(work),
            None => work(),
        }
    }

    pub fn finish(&self) {
        if let Some(spinner) = &self.spinner {
            spinner.finish_and_clear();
        }
    }

    fn plain(&self, what: &str) {
        eprintln!("[{:4} s] {what}", self.started.elapsed().as_secs());
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
