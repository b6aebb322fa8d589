//! Logs as text: each line is what its words say, in whatever file it stands. Host log, VMM log and console
//! are often written into one file, and into one another's lines.

pub mod clock;
mod escapes;
mod guest;
mod journal;
mod kernel;
mod process;
mod qmp;
mod vmm;
pub mod wordings;

use clock::Stamp;
use poisontrace_model::{
    event::log_statement::{LogStatement, MceReport},
    hex::Hex,
    text::sanitise,
};

/// Statements kept of one file; later ones are counted.
const MAX_ITEMS: usize = 16_384;
/// Lines of one machine check's report.
const MAX_REPORT_LINES: u64 = 64;

/// A statement, where it stands and when it was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    pub line: u64,
    pub stamp: Stamp,
    pub statement: LogStatement,
}

/// Reads the lines of one file.
#[derive(Default)]
pub struct Scanner {
    pub items: Vec<Item>,
    /// Statements that found no room.
    pub dropped: u64,
    /// Lines that were some log's.
    pub known: u64,
    /// `Linux version` of the file, and libvirt's word for the host's.
    pub kernel: Option<String>,
    pub host_kernel: Option<String>,
    pub hostname: Option<String>,
    /// The file says that it is a guest's.
    pub guest: bool,
    /// What was recognised, for the answer.
    pub kinds: std::collections::BTreeSet<&'static str>,
    report: Option<(u64, Stamp, MceReport)>,
    journal: journal::Gatherer,
    virsh: qmp::Virsh,
}

impl Scanner {
    pub fn line(&mut self, number: u64, line: &[u8]) {
        let line = &*escapes::strip(line);
        if let Some(entry) = journal::json(number, line) {
            return self.entry(&entry);
        }
        let (field, entry) = self.journal.line(number, line);
        if let Some(entry) = entry {
            self.entry(&entry);
        }
        if !field {
            self.text(number, line, None);
        }
    }

    /// The file is over.
    pub fn finish(&mut self) {
        if let Some(entry) = self.journal.finish() {
            self.entry(&entry);
        }
        self.close_report();
    }

    fn entry(&mut self, entry: &journal::Entry) {
        self.known += 1;
        self.text(entry.line, &entry.message, Some(entry.stamp));
    }

    fn text(&mut self, number: u64, line: &[u8], stamp: Option<Stamp>) {
        let stamp_at = |at: usize| stamp.unwrap_or_else(|| clock::stamp(line, at));
        if let Some((at, said)) = kernel::read(line) {
            self.kinds.insert("kernel log");
            self.add(number, stamp_at(at), from_kernel(said));
            return;
        }
        let mut report = self.report.take();
        let mut fresh = MceReport::default();
        let mce = report.as_mut().map_or(&mut fresh, |(_, _, mce)| mce);
        // A header begins a new report: the old one is kept aside.
        let before = mce.clone();
        match guest::read(line, mce) {
            Some(guest::Line::Begin(at)) => {
                let begun = std::mem::take(mce);
                self.report = report.map(|(first, stamp, _)| (first, stamp, before));
                self.close_report();
                self.kinds.insert("machine checks");
                self.report = Some((number, stamp_at(at), begun));
                return;
            }
            Some(guest::Line::More(_)) => {
                self.report = report;
                return;
            }
            Some(guest::Line::Panic(at, text)) => {
                self.report = report;
                self.kinds.insert("panic");
                self.add(number, stamp_at(at), LogStatement::GuestPanic { text });
                return;
            }
            None => self.report = report,
        }
        if self
            .report
            .as_ref()
            .is_some_and(|(first, _, _)| number.saturating_sub(*first) > MAX_REPORT_LINES)
        {
            self.close_report();
        }
        if let Some((at, said)) = vmm::read(line) {
            self.kinds.insert("VMM log");
            self.add(number, stamp_at(at), said);
        } else if let Some((at, said)) = process::read(line) {
            self.kinds.insert("system log");
            self.add(number, stamp_at(at), said);
        } else if let Some((at, wall, said)) = qmp::read(line).or_else(|| self.virsh.line(line)) {
            self.known += 1;
            self.kinds.insert("QMP events");
            if let Some(said) = said {
                let mut stamp = stamp_at(at);
                stamp.wall = wall.or(stamp.wall);
                stamp.no_year &= wall.is_none();
                self.add(number, stamp, said);
            }
        } else {
            self.about_the_machine(line);
        }
    }

    /// What is no evidence, but says whose log this is.
    fn about_the_machine(&mut self, line: &[u8]) {
        let find = |words: &[u8]| memchr::memmem::find(line, words);
        if find(b" kernel: ").is_some() || matches!(line.first(), Some(b'[' | b'<')) && dated(line) {
            self.known += 1;
        }
        if let Some(at) = find(b"Linux version ") {
            self.known += 1;
            self.kernel = word(&line[at + 14..]);
        } else if find(b"Hypervisor detected: KVM").is_some()
            || find(b"Booting paravirtualized kernel on KVM").is_some()
            || find(b"kvm-clock: Using msrs").is_some()
        {
            self.guest = true;
        } else if let Some(at) = find(b": starting up libvirt version") {
            self.known += 1;
            self.kinds.insert("VMM log");
            let value = |key: &[u8]| {
                let begin = memchr::memmem::find(&line[at..], key)? + at + key.len();
                word(line[begin..].split(|b| *b == b',').next()?)
            };
            self.host_kernel = value(b"kernel: ");
            self.hostname = value(b"hostname: ");
        }
    }

    fn close_report(&mut self) {
        if let Some((line, stamp, mce)) = self.report.take() {
            self.add(line, stamp, LogStatement::GuestMce(mce));
        }
    }

    fn add(&mut self, line: u64, stamp: Stamp, statement: LogStatement) {
        self.known += 1;
        if self.items.len() >= MAX_ITEMS {
            self.dropped += 1;
            return;
        }
        self.items.push(Item {
            line,
            stamp,
            statement,
        });
    }
}

/// Whether a time stands before the line's words, as before a kernel's.
fn dated(line: &[u8]) -> bool {
    let begin = line.len().min(64);
    let stamp = clock::stamp(&line[..begin], begin);
    stamp.boot.is_some() || stamp.wall.is_some()
}

fn from_kernel(line: kernel::Line) -> LogStatement {
    match line {
        kernel::Line::Signal { pfn, comm, pid } => LogStatement::HostSignal {
            pfn: Hex(pfn),
            comm,
            pid,
        },
        kernel::Line::Action {
            pfn,
            page_type,
            result,
        } => LogStatement::HostAction {
            pfn: Hex(pfn),
            page_type,
            result,
        },
        kernel::Line::Kill { pfn, comm, pid } => LogStatement::HostKilled {
            pfn: Hex(pfn),
            comm,
            pid,
        },
        kernel::Line::OwnAccess { comm, pid, hva } => LogStatement::OwnAccess {
            comm,
            pid,
            hva: Hex(hva),
        },
    }
}

fn word(text: &[u8]) -> Option<String> {
    let word = text.split(|b| b.is_ascii_whitespace()).find(|w| !w.is_empty())?;
    Some(sanitise(&String::from_utf8_lossy(word), 128))
}
