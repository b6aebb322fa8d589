//! How far a long import is: on a terminal, and nowhere else.

use indicatif::{ProgressBar, ProgressStyle};

/// A spinner with the count of lines; hidden where stderr is no terminal.
pub struct Progress(ProgressBar);

impl Progress {
    pub fn new() -> Self {
        let bar = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template("{spinner} {human_pos} lines read, {per_sec}") {
            bar.set_style(style);
        }
        Self(bar)
    }

    pub fn lines(&self, lines: u64) {
        self.0.set_position(lines);
    }

    pub fn done(&self) {
        self.0.finish_and_clear();
    }
}
