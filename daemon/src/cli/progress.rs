//! How far a long import is: on a terminal, and nowhere else.

use indicatif::{ProgressBar, ProgressStyle};

use poisontrace_import::Reading;

/// A bar over the bytes of the files, a spinner where a pipe is among them; hidden where stderr is no terminal.
pub struct Progress(ProgressBar);

const BAR: &str = "{wide_bar} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left";
const SPINNER: &str = "{spinner} {bytes} read, {bytes_per_sec}";

impl Progress {
    pub fn new() -> Self {
        Self(ProgressBar::no_length())
    }

    pub fn at(&self, reading: Reading) {
        if self.0.length() != reading.total || self.0.position() == 0 {
            let (style, length) = match reading.total {
                Some(total) => (ProgressStyle::with_template(BAR), total),
                None => (ProgressStyle::with_template(SPINNER), 0),
            };
            if let Ok(style) = style {
                self.0.set_style(style);
            }
            match length {
                0 => self.0.unset_length(),
                length => self.0.set_length(length),
            }
        }
        self.0.set_position(reading.done);
    }

    pub fn done(&self) {
        self.0.finish_and_clear();
    }
}
