//! Lines of a kernel that lost their beginning: where all around them have a time, one without its own was torn, and with its time
//! may have gone whose it is.

use crate::reformat::LooksCut;

/// Torn lines that are kept of one file.
const MAX: usize = 16;

/// Follows the lines of all kernels of one file.
#[derive(Default)]
pub struct Torn {
    /// Whether the kernel's line before has a time.
    before: Option<bool>,
    /// Some line has one.
    timed: bool,
    /// A line without one, behind a line that has one or at the file's beginning.
    alone: Option<LooksCut>,
    lines: Vec<LooksCut>,
}

impl Torn {
    /// The next line of a kernel.
    pub fn line(&mut self, timed: bool, line: impl FnOnce() -> LooksCut) {
        let alone = self.alone.take();
        if timed {
            self.keep(alone);
        } else if self.before != Some(false) {
            self.alone = Some(line());
        }
        self.before = Some(timed);
        self.timed |= timed;
    }

    /// The file is over: its last line is alone behind others.
    pub fn finish(&mut self) -> Vec<LooksCut> {
        let last = self.alone.take().filter(|_| self.timed);
        self.keep(last);
        std::mem::take(&mut self.lines)
    }

    fn keep(&mut self, line: Option<LooksCut>) {
        if self.lines.len() < MAX {
            self.lines.extend(line);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The torn ones of lines that have a time (`t`) or none (`-`).
    fn torn(lines: &str) -> Vec<u64> {
        let mut torn = Torn::default();
        for (of, number) in lines.bytes().zip(1..) {
            torn.line(of == b't', || LooksCut {
                line: number,
                text: String::new(),
            });
        }
        torn.finish().into_iter().map(|line| line.line).collect()
    }

    #[test]
    fn a_line_without_a_time_among_others_that_have_one() {
        assert_eq!(torn("tt-t"), [3]);
        assert_eq!(torn("tt-"), [3]);
        assert_eq!(torn("-tt"), [1]);
        assert_eq!(torn("t-t-t"), [2, 4]);
    }

    #[test]
    fn lines_of_another_log_without_times() {
        for lines in ["", "-", "---", "tt--", "tt--tt", "--tt", "ttt"] {
            assert!(torn(lines).is_empty(), "{lines}");
        }
    }
}
