//! Which boot of its machine a line is of. A boot begins with the kernel's first messages, with a mark of the journal, and
//! where a kernel's clock goes back. Of machines whose lines interleave without a name each goes on by its own clock.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash as _, Hasher as _},
};

/// A kernel's clock that goes back by more has begun anew, nanoseconds.
const NEW_BOOT_NS: u64 = 1_000_000_000;
/// Messages of a kernel's begin: the version, the command line.
const HEAD_LINES: u64 = 64;
/// Lines of another machine may stand between two of one machine.
const INTERLEAVED_LINES: u64 = 64;
/// Kernels of one file, and clocks that go on at one time under one name.
const MAX_KERNELS: usize = 4096;
const MAX_CLOCKS: usize = 4;

/// A machine, by a hash of its names.
pub type Machine = u64;

/// The machine of these names.
pub fn machine(names: &[Option<&[u8]>]) -> Machine {
    let mut hasher = DefaultHasher::new();
    names.hash(&mut hasher);
    hasher.finish()
}

/// One clock that goes on.
#[derive(Clone, Copy)]
struct Clock {
    boot: u32,
    latest: u64,
    /// Line on which it was seen last.
    line: u64,
}

#[derive(Default)]
struct Kernel {
    clocks: Vec<Clock>,
    /// Boots so far, but the first.
    boots: u32,
    current: u32,
    /// Line of the last begin.
    head: Option<u64>,
    /// Lines of the current boot.
    lines: u64,
    /// Its last line so far.
    last: u64,
    /// The last line of the boot before, where one is known to have begun and nobody has asked.
    ended: Option<u64>,
    marks: u32,
    seen: bool,
}

/// The boot of a kernel's line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Boot {
    /// Its number within the file.
    pub no: u32,
    /// It begins with this line, by the kernel's first message or by a mark: the last line of the one before.
    pub ended: Option<u64>,
}

/// See the module.
#[derive(Default)]
pub struct Boots {
    kernels: HashMap<Machine, Kernel>,
    marks: u32,
}

/// Whether a line states that what follows is of another boot: `-- Reboot --`, `-- Boot 4c1f… --`.
pub fn is_mark(line: &[u8]) -> bool {
    let Some(inner) = line
        .trim_ascii()
        .strip_prefix(b"-- ")
        .and_then(|rest| rest.strip_suffix(b" --"))
    else {
        return false;
    };
    inner == b"Reboot"
        || inner
            .strip_prefix(b"Boot ")
            .is_some_and(|id| id.len() == 32 && id.iter().all(u8::is_ascii_hexdigit))
}

/// Whether a kernel's boot begins with a message.
pub fn is_head(message: &[u8]) -> bool {
    message.starts_with(b"Linux version ") || message.starts_with(b"Command line: ")
}

impl Boots {
    /// All machines of the file have booted.
    pub fn mark(&mut self) {
        self.marks += 1;
    }

    /// Marks so far.
    pub fn marks(&self) -> u32 {
        self.marks
    }

    /// The boot of a kernel's line. `boot`: its time since boot.
    pub fn of_kernel(&mut self, machine: Machine, line: u64, boot: Option<u64>, head: bool) -> Boot {
        if self.kernels.len() >= MAX_KERNELS && !self.kernels.contains_key(&machine) {
            return Boot {
                no: self.marks,
                ended: None,
            };
        }
        let kernel = self.kernels.entry(machine).or_default();
        kernel.line(line, boot, head, self.marks);
        Boot {
            no: kernel.current,
            ended: kernel.ended.take(),
        }
    }

    /// The boot of the line of another program of a machine: that of its kernel's lines before.
    pub fn of_program(&mut self, machine: Machine) -> u32 {
        match self.kernels.get_mut(&machine) {
            Some(kernel) => {
                kernel.follow(self.marks);
                kernel.current
            }
            None => self.marks,
        }
    }
}

impl Kernel {
    fn begin(&mut self) {
        self.ended = (self.lines > 0).then_some(self.last);
        self.boots += 1;
        self.current = self.boots;
        self.clocks.clear();
        self.head = None;
        self.lines = 0;
    }

    /// Marks that stand before the line.
    fn follow(&mut self, marks: u32) {
        if !self.seen {
            // Of lines before the first mark there may be other programs'.
            self.boots = marks;
            self.current = marks;
            self.marks = marks;
        } else if self.marks != marks {
            self.marks = marks;
            self.begin();
        }
        self.seen = true;
    }

    fn line(&mut self, line: u64, boot: Option<u64>, head: bool, marks: u32) {
        self.follow(marks);
        if head {
            let again = self.head.is_some_and(|at| line.saturating_sub(at) <= HEAD_LINES);
            if self.lines > 0 && !again && !self.just_began() {
                self.begin();
            }
            self.head = Some(line);
        }
        if let Some(boot) = boot {
            self.clock(line, boot);
        }
        self.lines += 1;
        self.last = line;
    }

    /// A clock near its begin: its head has still to come.
    fn just_began(&self) -> bool {
        let of_current = self.clocks.iter().find(|clock| clock.boot == self.current);
        of_current.is_some_and(|clock| clock.latest < NEW_BOOT_NS)
    }

    fn clock(&mut self, line: u64, boot: u64) {
        let current = self.current;
        let goes_on = |clock: &&mut Clock| {
            let near = clock.boot == current || line.saturating_sub(clock.line) <= INTERLEAVED_LINES;
            near && boot.saturating_add(NEW_BOOT_NS) >= clock.latest
        };
        if let Some(clock) = self
            .clocks
            .iter_mut()
            .filter(goes_on)
            .max_by_key(|clock| clock.latest)
        {
            clock.latest = clock.latest.max(boot);
            clock.line = line;
            self.current = clock.boot;
            return;
        }
        if !self.clocks.is_empty() {
            self.boots += 1;
            self.current = self.boots;
            self.head = None;
        }
        if self.clocks.len() >= MAX_CLOCKS {
            self.clocks.remove(0);
        }
        self.clocks.push(Clock {
            boot: self.current,
            latest: boot,
            line,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;

    fn boots(lines: &[(u64, bool)]) -> Vec<u32> {
        let mut boots = Boots::default();
        let numbered = lines.iter().zip(1..);
        numbered
            .map(|((t, head), line)| boots.of_kernel(0, line, Some(t * S), *head).no)
            .collect()
    }

    #[test]
    fn a_boot_begins_where_the_clock_goes_back_or_the_kernel_begins() {
        assert_eq!(
            boots(&[(5, false), (90, false), (1, false), (7, false)]),
            [0, 0, 1, 1]
        );
        assert_eq!(
            boots(&[(0, true), (0, true), (90, false), (0, true), (0, true)]),
            [0, 0, 0, 1, 1]
        );
        // A head that stands behind lines of its own boot.
        assert_eq!(boots(&[(0, false), (0, true), (9, false)]), [0, 0, 0]);
    }

    #[test]
    fn two_clocks_that_interleave_are_two_machines() {
        let lines = [
            (5000, false),
            (12, false),
            (5001, false),
            (13, false),
            (5002, false),
        ];
        assert_eq!(boots(&lines), [0, 1, 0, 1, 0]);
    }

    #[test]
    fn the_journals_marks_are_of_all_programs() {
        let mut boots = Boots::default();
        let host = machine(&[Some(b"h1")]);
        assert_eq!(boots.of_kernel(host, 1, None, false).no, 0);
        assert_eq!(boots.of_program(host), 0);
        boots.mark();
        assert_eq!(boots.of_program(host), 1);
        assert_eq!(
            boots.of_kernel(host, 3, None, true),
            Boot {
                no: 1,
                ended: Some(1)
            },
            "the head of the boot that was marked"
        );
        assert!(is_mark(b"-- Reboot --") && is_mark(b"-- Boot 4c1f08a4a7a44c2ea3b0a5d1f9c0b3d2 --"));
        assert!(!is_mark(b"-- Boot time --") && !is_mark(b"-- Logs begin at Mon --"));
    }
}
